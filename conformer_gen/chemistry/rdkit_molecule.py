"""A stored record → the RDKit molecule that it was made of, with its conformers. Imports RDKit."""

import numpy as np
from rdkit import Chem, rdBase

from unimol_scale.errors import StoreError
from unimol_scale.store.schema import ConformerOrigin, ConformerStereo, MoleculeRecord

NAME = "_Name"  # as RDKit calls the title of a molecule
ENERGY, ORIGIN, STEREO = "energy_kcal_mol", "origin", "stereo"


def rdkit_molecule(record: MoleculeRecord) -> Chem.Mol:
    """Return a stored molecule as RDKit's.

    Atoms are in the order of the record, hydrogens included if they are atoms of it; bonds and stereo are those of its
    SMILES. Every conformer has the properties ``origin`` and ``stereo`` (the words of ``ConformerOrigin`` and
    ``ConformerStereo``: one whose stereo is CHANGED is another stereoisomer than the molecule), and, where a force
    field gave one, ``energy_kcal_mol``.

    Args:
        record: n atoms, k conformers.

    Returns:
        A molecule of n atoms and k conformers, in Å, whose title is the record's id.

    Raises:
        StoreError: the SMILES is not of the record's atoms.
    """
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(record.smiles)
        if molecule is not None and molecule.GetNumAtoms() != len(record.atomic_number):
            molecule = Chem.AddHs(molecule)  # they come last, as in the record
    numbers = [] if molecule is None else [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
    if numbers != record.atomic_number.tolist():
        raise StoreError(f"molecule {record.id!r}: the atoms of its record are not those of its SMILES {record.smiles}")
    molecule.SetProp(NAME, record.id)
    for number, positions in enumerate(record.coordinates.astype(np.float64)):
        molecule.AddConformer(_conformer(record, number, positions), assignId=True)
    return molecule


def _conformer(record: MoleculeRecord, number: int, positions: np.ndarray) -> Chem.Conformer:
    conformer = Chem.Conformer(len(positions))
    conformer.SetPositions(positions)
    origin = ConformerOrigin(record.conformer_origin[number])
    conformer.Set3D(origin is not ConformerOrigin.FLAT)
    conformer.SetProp(ORIGIN, origin.name)
    conformer.SetProp(STEREO, ConformerStereo(record.conformer_stereo[number]).name)
    if np.isfinite(energy := float(record.energy[number])):
        conformer.SetDoubleProp(ENERGY, energy)
    return conformer
