"""Where the text of a benchmark goes: into a file, or to standard output."""

from pathlib import Path


def deliver(text: str, path: Path | None) -> None:
    """Write the text to a file, whose folder is made; print it if there is none."""
    if path is None:
        print(text)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
