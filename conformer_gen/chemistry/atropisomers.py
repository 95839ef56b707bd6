"""Atropisomers: axes of hindered rotation, and SMILES that specify their configuration. Imports RDKit.

Plain SMILES cannot express them, but ChemAxon's extension can (``|wU:10.10|``, a wedged bond at one end of the axis).
RDKit reads and writes the extension, but may write one molecule in several ways. This file makes the text canonical:
the canonical SMILES of the molecule without the extension, then for each axis the first wedge that gives the right
turn.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rdkit import Chem

TURNS = {Chem.BondStereo.STEREOATROPCW: 1, Chem.BondStereo.STEREOATROPCCW: -1}
MAX_SYMMETRIES = 1000

Turns = Mapping[tuple[int, int], int]  # the two ends of an axis, ascending → its turn


class Axis(NamedTuple):
    """An axis: the lowest other neighbour of one end, the two ends, the lowest other neighbour of the other end.

    ``turn`` is the sign of the dihedral angle over these four atoms.
    """

    before: int
    first: int
    last: int
    after: int
    turn: int


def axes_of(molecule: Chem.Mol) -> list[Axis]:
    """Return the axes whose turn the molecule specifies, in the order of their bonds."""
    axes = []
    for bond in molecule.GetBonds():
        turn = TURNS.get(bond.GetStereo())
        if turn is not None:
            first, last = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            ends = _lowest(molecule, first, last), _lowest(molecule, last, first)
            axes.append(Axis(ends[0], first, last, ends[1], turn))
    return axes


def without_axes(molecule: Chem.Mol) -> Chem.Mol:
    """Return a copy that leaves the turn of every axis unspecified."""
    flat = Chem.Mol(molecule)
    for bond in flat.GetBonds():
        if bond.GetStereo() in TURNS:
            bond.SetStereo(Chem.BondStereo.STEREONONE)
    return flat


def add_axes(text: str, order: Sequence[int], axes: Sequence[Axis]) -> tuple[str, list[int]]:
    """Return the canonical SMILES of a molecule with axes, and its atoms in the order of that SMILES.

    Args:
        text: canonical SMILES of the molecule ``without_axes``, which may have an extension.
        order: its atoms in the order of ``text``.
        axes: the molecule's axes.

    Raises:
        ValueError: RDKit cannot write one of them.
    """
    plain = Chem.MolFromSmiles(text)
    place = {old: new for new, old in enumerate(order)}
    given = {}
    for axis in axes:
        before, first, last, after = (place[atom] for atom in axis[:4])
        given[first, last] = axis.turn * _parity(plain, before, first, last, after)
    symmetries = plain.GetSubstructMatches(plain, uniquify=False, useChirality=True, maxMatches=MAX_SYMMETRIES)
    images = [(sorted(_image(plain, given, symmetry).items()), symmetry) for symmetry in symmetries]
    chosen, symmetry = min(images)
    placed = [0] * len(order)
    for new, old in enumerate(order):
        placed[symmetry[new]] = old
    return _written(text, plain, dict(chosen)), placed


def _lowest(molecule: Chem.Mol, end: int, other: int) -> int:
    atom = molecule.GetAtomWithIdx(end)
    return min(int(neighbour.GetIdx()) for neighbour in atom.GetNeighbors() if neighbour.GetIdx() != other)


def _parity(molecule: Chem.Mol, before: int, first: int, last: int, after: int) -> int:
    """Return the factor between the turn over these atoms and that over the lowest neighbours."""
    one = 1 if before == _lowest(molecule, first, last) else -1
    return one if after == _lowest(molecule, last, first) else -one


def _image(plain: Chem.Mol, given: Turns, symmetry: Sequence[int]) -> dict[tuple[int, int], int]:
    """Return the axes after atom i of the molecule is renamed ``symmetry[i]``."""
    image = {}
    for (first, last), turn in given.items():
        atoms = (_lowest(plain, first, last), first, last, _lowest(plain, last, first))
        before, one, other, after = (symmetry[atom] for atom in atoms)
        image[min(one, other), max(one, other)] = turn * _parity(plain, before, one, other, after)
    return image


def _turns(text: str) -> dict[tuple[int, int], int]:
    """Return the turns that RDKit reads from a SMILES."""
    molecule = Chem.MolFromSmiles(text)
    axes = [] if molecule is None else axes_of(molecule)
    return {(min(axis.first, axis.last), max(axis.first, axis.last)): axis.turn for axis in axes}


def _written(text: str, plain: Chem.Mol, wanted: Turns) -> str:
    smiles, _, extension = text.partition(" ")
    words = [word for word in (extension.strip("|"),) if word]
    for ends, turn in wanted.items():
        wedges = (f"w{to}:{end}.{bond}" for end in ends for bond in range(plain.GetNumBonds()) for to in "UD")
        wedge = next((wedge for wedge in wedges if _turns(f"{smiles} |{wedge}|") == {ends: turn}), None)
        if wedge is None:
            raise ValueError(
                f"the turn around the axis of atoms {ends[0]} and {ends[1]} of {smiles} cannot be written as SMILES"
            )
        words.insert(-1 if extension else len(words), wedge)
    result = f"{smiles} |{','.join(words)}|"
    if _turns(result) != dict(wanted):
        raise ValueError(f"the turns around the axes of {smiles} cannot be written together")
    return result
