"""What MkDocs calls while it builds the site: adds pages made from code and notebooks, and files that pages link to.

A page may link to any file of the repository by its relative path, as it would when it is read in a checkout. In the
site such a file becomes a page of its own under ``repository/``, or, where the site knows its repository's address,
the link leads there.
"""

import os
import posixpath
import re
from pathlib import Path
from typing import Any

import notebook_pages
import reference_pages
from mkdocs.structure.files import File, Files
from mkdocs.utils import get_relative_url

from unimol_scale.common.report.html_page import WIDE_PICTURE
from unimol_scale.common.report.pictures import png_width

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
# A link or a picture of Markdown to something that is neither an address nor an anchor of the same page.
LINK = re.compile(r"(\]\()(?![a-z]+:|#|<)([^)\s#]+)(#[^)\s]*)?(\))")
PICTURE = re.compile(r'<img [^>]*src="([^"]+)"[^>]*>')
CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
# Material loads this script from another host for sites that are opened as files; ours is a copy.
SHIM, OUR_SHIM = "https://unpkg.com/iframe-worker/shim", "assets/iframe-worker.js"
COPIED_AS_THEY_ARE = {".png", ".svg", ".jpg", ".parquet"}
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".sh": "bash", ".json": "json", ".toml": "toml"}


def on_files(files: Files, config: Any, **_: Any) -> Files:  # noqa: ANN401
    """Add the generated pages, then every file of the repository that a page links to, and what those link to."""
    for path, text in reference_pages.pages().items():
        files.append(File.generated(config, path, content=text))
    for path, content in notebook_pages.pages(DOCS / "notebooks", "notebooks"):
        files.append(File.generated(config, path, content=content))
    if config["repo_url"]:
        return files
    waiting = [DOCS / file.src_uri for file in files.documentation_pages() if (DOCS / file.src_uri).exists()]
    done: set[Path] = set()
    while waiting:
        page = waiting.pop()
        for target in _linked(page) - done:
            done.add(target)
            uri = _uri(target)
            if target.suffix in COPIED_AS_THEY_ARE:
                files.append(File.generated(config, uri, abs_src_path=str(target)))
                continue
            text = target.read_text(encoding="utf-8")
            if target.suffix == ".md":
                waiting.append(target)
            else:
                name = target.relative_to(REPOSITORY).as_posix()
                text = f"# {name}\n\n````{LANGUAGES.get(target.suffix, 'text')}\n{text}\n````\n"
            files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:  # noqa: ANN401
    """Fill in the keys of law.json, and turn links to files outside of docs/ into links that work in the site."""
    markdown = markdown.replace("@@LAW_JSON_KEYS@@", reference_pages.law_json_keys())
    uri = page.file.src_uri
    source = _source(uri)

    def turned(match: "re.Match[str]") -> str:
        target = (source.parent / match[2]).resolve()
        if not _is_of_repository(target):
            if uri.startswith("repository/") and target.is_relative_to(DOCS) and target.exists():
                link = posixpath.relpath(target.relative_to(DOCS).as_posix(), posixpath.dirname(uri))
                return f"{match[1]}{link}{match[3] or ''}{match[4]}"
            return match[0]
        if config["repo_url"]:
            name = target.relative_to(REPOSITORY).as_posix()
            return f"{match[1]}{config['repo_url'].rstrip('/')}/blob/main/{name}{match[3] or ''}{match[4]}"
        return f"{match[1]}{posixpath.relpath(_uri(target), posixpath.dirname(uri) or '.')}{match[3] or ''}{match[4]}"

    # What stands in code is no link, though a SMILES may look like one.
    parts = CODE.split(markdown)
    return "".join(part if CODE.fullmatch(part) else LINK.sub(turned, part) for part in parts)


def on_page_content(html: str, page: Any, files: Files, **_: Any) -> str:  # noqa: ANN401
    """Let wide pictures scroll on a phone, as in our reports: shrunk to its screen, their words could not be read."""
    by_place = {file.dest_uri: file for file in files}

    def wrapped(match: "re.Match[str]") -> str:
        place = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.dest_uri), match[1]))
        width = png_width(by_place[place].content_bytes) if place in by_place else None
        if width is None or width < WIDE_PICTURE:
            return match[0]
        return f'<span class="wide" style="--natural: {width}px">{match[0]}</span>'

    return PICTURE.sub(wrapped, html)


def on_post_page(output: str, page: Any, **_: Any) -> str:  # noqa: ANN401
    """Take the one script that Material would fetch from elsewhere from the site itself."""
    return output.replace(SHIM, get_relative_url(OUR_SHIM, page.url))


def on_post_template(output_content: str, **_: Any) -> str:  # noqa: ANN401
    """Do the same for the page that says that there is no such page."""
    return output_content.replace(SHIM, f"/{OUR_SHIM}")


def _linked(page: Path) -> set[Path]:
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    targets = {(page.parent / match[2]).resolve() for match in LINK.finditer(text)}
    return {target for target in targets if _is_of_repository(target) and target.is_file()}


def _is_of_repository(path: Path) -> bool:
    """Whether a path is a file or folder of the repository that is not part of docs/ already."""
    return path.exists() and path.is_relative_to(REPOSITORY) and not path.is_relative_to(DOCS)


def _uri(path: Path) -> str:
    """Return where a file of the repository stands in the site."""
    name = path.relative_to(REPOSITORY).as_posix()
    keeps_its_name = path.suffix in COPIED_AS_THEY_ARE or path.suffix == ".md"
    return f"repository/{name}" if keeps_its_name else f"repository/{name}.md"


def _source(uri: str) -> Path:
    """Return the file in the checkout that a page of the site was made from."""
    if not uri.startswith("repository/"):
        return DOCS / uri
    path = REPOSITORY / uri.removeprefix("repository/")
    return path if path.exists() else path.with_suffix("")


os.environ.setdefault("NO_MKDOCS_2_WARNING", "1")
