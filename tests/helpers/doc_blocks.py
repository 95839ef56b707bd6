"""Finds the fenced code blocks of the documentation pages.

A block of ``bash`` or ``python`` without a title is run by tests.helpers.doc_pages. A title says why it is not: what it
needs, or how long it takes.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md"))
# What a title may begin with.
REASONS = ("needs ", "takes ", "with your own data", "opens a server")
_FENCE = re.compile(r'^```(\w+)?(?: title="([^"]*)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
        page: its file.
        line: of its first fence, from 1.
        language: "" if none is given.
        title: "" without one.
        text: what stands between the fences.
    """

    page: Path
    line: int
    language: str
    title: str
    text: str

    @property
    def is_run(self) -> bool:
        """Whether the tests run it."""
        return self.language in ("bash", "python") and not self.title


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page in their order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found[1] or "", found[2] or "", found[3])
        for found in _FENCE.finditer(text)
    ]


def commands(block: Block) -> list[list[str]]:
    """Return the words of every command in a block of bash; lines that end in a backslash are joined."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]
