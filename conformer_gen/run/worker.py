"""What a worker process does with one piece of a build, and the files it writes. Imports RDKit and no Ray.

pieces.py defines pieces, their file names and columns.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from conformer_gen.chemistry import nvmolkit_engine
from conformer_gen.chemistry.config import ConformerConfig, CurateConfig
from conformer_gen.chemistry.conformers import ConformerFailure, CuratedMolecule, generate_conformers
from conformer_gen.chemistry.curate import Curated, curate_molecule
from conformer_gen.chemistry.identity import stable_hash
from conformer_gen.run.watchdog import Starting, ignore_start
from conformer_gen.selection.exclusions import NO_EXCLUSIONS, Exclusions
from conformer_gen.selection.pieces import (
    CONFORMERS,
    CONFORMERS_FAILED,
    CURATED,
    CURATED_SCHEMA,
    FAILURE_SCHEMA,
    FAILURES,
    Piece,
    read_chunk,
)
from conformer_gen.sources.molecule import Rejected, SourceMolecule
from unimol_scale.common.files import commit_file
from unimol_scale.store import arrow_backend
from unimol_scale.store.schema import ATOM_LABELS, Layout, MoleculeRecord, encode

ConformerGenerator = Callable[[CuratedMolecule, ConformerConfig, int], MoleculeRecord | ConformerFailure]


def curate_piece(
    work: Path,
    piece: Piece,
    positions: Sequence[int],
    rows: Sequence[SourceMolecule],
    config: CurateConfig,
    exclusions: Exclusions = NO_EXCLUSIONS,
    starting: Starting = ignore_start,
) -> int:
    """Curate rows and commit the piece's file; return the number of rows."""
    results = []
    for position, row in zip(positions, rows, strict=True):
        starting(position)
        results.append(exclusions.check(curate_molecule(row, config)))
    _commit_curated(work, piece, positions, rows, results)
    return len(results)


def _commit_curated(
    work: Path,
    piece: Piece,
    positions: Sequence[int],
    rows: Sequence[SourceMolecule],
    results: Sequence[Curated | Rejected],
) -> None:
    """Commit the file of a curated piece; ``results`` are those of ``rows``."""
    molecules = [result if isinstance(result, Curated) else None for result in results]
    rejected = [result if isinstance(result, Rejected) else None for result in results]
    coordinates = [None if one is None else one.conformers for one in molecules]
    labels_of_atoms = [{} if one is None else one.atom_labels for one in molecules]
    columns = {
        "position": positions,
        "id": [row.id for row in rows],
        "smiles": [one.smiles if one else row.smiles or None for row, one in zip(rows, molecules, strict=True)],
        "key": [one and stable_hash(one.smiles) for one in molecules],
        "scaffold": [one and stable_hash(one.scaffold_smiles) for one in molecules],
        "conformers": [None if values is None else values.ravel() for values in coordinates],
        "origins": [one and one.origins for one in molecules],
        "labels": [row.labels for row in rows],
        "energies": [one and one.energies for one in molecules],
        **{name: [one[name].ravel() if name in one else None for one in labels_of_atoms] for name in ATOM_LABELS},
        "left_out": [one and one.left_out for one in molecules],
        "reason": [one and one.reason for one in rejected],
        "detail": [one and one.detail for one in rejected],
    }
    _commit_table(piece.path(work, CURATED), pa.Table.from_pydict(columns, CURATED_SCHEMA))


def bury_rows(work: Path, piece: Piece, positions: Sequence[int], rows: Sequence[SourceMolecule], why: str) -> None:
    """Commit a piece whose rows killed their worker during curation, as rejected."""
    table = [
        {"position": position, "id": row.id, "smiles": row.smiles or None, "reason": why, "detail": DEATHS[why]}
        for position, row in zip(positions, rows, strict=True)
    ]
    _commit_table(piece.path(work, CURATED), pa.Table.from_pylist(table, CURATED_SCHEMA))


DEATHS = {
    "worker_died": "the worker process died twice on this molecule",
    "out_of_memory": "this molecule twice needed more memory than a task may use",
    "too_slow": "this molecule twice took longer than the limit for one molecule",
}


