"""What one worker process does with one piece of a build, and the files it leaves. Imports no Ray: plain functions.

pieces.py says what a piece is and where its files lie.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from conformer_gen.chemistry import nvmolkit_engine
from conformer_gen.chemistry.conformers import CuratedMolecule, EmbedConfig, EmbedFailure, embed_molecule, stable_hash
from conformer_gen.chemistry.curate import CurateConfig, Curated, curate_molecule
from conformer_gen.chemistry.watch import Starting, ignore_start
from conformer_gen.selection.exclusions import NO_EXCLUSIONS, Exclusions
from conformer_gen.selection.pieces import CURATED, EMBEDDED, FAILURES, Piece, chunk_pieces
from conformer_gen.sources.molecule import SourceMolecule
from unimol_scale.common.files import commit_file
from unimol_scale.store import arrow_backend
from unimol_scale.store.schema import Layout, MoleculeRecord, encode

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
        "left_out": pa.int32(),  # conformers of the source that are no geometry of the molecule
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

Embedder = Callable[[CuratedMolecule, EmbedConfig, int], MoleculeRecord | EmbedFailure]


def curate_piece(
    work: Path,
    piece: Piece,
    positions: Sequence[int],
    rows: Sequence[SourceMolecule],
    config: CurateConfig,
    exclusions: Exclusions = NO_EXCLUSIONS,
    starting: Starting = ignore_start,
) -> int:
    """Curate rows and commit the piece's file; return how many rows there were."""
    table = []
    for position, row in zip(positions, rows, strict=True):
        starting(position)
        table.append(
            {"position": position, "id": row.id, "labels": row.labels, **_curated_columns(row, config, exclusions)}
        )
    _commit_table(piece.path(work, CURATED), pa.Table.from_pylist(table, CURATED_SCHEMA))
    return len(table)


def _curated_columns(row: SourceMolecule, config: CurateConfig, exclusions: Exclusions) -> dict[str, object]:
    result = exclusions.check(curate_molecule(row, config))
    if not isinstance(result, Curated):
        return {"smiles": row.smiles or None, "reason": result.reason, "detail": result.detail}
    return {
        "smiles": result.smiles,
        "key": stable_hash(result.smiles),
        "scaffold": stable_hash(result.scaffold_smiles),
        "conformers": None if result.conformers is None else result.conformers.ravel(),
        "origins": result.origins,
        "left_out": result.left_out,
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
    "out_of_memory": "this molecule needed more memory than a task may have, twice",
    "too_slow": "this molecule took longer than the limit for one molecule, twice",
}


def read_chunk(work: Path, chunk: int) -> pa.Table:
    """Return the curated rows of a chunk in order."""
    paths = [piece.path(work, CURATED) for piece in chunk_pieces(work, CURATED, chunk)]
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
        embedder: the function that makes one record where the engine is not nvmolkit.
    """

    config: EmbedConfig
    seed: int
    layout: Layout
    embedder: Embedder = embed_molecule


def embed_piece(
    work: Path,
    piece: Piece,
    positions: Sequence[int],
    valid: Collection[int],
    job: EmbedJob,
    starting: Starting = ignore_start,
) -> int:
    """Embed molecules of a chunk, of which ``valid`` are for validation, and commit the piece's files.

    Returns:
        How many there were.
    """
    records: list[tuple[int, MoleculeRecord]] = []
    failures = []
    molecules = list(_molecules(work, piece.chunk, positions))
    for (position, molecule), result in zip(molecules, _results(molecules, piece, job, starting), strict=True):
        if isinstance(result, EmbedFailure):
            failures.append(_failure(position, molecule, result.reason, result.detail))
        else:
            records.append((position, result))
    _commit_embedded(work, piece, records, valid, failures, job.layout)
    return len(positions)


def _results(
    molecules: Sequence[tuple[int, CuratedMolecule]], piece: Piece, job: EmbedJob, starting: Starting
) -> Iterator[MoleculeRecord | EmbedFailure]:
    config = job.config
    if config.engine == "nvmolkit":
        gpu = config.gpus[piece.chunk % len(config.gpus)]
        yield from nvmolkit_engine.embed_molecules(molecules, config, job.seed, gpu, starting)
        return
    for position, molecule in molecules:
        starting(position)
        yield job.embedder(molecule, config, job.seed)


def bury_molecules(work: Path, piece: Piece, positions: Sequence[int], job: EmbedJob, why: str) -> None:
    """Commit a piece whose molecules killed their worker in embedding as failures."""
    molecules = _molecules(work, piece.chunk, positions)
    failures = [_failure(position, molecule, why, DEATHS[why]) for position, molecule in molecules]
    _commit_embedded(work, piece, [], (), failures, job.layout)


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
    work: Path,
    piece: Piece,
    records: list[tuple[int, MoleculeRecord]],
    valid: Collection[int],
    failures: list[dict[str, object]],
    layout: Layout,
) -> None:
    """Commit records, those for train before those for validation, and failures; the name says how many of each."""
    for_train = [record for position, record in records if position not in valid]
    for_valid = [record for position, record in records if position in valid]
    done = dataclasses.replace(piece, counts=(len(for_train), len(for_valid), len(failures)))
    if failures:
        _commit_table(done.path(work, FAILURES), pa.Table.from_pylist(failures, FAILURE_SCHEMA))
    batch = encode([*for_train, *for_valid], layout)
    commit_file(done.path(work, EMBEDDED), lambda path: arrow_backend.write(path, batch))


def _commit_table(path: Path, table: pa.Table) -> None:
    commit_file(path, lambda temporary: pq.write_table(table, temporary))
