"""Turns a Markdown report into a single HTML file with its pictures embedded.

The page has no scripts and loads nothing from elsewhere, so it can be sent by mail. Imports markdown-it on first use.
"""

import base64
import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unimol_scale.common.report.pictures import png_width

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

WIDE_PICTURE = 600  # pixels from which a picture is not shrunk to a phone's screen
_MEDIA_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}
_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #222; background: #fff;
  max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.35rem; line-height: 1.35; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
h1, h2 { border-bottom: 1px solid #e3e3e3; padding-bottom: .3rem; }
img { max-width: 100%; height: auto; }
.wide { display: block; overflow-x: auto; }
code { font-size: .85em; background: #f3f4f6; border-radius: 3px; padding: .1em .3em; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { border: 1px solid #e3e3e3; padding: .35rem .6rem; text-align: left; vertical-align: top; }
th { background: #f7f7f8; }
.cards img { display: block; min-width: 9rem; max-width: min(28rem, 90vw); }
.pairs img { width: 10rem; }
@media (max-width: 45rem) {
  .cards table, .cards tbody, .cards tr, .cards td { display: block; }
  .cards thead { display: none; }
  .wide img { max-width: none; width: calc(.7 * var(--natural)); }
  .pairs img { width: auto; }
  .cards tr { border: 1px solid #ccc; border-radius: 6px; margin: 0 0 1rem; padding: .3rem .6rem; }
  .cards td { border: 0; padding: .15rem 0; }
  .cards td::before { content: attr(data-label) ": "; color: #666; font-size: .8rem; }
}
"""


def html_page(markdown: str, folder: Path) -> str:
    """Return the HTML page of a report.

    Tables become scrollable. On a narrow screen, such as a phone's, tables with pictures become cards and wide pictures
    scroll, since their words would be too small to read if they were shrunk to the screen.

    Args:
        markdown: CommonMark with tables. HTML in it is shown as text, since names in a report may come from anywhere.
        folder: the folder that picture paths are relative to; its PNG and SVG files are embedded.

    Raises:
        OSError: a picture cannot be read.
    """
    reader = _reader(folder)
    tokens = reader.parse(markdown)
    for table in _tables(tokens):
        _prepare_table(table)
    body = reader.renderer.render(tokens, reader.options, {})
    title = next((tokens[at + 1].content for at, one in enumerate(tokens) if one.type == "heading_open"), "report")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )


def _reader(folder: Path) -> "MarkdownIt":
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    renderer: Any = reader.renderer  # of HTML, which is the default
    rules = renderer.rules
    draw = rules["image"]

    def image(tokens: Sequence["Token"], at: int, options: Any, env: Any) -> str:  # noqa: ANN401
        source = str(tokens[at].attrs["src"])
        if ":" in source:  # a URL: the page must not load anything
            return html.escape(source)
        content = (folder / source).read_bytes()
        tokens[at].attrs["src"] = _embedded(content, Path(source).suffix)
        drawn, width = str(draw(tokens, at, options, env)), png_width(content)
        if width is None or width < WIDE_PICTURE:
            return drawn
        return f'<span class="wide" style="--natural: {width}px">{drawn}</span>'

    rules["image"] = image
    rules["table_open"] = lambda tokens, at, *_: f'<div class="{tokens[at].attrs["class"]}"><table>\n'
    rules["table_close"] = lambda *_: "</table></div>\n"
    return reader


def _embedded(content: bytes, suffix: str) -> str:
    return f"data:{_MEDIA_TYPES[suffix]};base64,{base64.b64encode(content).decode()}"


def _tables(tokens: Sequence["Token"]) -> Iterator[Sequence["Token"]]:
    """Yield the tokens of each table."""
    starts = [at for at, token in enumerate(tokens) if token.type == "table_open"]
    ends = [at for at, token in enumerate(tokens) if token.type == "table_close"]
    for start, end in zip(starts, ends, strict=True):
        yield tokens[start : end + 1]


def _prepare_table(table: Sequence["Token"]) -> None:
    """Say of which kind it is, and give each cell the title of its column, which a card shows.

    Where a row has several pictures they are small, so that the table is not wider than the page.
    """
    header = [table[at + 1].content for at, token in enumerate(table) if token.type == "th_open"]
    drawn = [sum(child.type == "image" for child in token.children or ()) for token in table]
    has_pictures, rows = any(drawn), sum(token.type == "tr_open" for token in table) - 1
    kinds = ["scroll", *(["cards"] if has_pictures else []), *(["pairs"] if sum(drawn) > rows else [])]
    table[0].attrs["class"] = " ".join(kinds)
    if has_pictures:
        cells = [token for token in table if token.type == "td_open"]
        for place, cell in enumerate(cells):
            cell.attrs["data-label"] = header[place % len(header)]
