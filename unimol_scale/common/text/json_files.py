"""Files that hold one JSON object: read with a reason where they hold none, written complete or not at all."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unimol_scale.common.files import commit_text


class NotJsonError(ValueError):
    """A file holds no JSON object; the text says why and reads on from the name of the file."""


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        OSError: it cannot be read.
        NotJsonError: it holds something else.
    """
    try:
        tree: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # RecursionError: a thousand brackets
        raise NotJsonError(f"is not JSON: {error}") from error
    if not isinstance(tree, dict):
        raise NotJsonError(f"must hold a JSON object, not a {type(tree).__name__}")
    return tree


def write_json(path: Path, tree: Mapping[str, Any], indent: int | None = 1) -> None:
    """Write a JSON file, complete or absent.

    Args:
        path: of the file; its directory is made.
        tree: what it is to hold.
        indent: spaces a level; None: all in one line.
    """
    commit_text(path, json.dumps(tree, indent=indent) + "\n")


def hash_json(tree: Mapping[str, Any] | Sequence[Any]) -> str:
    """Return the SHA-256 of a tree as JSON, hexadecimal, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
