"""A store: open it, gather molecules from it, commit shards to it. Imports the backends, NumPy and Arrow."""

import collections
import contextlib
import enum
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from unimol_scale.common.files import commit_file, commit_text, hash_file
from unimol_scale.errors import StoreError, nearest
from unimol_scale.store import arrow_backend, lmdb_backend
from unimol_scale.store.arrow_backend import ColumnViews
from unimol_scale.store.manifest import (
    MANIFEST_NAME,
    Backend,
    Manifest,
    ShardEntry,
    SplitEntry,
    read_manifest,
)
from unimol_scale.store.schema import (
    LABEL_PREFIX,
    ConformerOrigin,
    ConformerStereo,
    Int32,
    Int64,
    Layout,
    MoleculeColumns,
    MoleculeRecord,
    arrow_schema,
)
from unimol_scale.store.source import LocalShards, ShardSource

BACKENDS: dict[Backend, Any] = {"arrow": arrow_backend, "lmdb": lmdb_backend}


class Shard(Protocol):
    """The reading interface of a backend."""

    @property
    def num_atoms(self) -> Int32:
        """Atoms of each molecule, int32 [R]."""

    @property
    def num_conformers(self) -> Int32:
        """Conformers of each molecule, int32 [R]."""

    def sizes(self, rows: Int64) -> tuple[Int32, Int32]:
        """Return the atoms and the conformers of the molecules ``rows`` [B]."""

    def views(self, rows: Int64) -> tuple[ColumnViews, Int64]:
        """Return columns that contain the molecules ``rows`` [B], and the row of each in these columns, [B]."""

    def close(self) -> None:
        """Release the file."""


def open_shard(path: Path, backend: Backend, layout: Layout) -> Shard:
    """Open one shard for reading.

    Raises:
        StoreError: the file is not a shard of that backend.
    """
    opener = arrow_backend.ArrowShard if backend == "arrow" else lmdb_backend.LmdbShard
    return opener(path, layout)


