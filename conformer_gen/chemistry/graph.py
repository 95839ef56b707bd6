"""RDKit molecule → integer atom and bond features. The only place where RDKit's enumerations meet the store's codes.

Codes are positions in the vocabularies of ``unimol_scale.store.schema``: the Open Graph Benchmark's lists in its order,
which the released Uni-Mol2 weights depend on.
"""

import dataclasses
import functools

import numpy as np
from rdkit import Chem

from unimol_scale.store.schema import (
    ATOM_VOCABULARIES,
    BOND_VOCABULARIES,
    NUM_ATOM_FEATURES,
    NUM_BOND_FEATURES,
    UInt8,
    UInt16,
)


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
    """Return the position of a word; one outside the list takes the last code, "misc" (for stereo: "ANY")."""
    words = (ATOM_VOCABULARIES | BOND_VOCABULARIES)[feature]
    return words.index(word) if word in words else len(words) - 1
