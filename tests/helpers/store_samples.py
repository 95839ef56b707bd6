"""Random records, and stores made of them, for the tests of the store."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from unimol_scale.store.manifest import Backend, Counts, Manifest, SplitEntry
from unimol_scale.store.schema import (
    ATOM_LABELS,
    ATOM_LABELS_VERSION,
    ATOM_VOCABULARIES,
    BOND_VOCABULARIES,
    COORDINATE_SCALE,
    PLANAR_SCALE,
    SCHEMA_VERSION,
    Layout,
    MoleculeRecord,
    encode,
)
from unimol_scale.store.shards import Store, open_store, size_histogram, write_manifest, write_shard


def random_record(number: int, max_atoms: int = 12, max_conformers: int = 3, num_labels: int = 0) -> MoleculeRecord:
    """A record that is well-formed and means nothing; the same number gives the same record."""
    rng = np.random.default_rng(number)
    n, k = int(rng.integers(1, max_atoms + 1)), int(rng.integers(1, max_conformers + 1))
    m = int(rng.integers(0, 2 * n)) if n > 1 else 0

    def codes(vocabularies: dict[str, tuple[str, ...]], rows: int) -> np.ndarray:
        columns = [rng.integers(0, len(words), rows) for words in vocabularies.values()]
        return np.stack(columns, axis=1).astype(np.uint8)

    return MoleculeRecord(
        id=f"molecule-{number}",
        smiles="C" * n,
        atomic_number=rng.integers(1, 119, n).astype(np.uint8),
        atom_features=codes(ATOM_VOCABULARIES, n),
        bond_index=rng.integers(0, n, (m, 2)).astype(np.uint16),
        bond_features=codes(BOND_VOCABULARIES, m),
        coordinates=rng.normal(0, 5, (k, n, 3)).astype(np.float32),
        planar_coordinates=rng.normal(0, 5, (n, 2)).astype(np.float32),
        conformer_origin=rng.integers(0, 8, k).astype(np.uint8),
        conformer_stereo=rng.integers(0, 3, k).astype(np.uint8),
        energy=rng.normal(0, 50, k).astype(np.float32),
        scaffold=int(rng.integers(0, 2**64, dtype=np.uint64)),
        key=number,
        labels=tuple(rng.normal(0, 1, num_labels).tolist()),
    )


def chain_record(number: int, **keys: int) -> MoleculeRecord:
    """A record as ``random_record`` gives it, but a chain of atoms with the distances of bonds between neighbours."""
    record = random_record(number, **keys)
    n = len(record.atomic_number)
    along = np.arange(n) * 1.5
    positions = np.stack([along, np.arange(n) % 2 * 0.7, np.zeros(n)], axis=1)
    return dataclasses.replace(
        record,
        atomic_number=np.full(n, 6, np.uint8),
        bond_index=np.stack([np.arange(n - 1), np.arange(1, n)], axis=1).astype(np.uint16),
        bond_features=np.zeros((n - 1, record.bond_features.shape[1]), np.uint8),
        coordinates=np.stack([positions - positions.mean(axis=0)] * len(record.coordinates)).astype(np.float32),
    )


def write_store(
    root: Path,
    train: Sequence[MoleculeRecord],
    valid: Sequence[MoleculeRecord] = (),
    *,
    backend: Backend = "arrow",
    shard_rows: int = 4,
    coordinate_scale: float | None = COORDINATE_SCALE,
    labels: Mapping[str, str] | None = None,
    hydrogens: bool = False,
    atom_labels: Sequence[str] = (),
) -> Store:
    """Write a finished store in several shards; ``labels`` are names and units."""
    labels = labels or {}
    layout = Layout(coordinate_scale, tuple(labels), tuple(atom_labels))
    splits = {}
    for name, records in (("train", train), ("valid", valid)):
        parts = [records[start : start + shard_rows] for start in range(0, len(records), shard_rows)]
        splits[name] = SplitEntry(
            shards=tuple(
                write_shard(root, f"{name}/shard-{number:05d}", encode(part, layout), backend)
                for number, part in enumerate(parts)
            ),
            size_histogram=size_histogram(len(record.atomic_number) for record in records),
        )
    stored = len(train) + len(valid)
    write_manifest(
        root,
        Manifest(
            backend=backend,
            coordinate_scale=coordinate_scale,
            planar_scale=PLANAR_SCALE,
            labels=labels,
            source="test",
            seed=0,
            hydrogens=hydrogens,
            conformer_recipe={},
            parameters={},
            versions={"rdkit": "none"},
            counts=Counts(read=stored, stored=stored, duplicates=0, failed=0),
            splits=splits,
            schema_version=ATOM_LABELS_VERSION if atom_labels else SCHEMA_VERSION,
            atom_labels={name: ATOM_LABELS[name].unit for name in atom_labels},
        ),
    )
    return open_store(root)