class StoreSplit:
    """The molecules of one split, numbered from 0 in store order. Can be pickled: each process reopens the files.

    Args:
        source: where the shard files come from.
        entry: the split's shards.
        backend: format of the shards.
        layout: layout of the records.

    Attributes:
        entry: the split's shards.
    """

    def __init__(self, source: ShardSource, entry: SplitEntry, backend: Backend, layout: Layout) -> None:
        self._source = source
        self.entry = entry
        self._backend: Backend = backend
        self._layout = layout
        # First row of each shard, then the total number of rows.
        self._bounds: Int64 = np.cumsum([0, *(shard.rows for shard in entry.shards)], dtype=np.int64)
        # Open shards by number; the most recently used comes last.
        self._open: dict[int, Shard] = {}
        self._owner = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def __len__(self) -> int:
        return int(self._bounds[-1])

    def _shard(self, number: int) -> Shard:
        if self._owner != os.getpid():  # an LMDB environment must not cross a fork
            self._open, self._owner = {}, os.getpid()
        shard = self._open.pop(number, None)
        if shard is None:
            while len(self._open) >= self._source.max_open:
                self._open.pop(next(iter(self._open))).close()
            with self._source.holding(self.entry.shards[number]) as file:
                shard = open_shard(file, self._backend, self._layout)
        self._open[number] = shard
        return shard

    def prefetch(self, numbers: Iterable[int]) -> None:
        """Tell the source which shards are needed next, in that order."""
        self._source.prefetch([self.entry.shards[number] for number in numbers])

    @property
    def num_atoms(self) -> Int32:
        """Atoms of every molecule, int32 [M]."""
        return self._collect(lambda shard: shard.num_atoms)

    @property
    def num_conformers(self) -> Int32:
        """Conformers of every molecule, int32 [M]."""
        return self._collect(lambda shard: shard.num_conformers)

    def _collect(self, column: Callable[[Shard], Int32]) -> Int32:
        parts = [column(self._shard(number)) for number in range(len(self.entry.shards))]
        return np.concatenate([np.zeros(0, np.int32), *parts])

    def sizes(self, indices: Int64) -> tuple[Int32, Int32]:
        """Return the atoms and conformers of the molecules ``indices`` [B], each int32 [B]. This opens their shards."""
        num_atoms, num_conformers = (np.empty(len(indices), np.int32) for _ in range(2))
        for positions, shard, rows in self._by_shard(indices):
            num_atoms[positions], num_conformers[positions] = shard.sizes(rows)
        return num_atoms, num_conformers

    def _by_shard(self, indices: Int64) -> Iterator[tuple[Int64, Shard, Int64]]:
        """Yield, for each shard involved: positions in ``indices``, the shard, and the rows in it."""
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"molecule indices must be in [0, {len(self)}), got {indices.min()}…{indices.max()}")
        numbers = np.searchsorted(self._bounds, indices, side="right") - 1
        for number in np.unique(numbers).tolist():
            positions = np.flatnonzero(numbers == number)
            yield positions, self._shard(number), indices[positions] - self._bounds[number]

    def _locate(self, indices: Int64) -> Iterator[tuple[Int64, ColumnViews, Int64]]:
        """Yield, for each shard involved: positions in ``indices``, columns, and the rows in those columns."""
        for positions, shard, rows in self._by_shard(indices):
            yield positions, *shard.views(rows)

    def gather(self, indices: Int64, conformers: Int64 | None = None) -> MoleculeColumns:
        """Return molecules in the order asked for.

        Args:
            indices: [B] molecules; repeats are allowed; B ≥ 1.
            conformers: [B] conformer of each molecule; None takes the first.

        Raises:
            IndexError: a molecule or conformer does not exist.
            StoreError: a shard is missing or damaged.
        """
        indices = np.asarray(indices, np.int64)
        assert len(indices) > 0, "gather needs at least one molecule"
        chosen = np.zeros(len(indices), np.int64) if conformers is None else np.asarray(conformers, np.int64)
        parts, order = [], []
        for positions, views, rows in self._locate(indices):
            available = views.conformer_offsets[rows + 1] - views.conformer_offsets[rows]
            if np.any(wrong := (chosen[positions] < 0) | (chosen[positions] >= available)):
                at = positions[wrong][0]
                raise IndexError(
                    f"molecule {indices[at]} has {available[wrong][0]} conformers, so there is no conformer "
                    f"{chosen[at]}"
                )
            parts.append(views.gather(rows, chosen[positions], self._layout.coordinate_scale))
            order.append(positions)
        if len(parts) == 1:
            return parts[0]
        return MoleculeColumns.concatenate(parts).take(np.argsort(np.concatenate(order), kind="stable"))

    def records(self, indices: Int64) -> list[MoleculeRecord]:
        """Return molecules with all their conformers, in the order asked for.

        Args:
            indices: [B] molecules; repeats are allowed.

        Raises:
            IndexError: a molecule does not exist.
            StoreError: a shard is missing or damaged.
        """
        found: dict[int, MoleculeRecord] = {}
        for positions, views, rows in self._locate(np.asarray(indices, np.int64)):
            for position, row in zip(positions.tolist(), rows.tolist(), strict=True):
                found[position] = views.record(row, self._layout.coordinate_scale)
        return [found[position] for position in range(len(found))]

    def _text(self, indices: Int64, column: str) -> list[str]:
        values = [""] * len(indices)
        for positions, views, rows in self._locate(np.asarray(indices, np.int64)):
            for position, text in zip(positions, views.batch[column].take(pa.array(rows)).to_pylist(), strict=True):
                values[position] = text
        return values

    def ids(self, indices: Int64) -> list[str]:
        """Return the source's names of the molecules ``indices`` [B]."""
        return self._text(indices, "id")

    def smiles(self, indices: Int64) -> list[str]:
        """Return the canonical SMILES of the molecules ``indices`` [B]; the records list atoms in the same order."""
        return self._text(indices, "smiles")

    def column(self, name: str) -> pa.ChunkedArray:
        """Return one whole column of the split, such as "scaffold", in store order. LMDB reads every record for it."""
        chunks = []
        for number, entry in enumerate(self.entry.shards):
            views, _ = self._shard(number).views(np.arange(entry.rows))
            chunks.append(views.batch[name])
        return pa.chunked_array(chunks, arrow_schema(self._layout).field(name).type)


