"""Uni-Mol's LMDB files as a source: turns records with geometry into ``SourceMolecule``. Imports no RDKit."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from conformer_gen.sources.file_range import WHOLE, FileRange, even_ranges
from conformer_gen.sources.molecule import Geometry, SourceMolecule
from conformer_gen.sources.source import Source, SourceSettings
from unimol_scale.errors import SourceError, StoreError, nearest
from unimol_scale.store.lmdb_files.official_lmdb import DamagedRecord, OfficialRecord, count_official, read_official
from unimol_scale.store.schema import ConformerOrigin, Float32

# Uni-Mol adds RDKit's 2D depiction to a molecule's conformers, and uses only the depiction if it could make none.
FLAT_WITHIN = 1e-6  # Å


def unimol_labels(path: Path) -> tuple[str, ...]:
    """Return the names of a file's labels: "target", or "target_0", "target_1", … if molecules have several.

    They come from the first readable record; a file without targets has no labels.

    Raises:
        SourceError: as ``read_unimol``.
    """
    for record in _records(path):
        if isinstance(record, OfficialRecord):
            count = len(record.targets)
            return ("target",) if count == 1 else tuple(f"target_{number}" for number in range(count))
    return ()


def read_unimol(path: Path, num_labels: int | None = None, within: FileRange = WHOLE) -> Iterator[SourceMolecule]:
    """Yield every record of a Uni-Mol LMDB file; a record that cannot be used is a row with a problem.

    Args:
        path: the file, of either key format.
        num_labels: targets that every molecule must have; None determines it from the file (``unimol_labels``).
        within: range of its records.

    Raises:
        SourceError: the file is not an LMDB file, or is truncated.
    """
    expected = len(unimol_labels(path)) if num_labels is None else num_labels
    for record in _records(path, within):
        if isinstance(record, DamagedRecord):
            yield SourceMolecule(id=record.key, problem=record.problem)
        elif expected and len(record.targets) != expected:
            problem = f"record {record.key} has {len(record.targets)} targets, but others have {expected}"
            yield SourceMolecule(id=record.key, smiles=record.smiles, problem=problem)
        else:
            yield SourceMolecule(
                id=record.key,
                smiles=record.smiles,
                geometry=Geometry(
                    symbols=record.atoms, positions=record.coordinates, origins=_origins(record.coordinates)
                ),
                labels=record.targets if expected else (),
            )


def _records(path: Path, within: FileRange = WHOLE) -> Iterator[OfficialRecord | DamagedRecord]:
    try:
        yield from read_official(path, max(0, within.first), within.last)
    except StoreError as error:
        raise SourceError(str(error)) from error


def _origins(coordinates: Float32) -> tuple[int, ...]:
    flat = np.abs(coordinates[:, :, 2]).max(axis=1) < FLAT_WITHIN
    return tuple(ConformerOrigin.FLAT if is_flat else ConformerOrigin.FILE for is_flat in flat.tolist())


def _ranges(path: Path, config: SourceSettings, most: int) -> list[FileRange]:
    try:
        return even_ranges(0, min(count_official(path), path.stat().st_size), most)
    except StoreError:  # the reader says what is wrong
        return [WHOLE]


def _read_chosen(path: Path, config: SourceSettings, within: FileRange = WHOLE) -> Iterator[SourceMolecule]:
    """Read the targets if any were requested; then all are needed, since they have no names of their own."""
    if config.labels and (there := unimol_labels(path)) != tuple(config.labels):
        given = next((label for label in config.labels if label not in there), "")
        raise SourceError(
            f"{path} has the targets {', '.join(there) or '(none)'}, but source.labels has {', '.join(config.labels)}; "
            f"{nearest(given, there)}"
        )
    return read_unimol(path, len(config.labels), within)


UNIMOL_LMDB = Source(
    name="unimol-lmdb",
    suffixes=(".lmdb",),
    read_file=_read_chosen,
    ranges=_ranges,
    read_range=_read_chosen,
    geometry="all",
    takes_labels=True,
    ids_in_files=True,
)