def _molecules(work: Path, chunk: int, positions: Sequence[int]) -> Iterable[tuple[int, CuratedMolecule]]:
    table = read_chunk(work, chunk)
    for row in table.take(pa.array(np.asarray(positions, np.int64))).to_pylist():
        flat, origins = row["conformers"], tuple(row["origins"])
        labelled = [name for name in ATOM_LABELS if row[name] is not None]
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
                energies=tuple(row["energies"] or ()),
                atom_labels={
                    name: np.array(row[name], np.float32).reshape(len(origins), -1, ATOM_LABELS[name].width)
                    for name in labelled
                },
            ),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConformerJob:
    """What every conformer task of a build needs to know.

    Attributes:
        config: how to make conformers.
        seed: seed of the build.
        layout: layout of the records.
        generator: makes one record, unless the engine is nvmolkit.
    """

    config: ConformerConfig
    seed: int
    layout: Layout
    generator: ConformerGenerator = generate_conformers


def generate_piece(
    work: Path,
    piece: Piece,
    positions: Sequence[int],
    valid: Collection[int],
    job: ConformerJob,
    starting: Starting = ignore_start,
) -> int:
    """Make conformers for molecules of a chunk, those in ``valid`` for validation, and commit the piece's files.

    Returns:
        How many molecules there were.
    """
    records: list[tuple[int, MoleculeRecord]] = []
    failures = []
    molecules = list(_molecules(work, piece.chunk, positions))
    for (position, molecule), result in zip(molecules, _results(molecules, piece, job, starting), strict=True):
        if isinstance(result, ConformerFailure):
            failures.append(_failure(position, molecule, result.reason, result.detail))
        else:
            records.append((position, result))
    _commit_records(work, piece, records, valid, failures, job.layout)
    return len(positions)


def _results(
    molecules: Sequence[tuple[int, CuratedMolecule]], piece: Piece, job: ConformerJob, starting: Starting
) -> Iterator[MoleculeRecord | ConformerFailure]:
    config = job.config
    if config.engine == "nvmolkit":
        gpu = config.gpus[piece.chunk % len(config.gpus)]
        yield from nvmolkit_engine.generate_on_gpu(molecules, config, job.seed, gpu, starting)
        return
    for position, molecule in molecules:
        starting(position)
        yield job.generator(molecule, config, job.seed)


def bury_molecules(work: Path, piece: Piece, positions: Sequence[int], job: ConformerJob, why: str) -> None:
    """Commit a piece whose molecules killed the worker that made their conformers, as failures."""
    molecules = _molecules(work, piece.chunk, positions)
    failures = [_failure(position, molecule, why, DEATHS[why]) for position, molecule in molecules]
    _commit_records(work, piece, [], (), failures, job.layout)


def _failure(position: int, molecule: CuratedMolecule, reason: str, detail: str) -> dict[str, object]:
    return {
        "position": position,
        "id": molecule.id,
        "smiles": molecule.smiles,
        "stage": CONFORMERS_FAILED,
        "reason": reason,
        "detail": detail,
    }


def _commit_records(
    work: Path,
    piece: Piece,
    records: list[tuple[int, MoleculeRecord]],
    valid: Collection[int],
    failures: list[dict[str, object]],
    layout: Layout,
) -> None:
    """Commit records (training before validation) and failures; the file name contains the number of each."""
    for_train = [record for position, record in records if position not in valid]
    for_valid = [record for position, record in records if position in valid]
    done = dataclasses.replace(piece, counts=(len(for_train), len(for_valid), len(failures)))
    if failures:
        _commit_table(done.path(work, FAILURES), pa.Table.from_pylist(failures, FAILURE_SCHEMA))
    batch = encode([*for_train, *for_valid], layout)
    commit_file(done.path(work, CONFORMERS), lambda path: arrow_backend.write(path, batch))


def _commit_table(path: Path, table: pa.Table) -> None:
    commit_file(path, lambda temporary: pq.write_table(table, temporary))
