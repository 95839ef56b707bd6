"""What one worker process does with one piece of a build, and the files it leaves. Imports no Ray: plain functions.

A chunk is ``task_size`` rows of the source; a piece is a range of positions inside a chunk, at first all of it, smaller
after a worker died on it. A piece is done when its file has its final name:

    curated/CCCCCCCC-FFFFF-LLLLL.parquet    every row of the piece: canonical form and hashes, or why it was rejected
    embedded/CCCCCCCC-FFFFF-LLLLL.arrow     its records; the failures lie beside it, written before it
"""

import dataclasses
import os
import signal
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from conformer_gen.curate import CurateConfig, Curated, curate_molecule
from conformer_gen.embed import CuratedMolecule, EmbedConfig, EmbedFailure, embed_molecule, stable_hash
from conformer_gen.sources.molecule import SourceMolecule
from unimol_scale.store import arrow_backend
from unimol_scale.store.schema import Layout, MoleculeRecord, encode
from unimol_scale.store.shards import commit_file

CURATED, EMBEDDED, FAILURES = "curated", "embedded", "failures"
SUFFIXES = {CURATED: ".parquet", EMBEDDED: ".arrow", FAILURES: ".parquet"}
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
        "reason": pa.string(),  # null for a molecule
        "detail": pa.string(),
    }
)
FAILURE_SCHEMA = pa.schema(
    {
        "position": pa.int32(),
        "id": pa.string(),
        "smiles": pa.string(),
        "stage": pa.string(),
        "reason": pa.string(),
        "detail": pa.string(),
    }
)
HINT = struct.Struct("<qd")

Embedder = Callable[[CuratedMolecule, EmbedConfig, int], MoleculeRecord | EmbedFailure]
Starting = Callable[[int], None]


@dataclasses.dataclass(frozen=True, order=True)
class Piece:
    """Positions [first, last) of a chunk."""

    chunk: int
    first: int
    last: int

    @property
    def stem(self) -> str:
        """File name without suffix."""
        return f"{self.chunk:08d}-{self.first:05d}-{self.last:05d}"

    def path(self, work: Path, kind: str) -> Path:
        """Return where the piece's file of that kind lies."""
        return work / kind / f"{self.stem}{SUFFIXES[kind]}"


def done_pieces(work: Path, kind: str) -> list[Piece]:
    """Return the pieces whose file is there, in order."""
    names = (path.name.removesuffix(SUFFIXES[kind]) for path in (work / kind).glob(f"[0-9]*{SUFFIXES[kind]}"))
    return sorted(Piece(*map(int, name.split("-"))) for name in names)


class Watch:
    """Tells the driver which molecule a worker was at when it died, and kills a worker that hangs.

    Args:
        path: the hint file.
        limit_s: seconds for one molecule. The alarm's default action ends the process in the kernel, since C++ code
            that hangs never returns to a Python signal handler.
    """

    def __init__(self, path: Path, limit_s: float) -> None:
        self._path = path
        self._limit_s = limit_s

    def __enter__(self) -> "Watch":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self._path, os.O_CREAT | os.O_WRONLY)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.close(self._descriptor)
        self._path.unlink(missing_ok=True)

    def starting(self, position: int) -> None:
        """Note the molecule and restart the clock."""
        os.pwrite(self._descriptor, HINT.pack(position, time.time()), 0)
        signal.setitimer(signal.ITIMER_REAL, self._limit_s)


def read_hint(path: Path) -> tuple[int, float] | None:
    """Return the position at which a dead worker was and when it began there, or None if it left no hint."""
    content = path.read_bytes() if path.is_file() else b""
    if len(content) != HINT.size:
        return None
    position, began = HINT.unpack(content)
    return position, began


def ignore_start(position: int) -> None:
    """Watch nothing."""


def curate_piece(
    work: Path,
    piece: Piece,
    positions: Sequence[int],
    rows: Sequence[SourceMolecule],
    config: CurateConfig,
    starting: Starting = ignore_start,
) -> int:
    """Curate rows and commit the piece's file; return how many rows there were."""
    table = []
    for position, row in zip(positions, rows, strict=True):
        starting(position)
        table.append({"position": position, "id": row.id, "labels": row.labels, **_curated_columns(row, config)})
    _commit_table(piece.path(work, CURATED), pa.Table.from_pylist(table, CURATED_SCHEMA))
    return len(table)


