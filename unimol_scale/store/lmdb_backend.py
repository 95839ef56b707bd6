"""LMDB shards: one file whose values are blocks of molecules in the Arrow columns. Imports LMDB and Arrow only.

Keys: the first row of a block as 8 big-endian bytes; ``schema`` (Arrow schema message); ``num_atoms`` and
``num_conformers`` (little-endian int32 for all rows, so that sizes are known without decoding records); ``block_rows``
(decimal), the number of molecules in every block except the last.
"""

import os
import threading
import weakref
from pathlib import Path

import lmdb
import numpy as np
import pyarrow as pa

from unimol_scale.errors import StoreError
from unimol_scale.store.arrow_backend import ColumnViews
from unimol_scale.store.schema import Int32, Int64, Layout, arrow_schema

SUFFIX = ".lmdb"
SCHEMA_KEY = b"schema"
NUM_ATOMS_KEY = b"num_atoms"
NUM_CONFORMERS_KEY = b"num_conformers"
BLOCK_ROWS_KEY = b"block_rows"
INT32 = np.dtype("<i4")
PAGE = 4096
# Each block costs about 2 kB of message header and page padding; reading one molecule decodes its whole block.
BLOCK_ROWS = 64
# LMDB lets a process open a file only once. A user may read a store that is also being trained on, so shards share the
# open file. Device and inode identify it, since a store may be rebuilt under its old name.
_open_files: "weakref.WeakValueDictionary[tuple[int, int, int], lmdb.Environment]" = weakref.WeakValueDictionary()
_opening = threading.Lock()


class LmdbShard:
    """An LMDB shard, open for reading. It takes no locks, because a committed shard never changes.

    Args:
        path: the shard file.
        layout: layout of the store's records, from its manifest.

    Raises:
        StoreError: the file is not an LMDB file with the expected keys.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        self._path = path
        self._schema = arrow_schema(layout)
        self._environment: lmdb.Environment | None = _opened(path)
        if self._get([SCHEMA_KEY])[0] != self._schema.serialize().to_pybytes():
            raise StoreError(f"the columns of {path} do not match the store's schema")
        self._block_rows = int(self._get([BLOCK_ROWS_KEY])[0])
        self.num_atoms: Int32 = np.frombuffer(self._get([NUM_ATOMS_KEY])[0], INT32)
        self.num_conformers: Int32 = np.frombuffer(self._get([NUM_CONFORMERS_KEY])[0], INT32)

    def _get(self, keys: list[bytes]) -> list[bytes]:
        values: list[bytes] = []
        assert self._environment is not None, f"{self._path} was closed"
        try:
            with self._environment.begin() as transaction:
                for key in keys:
                    value = transaction.get(key)
                    if value is None:
                        raise StoreError(f"{self._path} has no key {key!r}")
                    values.append(value)
        except lmdb.Error as error:
            raise StoreError(f"{self._path} is damaged: {error}") from error
        return values

    def sizes(self, rows: Int64) -> tuple[Int32, Int32]:
        """Return the atoms and the conformers of the molecules ``rows`` [B]."""
        return self.num_atoms[rows], self.num_conformers[rows]

    def views(self, rows: Int64) -> tuple[ColumnViews, Int64]:
        """Decode the blocks that hold the molecules ``rows`` [B]; return the columns and each molecule's row there."""
        numbers, block_of_row = np.unique(rows // self._block_rows, return_inverse=True)
        values = self._get([block_key(number) for number in (numbers * self._block_rows).tolist()])
        try:
            batches = [pa.ipc.read_record_batch(pa.py_buffer(value), self._schema) for value in values]
        except (pa.ArrowInvalid, OSError) as error:
            raise StoreError(f"{self._path} contains a block that cannot be decoded: {error}") from error
        starts = np.cumsum([0, *(batch.num_rows for batch in batches)], dtype=np.int64)
        return ColumnViews.of(pa.concat_batches(batches)), starts[block_of_row] + rows % self._block_rows

    def close(self) -> None:
        """Close the file; it is unmapped once nothing in this process reads it any more."""
        self._environment = None


def _opened(path: Path) -> lmdb.Environment:
    try:
        status = path.stat()
    except OSError as error:
        raise StoreError(f"{path} is not a readable LMDB shard: {error}") from error
    key = (os.getpid(), status.st_dev, status.st_ino)
    with _opening:
        environment = _open_files.get(key)
        if environment is None:
            try:
                environment = lmdb.open(
                    str(path), subdir=False, readonly=True, lock=False, readahead=False, max_readers=1
                )
            except lmdb.Error as error:
                raise StoreError(f"{path} is not a readable LMDB shard: {error}") from error
            _open_files[key] = environment
        return environment


def block_key(first_row: int) -> bytes:
    """Return the key of the block that starts at ``first_row``; sorting keys by bytes sorts blocks by row."""
    return first_row.to_bytes(8, "big")


def write(path: Path, batch: pa.RecordBatch) -> None:
    """Write one batch as an LMDB file, in one transaction and in key order, so that equal batches give equal bytes."""
    firsts = range(0, batch.num_rows, BLOCK_ROWS)
    blocks = [batch.slice(first, BLOCK_ROWS).serialize() for first in firsts]
    # Values over half a page take whole pages of their own. The file is sparse, so a generous map size costs nothing.
    map_size = 64 * PAGE + 8 * batch.num_rows + sum(2 * PAGE + block.size for block in blocks)
    environment = lmdb.open(str(path), subdir=False, lock=False, map_size=map_size, sync=False)
    views = ColumnViews.of(batch)
    try:
        with environment.begin(write=True) as transaction:
            for first, block in zip(firsts, blocks, strict=True):
                transaction.put(block_key(first), block, append=True)
            transaction.put(NUM_ATOMS_KEY, np.diff(views.atom_offsets).astype(INT32).tobytes())
            transaction.put(NUM_CONFORMERS_KEY, np.diff(views.conformer_offsets).astype(INT32).tobytes())
            transaction.put(BLOCK_ROWS_KEY, str(BLOCK_ROWS).encode())
            transaction.put(SCHEMA_KEY, batch.schema.serialize().to_pybytes())
        environment.sync(True)
    except lmdb.Error as error:
        raise StoreError(f"{path} cannot be written: {error}") from error
    finally:
        environment.close()
