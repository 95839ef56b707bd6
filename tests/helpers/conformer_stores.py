"""Labelled stores of the thirty molecules of the fine-tuning tests, with several conformers each.

Atoms are moved at random, since force-field conformers of small molecules are hardly different.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from conformer_gen.chemistry.config import ConformerConfig, CurateConfig
from conformer_gen.chemistry.conformers import CuratedMolecule, generate_conformers
from conformer_gen.chemistry.curate import Curated, curate_molecule
from conformer_gen.chemistry.identity import stable_hash
from conformer_gen.sources.molecule import SourceMolecule
from tests.helpers.store_samples import write_store
from tests.helpers.tiny_finetuning import AROMATIC, CARBON, MOLECULES
from unimol_scale.store.schema import MoleculeRecord

CONFORMERS = 3
MOVED = 0.3  # Å, standard deviation


@functools.cache
def records(*, hydrogens: bool = False) -> tuple[MoleculeRecord, ...]:
    """Return the molecules, each with ``CONFORMERS`` conformers and the label of its size."""
    made = []
    rng = np.random.default_rng(0)
    for text, size in zip(MOLECULES, CARBON + AROMATIC, strict=True):
        curated = curate_molecule(SourceMolecule(id="", smiles=text), CurateConfig())
        assert isinstance(curated, Curated)
        molecule = CuratedMolecule(
            id=text,
            smiles=curated.smiles,
            key=stable_hash(curated.smiles),
            scaffold=stable_hash(curated.scaffold_smiles),
            labels=(float(size),),
        )
        record = generate_conformers(molecule, ConformerConfig(hydrogens=hydrogens), seed=0)
        assert isinstance(record, MoleculeRecord)
        shape = (CONFORMERS, *record.coordinates.shape[1:])
        moved = (record.coordinates + rng.normal(0.0, MOVED, shape)).astype(np.float32)
        made.append(dataclasses.replace(with_conformers(record, [0] * CONFORMERS), coordinates=moved))
    return tuple(made)


def with_conformers(record: MoleculeRecord, chosen: Sequence[int]) -> MoleculeRecord:
    """Return a molecule with some of its conformers, in the order given."""
    kept = list(chosen)
    return dataclasses.replace(
        record,
        coordinates=record.coordinates[kept],
        conformer_origin=record.conformer_origin[kept],
        conformer_stereo=record.conformer_stereo[kept],
        energy=record.energy[kept],
    )


def conformer_store(
    folder: Path, chosen: Sequence[int] = range(CONFORMERS), *, hydrogens: bool = False, fewer: int = 0
) -> Path:
    """Write a store of the molecules with some of their conformers; the first ``fewer`` molecules have one only."""
    made = [
        with_conformers(record, list(chosen)[:1] if at < fewer else chosen)
        for at, record in enumerate(records(hydrogens=hydrogens))
    ]
    return write_store(folder, made[:27], made[27:], labels={"size": "atoms"}, shard_rows=9, hydrogens=hydrogens).path
