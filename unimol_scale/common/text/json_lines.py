"""Reads files of one JSON object a line, and survives what a kill, a full disk or a lost block left in them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class JsonLine:
    """One line that is not empty.

    Attributes:
        number: of the line in the file, from 1.
        raw: its bytes, without the line break.
        value: the object that it holds; None when it holds none.
    """

    number: int
    raw: bytes
    value: dict[str, Any] | None


def read_json_lines(path: Path) -> Iterator[JsonLine]:
    """Yield the lines of a file, damaged ones included; empty lines are left out.

    The numbers that JSON does not have (NaN, Infinity) are read as None.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            stripped = raw.strip()
            if stripped:
                yield JsonLine(number, raw.removesuffix(b"\n").removesuffix(b"\r"), _object(stripped))


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError):  # torn, not UTF-8, zeros after a power failure
        return None
    return value if isinstance(value, dict) else None
