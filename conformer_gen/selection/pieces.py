"""The pieces of a build and their files: names, columns, and which exist. Imports Arrow.

A chunk is ``task_size`` rows of a unit, a part of a source that is read on its own; the last of a unit may be shorter.
Its number is that of the unit times ``CHUNKS_PER_UNIT``, plus its place in the unit, so that it does not depend on how
many rows other units have. A piece is a range of positions in a chunk: all of it at first, smaller after a worker died
on it. A piece is done once its file has its final name. The name also contains the number of rows of each
kind, so that a billion molecules can be planned from names alone. A directory holds the pieces of 1,000 chunks:

    curated/GGGGGG/CCCCCCCC-FFFFF-LLLLL.parquet                    every row: canonical form, or why it was rejected
    embedded/GGGGGG/CCCCCCCC-FFFFF-LLLLL-TTTTT-VVVVV-XXXXX.arrow   T records for train, then V for valid; X failed
    failures/GGGGGG/….parquet                                      those X, written before; absent where X is 0

"embedded" is the on-disk name for records with conformers, kept so that unfinished builds of earlier versions resume.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from unimol_scale.store.schema import ATOM_LABELS

T = TypeVar("T")
CURATED, CONFORMERS, FAILURES = "curated", "embedded", "failures"
SUFFIXES = {CURATED: ".parquet", CONFORMERS: ".arrow", FAILURES: ".parquet"}
CHUNKS_PER_GROUP = 1000
CHUNKS_PER_UNIT = 10**8
CURATED_SCHEMA = pa.schema(
    {
        "position": pa.int32(),
        "id": pa.string(),
        "smiles": pa.string(),  # canonical; as given for a rejected row
        "key": pa.uint64(),
        "scaffold": pa.uint64(),
        "conformers": pa.list_(pa.float32()),  # [k, n, 3] Å of a source with geometry, flat; null without
        "origins": pa.list_(pa.uint8()),  # [k]
        "labels": pa.list_(pa.float64()),
        "energies": pa.list_(pa.float32()),  # [k] kcal/mol above the lowest
        **{name: pa.list_(pa.float32()) for name in ATOM_LABELS},  # [k, n, w], flat
        "left_out": pa.int32(),  # conformers of the source that are not plausible for the molecule
        "reason": pa.string(),  # null for a molecule
        "detail": pa.string(),
    }
)
FAILURE_SCHEMA = pa.schema(
    {
        "position": pa.int32(),
        "id": pa.string(),
        "smiles": pa.string(),
        "stage": pa.string(),  # CURATE_FAILED or CONFORMERS_FAILED
        "reason": pa.string(),
        "detail": pa.string(),
    }
)
# On-disk values of the column "stage" in the failures of every store; the second is the making of conformers.
CURATE_FAILED, CONFORMERS_FAILED = "curate", "embed"


@dataclasses.dataclass(frozen=True, order=True)
class Piece:
    """Positions [first, last) of a chunk; ``counts`` are the rows of each kind in its file, if the name has them."""

    chunk: int
    first: int
    last: int
    counts: tuple[int, ...] = ()

    @property
    def stem(self) -> str:
        """File name without suffix."""
        return "-".join([f"{self.chunk:08d}", *(f"{n:05d}" for n in (self.first, self.last, *self.counts))])

    @property
    def group(self) -> int:
        """Number of the directory that holds it."""
        return self.chunk // CHUNKS_PER_GROUP

    def path(self, work: Path, kind: str) -> Path:
        """Return the path of the piece's file of that kind."""
        return group_path(work, kind, self.group) / f"{self.stem}{SUFFIXES[kind]}"


def group_path(work: Path, kind: str, group: int) -> Path:
    """Return the directory of 1,000 chunks."""
    return work / kind / f"{group:06d}"


def groups(work: Path, kind: str) -> list[int]:
    """Return the numbers of the existing directories, ascending."""
    folder = work / kind
    return sorted(int(path.name) for path in folder.iterdir()) if folder.is_dir() else []


def group_pieces(work: Path, kind: str, group: int) -> list[Piece]:
    """Return the pieces of one directory, in order and disjoint.

    A process that outlived its driver may have committed a range that the next run split differently. Equal positions
    hold equal molecules, so a piece that overlaps an accepted one is skipped, by the same rule for every reader.
    """
    folder, suffix = group_path(work, kind, group), SUFFIXES[kind]
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    found = [_parse(name.removesuffix(suffix)) for name in names if name[0] != "." and name.endswith(suffix)]
    accepted: list[Piece] = []
    for piece in sorted(found, key=lambda piece: (piece.chunk, piece.first, -piece.last, piece.counts)):
        if not accepted or accepted[-1].chunk != piece.chunk or accepted[-1].last <= piece.first:
            accepted.append(piece)
    return accepted


def _parse(stem: str) -> Piece:
    chunk, first, last, *counts = map(int, stem.split("-"))
    return Piece(chunk, first, last, tuple(counts))


def done_pieces(work: Path, kind: str) -> Iterator[Piece]:
    """Yield the pieces whose files exist, in order and disjoint, listing one directory at a time."""
    yield from pieces_of(work, kind, groups(work, kind))


def pieces_of(work: Path, kind: str, numbers: Iterable[int]) -> Iterator[Piece]:
    """Yield the pieces of some directories, listing one directory at a time."""
    for group in numbers:
        yield from group_pieces(work, kind, group)


def chunk_pieces(work: Path, kind: str, chunk: int) -> list[Piece]:
    """Return the pieces of one chunk whose files exist, in order and disjoint."""
    pieces = group_pieces(work, kind, chunk // CHUNKS_PER_GROUP)
    return [piece for piece in pieces if piece.chunk == chunk]


def read_chunk(work: Path, chunk: int) -> pa.Table:
    """Return the curated rows of a chunk, in order."""
    paths = [piece.path(work, CURATED) for piece in chunk_pieces(work, CURATED, chunk)]
    return pa.concat_tables([pq.read_table(path, schema=CURATED_SCHEMA) for path in paths])


class PiecesInOrder:
    """Pieces in order, read once as their chunks are asked for."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._ahead = iter(pieces)
        self._next = next(self._ahead, None)

    def of(self, chunk: int) -> list[Piece]:
        """Return the pieces of a chunk; every chunk is later than the one asked for before."""
        own: list[Piece] = []
        while self._next is not None and self._next.chunk <= chunk:
            if self._next.chunk == chunk:
                own.append(self._next)
            self._next = next(self._ahead, None)
        return own


def beside(items: Iterable[tuple[int, T]], pieces: Iterable[Piece]) -> Iterator[tuple[int, T, list[Piece]]]:
    """Yield (chunk, item, pieces of the chunk) for items in ascending order of chunk; both inputs are read once."""
    done = PiecesInOrder(pieces)
    for chunk, item in items:
        yield chunk, item, done.of(chunk)
