"""Turns executed notebooks into pages of the site: Markdown, with one file for each picture.

The text of a notebook is Markdown already. A cell of code becomes a block of code, and its outputs follow it. The
notebook itself stays in the site beside its page, so that readers can download it.
"""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_COLUMNS = re.compile(r"\S {2,}\S")  # a table made with spaces, whose lines must not be wrapped
# A link from one notebook to another.
_NOTEBOOK_LINK = re.compile(r"(\]\([^)\s#]*)\.ipynb([)#])")


def pages(folder: Path, uri: str) -> Iterator[tuple[str, str | bytes]]:
    """Yield the path in the site of every page and every picture of the notebooks in a folder, with its content.

    Args:
        folder: of the notebooks.
        uri: of that folder in the site.

    Raises:
        ValueError: a notebook was not executed, a cell of it failed, or an output is neither text nor a picture.
    """
    for path in sorted(folder.glob("*.ipynb")):
        lines: list[str] = []
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for number, cell in enumerate(cells):
            text = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                lines += [_NOTEBOOK_LINK.sub(r"\1.md\2", text), ""]
                if number == 0:
                    lines += [f"[Download this notebook]({path.name}){{ download }}", ""]
                continue
            if cell["execution_count"] is None:
                raise ValueError(
                    f"{path}: cell {number} was not executed: run python -m tests.helpers.notebooks {path.stem}"
                )
            lines += ["```python", text, "```", ""]
            for place, output in enumerate(cell["outputs"]):
                picture = _picture(output)
                if picture is None:
                    text = _text(output, path, number).rstrip()
                    kinds = ".output .columns" if _COLUMNS.search(text) else ".output"
                    lines += [f"``` {{ .text .no-copy {kinds} }}", text, "```", ""]
                else:
                    name = f"{path.stem}-{number}-{place}.png"
                    yield f"{uri}/{name}", picture
                    lines += [f"![Output of the code above]({name})", ""]
        yield f"{uri}/{path.stem}.md", "\n".join(lines)


def _picture(output: dict[str, Any]) -> bytes | None:
    """Return the PNG file of an output; None if it has none."""
    encoded = output.get("data", {}).get("image/png")
    return None if encoded is None else base64.b64decode("".join(encoded))


def _text(output: dict[str, Any], path: Path, number: int) -> str:
    """Return the text of an output."""
    if output["output_type"] == "stream":
        return "".join(output["text"])
    if output["output_type"] == "error":
        raise ValueError(f"{path}: cell {number} failed: {output['ename']}: {output['evalue']}")
    text = output["data"].get("text/plain")
    if text is None or "text/html" in output["data"]:
        raise ValueError(f"{path}: cell {number} shows {', '.join(output['data'])}; the site takes text and PNG only")
    return "".join(text)
