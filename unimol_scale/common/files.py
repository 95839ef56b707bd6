"""Files that are complete or absent: temporary name, flush to disk, rename. Imports the standard library only."""

import hashlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path

TEMPORARY_SUFFIX = ".tmp"
READ_CHUNK = 1 << 20


def commit_file(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file so that it is complete or absent: temporary name, flush to disk, rename, flush the directory.

    Args:
        path: final name; its directory is made.
        write: writes the content to the path that it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}")
    try:
        write(temporary)
        flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    flush(path.parent)


def commit_text(path: Path, text: str) -> None:
    """Write a text file, complete or absent."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    commit_file(path, write)


def flush(path: Path) -> None:
    """Force a file or a directory entry to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(READ_CHUNK):
            digest.update(block)
    return digest.hexdigest()