def _curated_columns(row: SourceMolecule, config: CurateConfig) -> dict[str, object]:
    result = curate_molecule(row, config)
    if not isinstance(result, Curated):
        return {"smiles": row.smiles or None, "reason": result.reason, "detail": result.detail}
    return {
        "smiles": result.smiles,
        "key": stable_hash(result.smiles),
        "scaffold": stable_hash(result.scaffold_smiles),
        "conformers": None if result.conformers is None else result.conformers.ravel(),
        "origins": result.origins,
    }


def bury_rows(work: Path, piece: Piece, positions: Sequence[int], rows: Sequence[SourceMolecule], why: str) -> None:
    """Commit a piece whose rows killed their worker in curation as rejected."""
    table = [
        {"position": position, "id": row.id, "smiles": row.smiles or None, "reason": why, "detail": DEATHS[why]}
        for position, row in zip(positions, rows, strict=True)
    ]
    _commit_table(piece.path(work, CURATED), pa.Table.from_pylist(table, CURATED_SCHEMA))


DEATHS = {
    "worker_died": "the worker process died on this molecule, twice",
    "too_slow": "this molecule took longer than the limit for one molecule, twice",
}


def read_chunk(work: Path, chunk: int) -> pa.Table:
    """Return the curated rows of a chunk in order."""
    paths = sorted((work / CURATED).glob(f"{chunk:08d}-*{SUFFIXES[CURATED]}"))
    return pa.concat_tables([pq.read_table(path, schema=CURATED_SCHEMA) for path in paths])


def _molecules(work: Path, chunk: int, positions: Sequence[int]) -> Iterable[tuple[int, CuratedMolecule]]:
    table = read_chunk(work, chunk)
    for row in table.take(pa.array(np.asarray(positions, np.int64))).to_pylist():
        flat, origins = row["conformers"], tuple(row["origins"])
        yield (
            row["position"],
            CuratedMolecule(
                id=row["id"],
                smiles=row["smiles"],
                key=row["key"],
                scaffold=row["scaffold"],
                conformers=None if flat is None else np.array(flat, np.float32).reshape(len(origins), -1, 3),
                origins=origins,
                labels=tuple(row["labels"]),
            ),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedJob:
    """What every embedding task of a build needs to know.

    Attributes:
        config: how to embed.
        seed: of the build.
        layout: of the records.
        embedder: the function that makes one record.
    """

    config: EmbedConfig
    seed: int
    layout: Layout
    embedder: Embedder = embed_molecule


def embed_piece(
    work: Path, piece: Piece, positions: Sequence[int], job: EmbedJob, starting: Starting = ignore_start
) -> int:
    """Embed molecules of a chunk and commit the piece's files; return how many there were."""
    records: list[MoleculeRecord] = []
    failures = []
    for position, molecule in _molecules(work, piece.chunk, positions):
        starting(position)
        result = job.embedder(molecule, job.config, job.seed)
        if isinstance(result, EmbedFailure):
            failures.append(_failure(position, molecule, result.reason, result.detail))
        else:
            records.append(result)
    _commit_embedded(work, piece, records, failures, job.layout)
    return len(positions)


def bury_molecules(work: Path, piece: Piece, positions: Sequence[int], job: EmbedJob, why: str) -> None:
    """Commit a piece whose molecules killed their worker in embedding as failures."""
    molecules = _molecules(work, piece.chunk, positions)
    failures = [_failure(position, molecule, why, DEATHS[why]) for position, molecule in molecules]
    _commit_embedded(work, piece, [], failures, job.layout)


def _failure(position: int, molecule: CuratedMolecule, reason: str, detail: str) -> dict[str, object]:
    return {
        "position": position,
        "id": molecule.id,
        "smiles": molecule.smiles,
        "stage": "embed",
        "reason": reason,
        "detail": detail,
    }


def _commit_embedded(
    work: Path, piece: Piece, records: list[MoleculeRecord], failures: list[dict[str, object]], layout: Layout
) -> None:
    _commit_table(piece.path(work, FAILURES), pa.Table.from_pylist(failures, FAILURE_SCHEMA))
    batch = encode(records, layout)
    commit_file(piece.path(work, EMBEDDED), lambda path: arrow_backend.write(path, batch))


def _commit_table(path: Path, table: pa.Table) -> None:
    commit_file(path, lambda temporary: pq.write_table(table, temporary))