class Store:
    """A finished store. Open one with ``open_store``.

    Attributes:
        path: its directory; for a remote store, its cache directory.
        location: its directory or URL, for messages.
        manifest: the content of ``manifest.json``.
        manifest_sha256: hash of ``manifest.json``. It identifies the data of a run, since it covers the hash of every
            shard.

    Args:
        source: where its files come from; None means the directory itself.
    """

    def __init__(self, path: Path, manifest: Manifest, text: str, source: ShardSource | None = None) -> None:
        self.path = path
        self._source = source or LocalShards(path)
        self.location = str(path) if source is None else source.location
        self.manifest = manifest
        self.manifest_sha256 = hashlib.sha256(text.encode()).hexdigest()

    def split(self, name: str) -> StoreSplit:
        """Return "train" or "valid".

        Raises:
            StoreError: the store has no such split.
        """
        if name not in self.manifest.splits:
            raise StoreError(f"the store at {self.path} has no split {name!r}; {nearest(name, self.manifest.splits)}")
        manifest = self.manifest
        return StoreSplit(self._source, manifest.splits[name], manifest.backend, manifest.layout)


def open_store(path: Path | str) -> Store:
    """Open a finished store for reading; its files are opened when first needed.

    Raises:
        StoreError: the store is missing, unfinished, or has an unsupported schema version.
    """
    path = Path(path)
    return Store(path, *read_manifest(path))


def write_shard(root: Path, file: str, batch: pa.RecordBatch, backend: Backend) -> ShardEntry:
    """Commit one shard and return its manifest entry.

    Args:
        root: directory of the store.
        file: path within the store, without suffix.
        batch: columns of ``arrow_schema``.
        backend: file format.
    """
    module = BACKENDS[backend]
    path = root / f"{file}{module.SUFFIX}"
    commit_file(path, lambda temporary: module.write(temporary, batch))
    return ShardEntry(
        file=path.relative_to(root).as_posix(),
        bytes=path.stat().st_size,
        sha256=hash_file(path),
        **content_counts(batch),
    )


def content_counts(batch: pa.RecordBatch) -> dict[str, Any]:
    """Return the part of a shard's manifest entry that describes its content: all but file, bytes and hash."""
    views = ColumnViews.of(batch)
    names = [name.removeprefix(LABEL_PREFIX) for name in batch.schema.names if name.startswith(LABEL_PREFIX)]
    return {
        "rows": batch.num_rows,
        "atoms": int(views.atom_offsets[-1]),
        "conformers": int(views.conformer_offsets[-1]),
        "origins": _tally(views.conformer_origin, ConformerOrigin),
        "stereo": _tally(views.conformer_stereo, ConformerStereo),
        "labelled": {
            name: int(np.count_nonzero(~np.isnan(label))) for name, label in zip(names, views.labels, strict=True)
        },
    }


def _tally(codes: npt.NDArray[np.uint8], kinds: type[enum.IntEnum]) -> dict[str, int]:
    counts = np.bincount(codes, minlength=len(kinds))
    return {kind.name: int(counts[kind]) for kind in kinds if counts[kind]}


def size_histogram(num_atoms: Iterable[int]) -> dict[str, int]:
    """Return the number of molecules by number of atoms; keys are text, in ascending order."""
    counts = collections.Counter(num_atoms)
    return {str(size): counts[size] for size in sorted(counts)}


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Commit ``manifest.json``, which turns the directory into a finished store. Call it last."""
    commit_text(root / MANIFEST_NAME, manifest.to_json())


def read_shard(store: Store, entry: ShardEntry) -> pa.RecordBatch:
    """Return all records of one shard as one batch.

    Raises:
        StoreError: the shard is missing or cannot be decoded.
    """
    shard = open_shard(store.path / entry.file, store.manifest.backend, store.manifest.layout)
    with contextlib.closing(shard):
        views, _ = shard.views(np.arange(len(shard.num_atoms)))
        return views.batch
