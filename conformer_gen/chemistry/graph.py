"""Converts an RDKit molecule into integer atom and bond features, and a stored record into an RDKit molecule.

This is the only place where RDKit's enumerations are mapped to the store's codes.

Codes are positions in the vocabularies of ``unimol_scale.store.schema``: the Open Graph Benchmark's lists in its order,
which the released Uni-Mol2 weights depend on.
"""

import dataclasses
import functools

import numpy as np
from rdkit import Chem, rdBase

from unimol_scale.errors import StoreError
from unimol_scale.store.schema import (
    ATOM_VOCABULARIES,
    BOND_VOCABULARIES,
    NUM_ATOM_FEATURES,
    NUM_BOND_FEATURES,
    ConformerOrigin,
    ConformerStereo,
    MoleculeRecord,
    UInt8,
    UInt16,
)

NAME = "_Name"  # RDKit's property for the title of a molecule
ENERGY, ORIGIN, STEREO = "energy_kcal_mol", "origin", "stereo"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Graph:
    """The 2D graph of one molecule with n atoms and m bonds.

    Attributes:
        atomic_number: uint8 [n].
        atom_features: uint8 [n, 8].
        bond_index: uint16 [m, 2], in RDKit's bond order.
        bond_features: uint8 [m, 3].
    """

    atomic_number: UInt8
    atom_features: UInt8
    bond_index: UInt16
    bond_features: UInt8


def molecule_graph(molecule: Chem.Mol) -> Graph:
    """Return the graph of a sanitised molecule, atoms in its own order.

    The number of hydrogens counts explicit neighbours too, so a heavy atom has the same features whether or not
    hydrogens are atoms of the record.
    """
    atoms = list(molecule.GetAtoms())
    bonds = list(molecule.GetBonds())
    return Graph(
        atomic_number=np.array([atom.GetAtomicNum() for atom in atoms], dtype=np.uint8),
        atom_features=np.array([_atom_codes(atom) for atom in atoms], np.uint8).reshape(-1, NUM_ATOM_FEATURES),
        bond_index=np.array(
            [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in bonds], dtype=np.uint16
        ).reshape(-1, 2),
        bond_features=np.array([_bond_codes(bond) for bond in bonds], np.uint8).reshape(-1, NUM_BOND_FEATURES),
    )


def _atom_codes(atom: Chem.Atom) -> tuple[int, ...]:
    return (
        _code("chirality", atom.GetChiralTag().name.removeprefix("CHI_")),
        _code("degree", str(atom.GetTotalDegree())),
        _code("formal_charge", str(atom.GetFormalCharge())),
        _code("num_hydrogens", str(atom.GetTotalNumHs(includeNeighbors=True))),
        _code("radical_electrons", str(atom.GetNumRadicalElectrons())),
        _code("hybridization", atom.GetHybridization().name),
        _code("is_aromatic", str(atom.GetIsAromatic())),
        _code("is_in_ring", str(atom.IsInRing())),
    )


def _bond_codes(bond: Chem.Bond) -> tuple[int, ...]:
    return (
        _code("bond_type", bond.GetBondType().name),
        _code("stereo", bond.GetStereo().name.removeprefix("STEREO")),
        _code("is_conjugated", str(bond.GetIsConjugated())),
    )


@functools.cache
def _code(feature: str, word: str) -> int:
    """Return the position of a word in its list; unknown words get the last code, "misc" (for stereo: "ANY")."""
    words = (ATOM_VOCABULARIES | BOND_VOCABULARIES)[feature]
    return words.index(word) if word in words else len(words) - 1


def rdkit_molecule(record: MoleculeRecord) -> Chem.Mol:
    """Return a stored molecule as an RDKit molecule.

    Atoms are in the order of the record and include hydrogens if the record does; bonds and stereo are those of its
    SMILES. Every conformer has the properties ``origin`` and ``stereo``, the names in ``ConformerOrigin`` and
    ``ConformerStereo``. A conformer whose stereo is CHANGED is another stereoisomer than the molecule. Conformers with
    a force-field energy also have ``energy_kcal_mol``.

    Args:
        record: n atoms, k conformers.

    Returns:
        A molecule of n atoms and k conformers in Å, whose title is the record's id.

    Raises:
        StoreError: the SMILES does not describe the record's atoms.
    """
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(record.smiles)
        if molecule is not None and molecule.GetNumAtoms() != len(record.atomic_number):
            molecule = Chem.AddHs(molecule)  # they come last, as in the record
    numbers = [] if molecule is None else [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
    if numbers != record.atomic_number.tolist():
        raise StoreError(
            f"molecule {record.id!r}: the atoms of its record differ from those of its SMILES {record.smiles}"
        )
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
