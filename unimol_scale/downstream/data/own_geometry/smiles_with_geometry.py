"""Writes the conformer of an RDKit molecule as text: a SMILES with coordinates. Imports RDKit.

ChemAxon's extended SMILES can hold atomic coordinates. Such a text can be used wherever a SMILES can, also in a table,
and keeps the geometry. ``prepare`` then uses it instead of generating a conformer.
"""

import dataclasses
import re
from typing import Any

import numpy as np
from rdkit import Chem

from conformer_gen.chemistry.conformers import ConformerFailure
from conformer_gen.chemistry.geometry import DRAWN_BONDS
from unimol_scale.store.geometry_faults import Conformers, is_drawn
from unimol_scale.store.schema import Float64

# In 3D the first atom has three coordinates; a depiction has two: ``CO |(0,0,;1.5,0,)|``.
_COORDINATES_3D = re.compile(r"\s\|(?:[^|]*,)?\([^,;()|]+,[^,;()|]+,[^,;()|]+[;)]")
_FIELDS = Chem.CXSmilesFields.CX_COORDS | Chem.CXSmilesFields.CX_ENHANCEDSTEREO
DECIMALS = 4  # decimals of coordinates in Å, as in SDF files


def smiles_with_geometry(molecule: Chem.Mol) -> str:
    """Return the SMILES of a molecule with the coordinates of its first 3D conformer, if it has one.

    A 2D depiction is not used, even if it is marked as 3D.
    """
    chosen = next((one for one in molecule.GetConformers() if one.Is3D()), None)
    if chosen is None:
        return Chem.MolToSmiles(molecule)
    carrier = Chem.Mol(molecule, confId=chosen.GetId())
    positions = np.round(chosen.GetPositions(), DECIMALS)
    if not positions[:, 2].any():  # planar: the extension would omit the third coordinate, as for a depiction
        if _is_depiction(molecule, positions):
            return Chem.MolToSmiles(molecule)
        positions = np.roll(positions, 1, axis=1)  # rotates the molecule, so that z is not 0 everywhere
    carrier.GetConformer().SetPositions(np.ascontiguousarray(positions))
    parameters: Any = Chem.SmilesWriteParams()
    text: str = Chem.MolToCXSmiles(carrier, parameters, _FIELDS)
    return text


def has_geometry(text: str) -> bool:
    """Return whether a SMILES has 3D coordinates in its extension."""
    return "|" in text and _COORDINATES_3D.search(text) is not None


def without_geometry(text: str) -> str:
    """Return a SMILES for messages and tables, without the extension if it holds 3D coordinates."""
    return text.partition(" |")[0] if has_geometry(text) else text


def with_remedy(failure: ConformerFailure) -> ConformerFailure:
    """Return a failure of a molecule with its own geometry, with advice added."""
    if failure.reason != "no_hydrogens":
        return failure
    detail = (
        "the model sees hydrogens, but the conformer lacks some of them: Chem.AddHs(molecule, addCoords=True) adds "
        "them"
    )
    return dataclasses.replace(failure, detail=detail)


def _is_depiction(molecule: Chem.Mol, positions: Float64) -> bool:
    bonds = np.array([(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()], np.int64)
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()], np.uint8)
    drawn = is_drawn(Conformers.of_one_molecule(numbers, bonds, positions[None]))
    return len(bonds) >= DRAWN_BONDS and bool(drawn[0])
