"""Reads and writes files that hold one JSON object; writes are complete or leave nothing."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unimol_scale.common.files import commit_text


class NotJsonError(ValueError):
    """A file holds no JSON object. The text says why; it continues a sentence that begins with the file's name."""


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        OSError: the file cannot be read.
        NotJsonError: the file does not hold a JSON object.
    """
    try:
        tree: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # RecursionError: brackets nested too deeply
        raise NotJsonError(f"is not JSON: {error}") from error
    if not isinstance(tree, dict):
        raise NotJsonError(f"must hold a JSON object, not a {type(tree).__name__}")
    return tree


def write_json(path: Path, tree: Mapping[str, Any], indent: int | None = 1) -> None:
    """Write a JSON file, complete or absent.

    Args:
        path: the file; its directory is made.
        tree: the object to write.
        indent: spaces per level; None writes a single line.
    """
    commit_text(path, json.dumps(tree, indent=indent) + "\n")


def hash_json(tree: Mapping[str, Any] | Sequence[Any]) -> str:
    """Return the SHA-256 of a tree as JSON, hexadecimal, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
