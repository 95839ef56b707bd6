"""Draws molecules as SVG: plain, or with a value of every atom as a colour. Imports RDKit.

Shapes: A heavy atoms.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rdkit import Chem, rdBase
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from unimol_scale.common.files import commit_text

WIDTH, HEIGHT = 260, 200  # pixels of a plain picture
_LARGE = 1.7  # factor by which pictures with values are larger, because they have numbers at atoms
_RAISES, _LOWERS = (0.94, 0.42, 0.30), (0.36, 0.54, 0.90)  # red and blue, for the largest values
_NOTED = 0.1  # fraction of the largest value from which an atom's value is written beside it


def draw_molecule(path: Path, smiles: str) -> None:
    """Draw a molecule.

    Args:
        path: the SVG file to write.
        smiles: SMILES of the molecule.
    """
    drawing = rdMolDraw2D.MolDraw2DSVG(WIDTH, HEIGHT)
    _options(drawing)
    rdMolDraw2D.PrepareAndDrawMolecule(drawing, _planar(smiles))
    _commit(path, drawing)


def draw_values(path: Path, smiles: str, value_A: npt.NDArray[np.float64], largest: float | None = None) -> None:
    """Draw a molecule with a disk at every atom: red for positive values, blue for negative, pale for small ones.

    Args:
        path: the SVG file to write.
        smiles: SMILES of the molecule; its atoms are in the order of the values.
        value_A: value of each atom.
        largest: absolute value that has the strongest colour, so that pictures can be compared; None: the largest of
            this molecule.
    """
    molecule = _planar(smiles)
    if molecule.GetNumAtoms() != len(value_A):
        raise ValueError(f"{len(value_A)} values for the {molecule.GetNumAtoms()} atoms of {smiles}")
    scale = float(np.abs(value_A).max()) if largest is None else largest
    for atom, value in zip(molecule.GetAtoms(), value_A.tolist(), strict=True):
        if scale and abs(value) >= _NOTED * scale:
            atom.SetProp("atomNote", f"{value:+.2g}")
    drawing = rdMolDraw2D.MolDraw2DSVG(int(_LARGE * WIDTH), int(_LARGE * HEIGHT))
    _options(drawing)
    options: Any = drawing.drawOptions()
    options.fixedBondLength *= _LARGE
    options.annotationFontScale = 0.7
    options.highlightRadius = 0.42
    options.atomHighlightsAreCircles = True
    atoms = list(range(len(value_A)))
    colours = {at: _colour(value, scale) for at, value in enumerate(value_A.tolist())}
    rdMolDraw2D.PrepareAndDrawMolecule(
        drawing, molecule, highlightAtoms=atoms, highlightAtomColors=colours, highlightBonds=[]
    )
    _commit(path, drawing)


def _colour(value: float, scale: float) -> tuple[float, float, float]:
    """Return a shade between white and red, or blue."""
    share = min(abs(value) / scale, 1.0) if scale else 0.0
    red, green, blue = (1.0 - share * (1.0 - full) for full in (_RAISES if value > 0 else _LOWERS))
    return red, green, blue


def lenient_molecule(smiles: str) -> Chem.Mol:
    """Return a molecule with its atoms in the order of the SMILES, even if RDKit does not accept its valences."""
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
        if molecule is None:
            molecule = Chem.MolFromSmiles(smiles, sanitize=False)
            molecule.UpdatePropertyCache(strict=False)
    return molecule


def _planar(smiles: str) -> Chem.Mol:
    molecule = lenient_molecule(smiles)
    rdDepictor.Compute2DCoords(molecule)
    return molecule


def _options(drawing: rdMolDraw2D.MolDraw2DSVG) -> None:
    options: Any = drawing.drawOptions()
    options.clearBackground = False
    options.maxFontSize = 16
    options.fixedBondLength = 28
    options.padding = 0.06


def _commit(path: Path, drawing: rdMolDraw2D.MolDraw2DSVG) -> None:
    drawing.FinishDrawing()
    commit_text(path, drawing.GetDrawingText())
