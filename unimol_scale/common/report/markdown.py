"""Tables and lines in Markdown, whatever they hold. Imports the standard library only."""

import re
from collections.abc import Iterable, Sequence

_MARKS = re.compile(r"\[(?=[^\[\]]*\]\()|\*")  # that begin a link, or emphasis


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table; vertical bars in cells are escaped."""
    return [_line(header), _line(["---"] * len(header)), *map(_line, rows)]


def markdown_line(text: str) -> str:
    """Return a message as Markdown that shows it as it is: the SMILES O=[N+]([O-])C is no link. Code stays code."""
    parts = text.split("`")
    return "`".join(part if place % 2 else _MARKS.sub(r"\\\g<0>", part) for place, part in enumerate(parts))


def _line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"
