"""Reads files with one JSON object per line; tolerates lines damaged by a killed process or a full disk."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class JsonLine:
    """A line that is not empty.

    Attributes:
        number: line number in the file, from 1.
        raw: the bytes of the line, without the line break.
        value: the JSON object in the line; None if there is none.
    """

    number: int
    raw: bytes
    value: dict[str, Any] | None


def read_json_lines(path: Path) -> Iterator[JsonLine]:
    """Yield the lines of a file, including damaged ones; skip empty lines.

    NaN and Infinity, which are not valid JSON, are read as None.

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
    except (ValueError, RecursionError):  # an incomplete line, not UTF-8, or zeros after a power failure
        return None
    return value if isinstance(value, dict) else None
