"""Where the shard files of a store come from: a directory, or another implementation (see remote.py).

Imports only the project.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from unimol_scale.errors import StoreError
from unimol_scale.store.manifest import ShardEntry

# Shards that one process keeps open. Each costs a file descriptor, and systems often allow 1,024.
MAX_OPEN = 256


class ShardSource(Protocol):
    """Gives access to shard files. Instances are pickled to other processes."""

    @property
    def location(self) -> str:
        """Directory or URL, for messages."""

    @property
    def max_open(self) -> int:
        """Upper limit on the shards that one process keeps open."""

    def holding(self, entry: ShardEntry) -> contextlib.AbstractContextManager[Path]:
        """Return a context in which the shard's file exists locally and can be opened.

        Raises:
            StoreError: the shard is missing, damaged or cannot be downloaded.
        """

    def prefetch(self, entries: Sequence[ShardEntry]) -> None:
        """Note which shards will be needed next, in that order, and return at once."""


class LocalShards:
    """The shards of a store on disk.

    Args:
        path: directory of the store.
    """

    max_open = MAX_OPEN

    def __init__(self, path: Path) -> None:
        self._path = path
        self.location = str(path)

    def holding(self, entry: ShardEntry) -> contextlib.AbstractContextManager[Path]:
        """Provide the file; see ``ShardSource``."""
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
        """Do nothing: all shards are on disk."""
