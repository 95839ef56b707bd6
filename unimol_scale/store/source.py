"""Where the shard files of a store come from: a directory, or whatever else has this interface (see remote.py).

Imports only the project.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from unimol_scale.errors import StoreError
from unimol_scale.store.manifest import ShardEntry

# Open at a time by one process; each costs a file descriptor, and systems often allow 1,024.
MAX_OPEN = 256


class ShardSource(Protocol):
    """A way to the files of shards. It travels to other processes."""

    @property
    def location(self) -> str:
        """Directory or URL, to be named in messages."""

    @property
    def max_open(self) -> int:
        """Most shards that one process keeps open."""

    def holding(self, entry: ShardEntry) -> contextlib.AbstractContextManager[Path]:
        """Return a context in which the file of a shard is there to be opened.

        Raises:
            StoreError: it is missing, damaged or cannot be had.
        """

    def prefetch(self, entries: Sequence[ShardEntry]) -> None:
        """Learn which shards are needed next, in that order, and return at once."""


class LocalShards:
    """The shards of a store on disk.

    Args:
        path: the store.
    """

    max_open = MAX_OPEN

    def __init__(self, path: Path) -> None:
        self._path = path
        self.location = str(path)

    def holding(self, entry: ShardEntry) -> contextlib.AbstractContextManager[Path]:
        """Return the file; see ``ShardSource``."""
        file = self._path / entry.file
        size = file.stat().st_size if file.is_file() else None
        if size != entry.bytes:
            found = "is missing" if size is None else f"has {size} bytes instead of {entry.bytes}"
            raise StoreError(
                f"shard {file} {found}; copy this file again, or rebuild the store "
                f"(unimol-scale store verify {self._path} checks the others)"
            )
        return contextlib.nullcontext(file)

    def prefetch(self, entries: Sequence[ShardEntry]) -> None:
        """All is there already."""
