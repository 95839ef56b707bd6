"""Matches the atoms of a SMILES to the atoms of a geometry that comes without bonds. Imports RDKit.

Most files of coordinates keep the atom order of the SMILES they were made from, so that order is tried first. If it
does not fit, bonds are derived from the geometry: as many as the SMILES has, between the closest atoms. In both cases
the bonds must be those of the SMILES; otherwise there is no match.
"""

from collections.abc import Sequence

import numpy as np
from rdkit import Chem
from rdkit.Geometry import Point3D

from conformer_gen.sources.molecule import Geometry
from unimol_scale.store.schema import ConformerOrigin, Float32, Float64

# Distances as multiples of the sum of the covalent radii. Between the two limits the SMILES decides: long N–O bonds
# reach 1.25, but the two bridgehead carbons of bicyclo[1.1.1]pentane, which are not bonded, are 1.23 apart.
LONGEST_BOND, CLOSEST_NON_BOND = 1.3, 1.15
MAX_MATCHES = 1000

Bonds = list[tuple[int, int]]


def match_atoms(molecule: Chem.Mol, geometry: Geometry) -> list[int] | None:
    """Return the number in the geometry of each atom of the molecule.

    Args:
        molecule: from a SMILES, with all hydrogens as atoms.
        geometry: coordinates of the same atoms. The order of the SMILES is accepted if one conformer has its bonds in
            that order; otherwise the first conformer with these bonds determines the order. Depictions have other bond
            lengths: if there are some and no conformer has the bonds, the order of the SMILES is taken.

    Returns:
        The order; None if elements or bonds differ. Of several matches, one with the stereochemistry of the SMILES is
        preferred, and one with double bonds between close atoms.
    """
    symbols = [atom.GetSymbol() for atom in molecule.GetAtoms()]
    in_order = symbols == list(geometry.symbols)
    if sorted(symbols) != sorted(geometry.symbols):
        return None
    flat = [origin == ConformerOrigin.FLAT for origin in geometry.origins]
    solid_first = sorted(range(len(flat)), key=flat.__getitem__)
    if in_order and any(_has_bonds_of(molecule, geometry, conformer) for conformer in solid_first):
        return list(range(len(symbols)))
    for conformer in solid_first:
        positions = geometry.positions[conformer].astype(np.float64)
        relative = _relative_distances(geometry.symbols, positions)
        order = _match_bonds(molecule, geometry.symbols, positions, relative)
        if order is not None:
            return _with_given_stereo(molecule, order, positions)
    return list(range(len(symbols))) if in_order and any(flat) else None


def match_graphs(ours: Chem.Mol, theirs: Chem.Mol) -> list[tuple[int, ...]]:
    """Return the mappings of the heavy atoms of ``ours`` onto those of ``theirs``, as tuples of indices.

    A mapping must keep elements, bonds (whatever their order) and the hydrogens at each atom.
    """
    skeletons = []
    for molecule in (ours, theirs):
        symbols = [atom.GetSymbol() for atom in molecule.GetAtoms()]
        counts = [atom.GetTotalNumHs(includeNeighbors=True) for atom in molecule.GetAtoms()]
        skeletons.append(_Skeleton(symbols, _bonds(molecule), counts))
    mine, other = skeletons
    if mine.graph.GetNumAtoms() != other.graph.GetNumAtoms() or mine.graph.GetNumBonds() != other.graph.GetNumBonds():
        return []
    matches = other.graph.GetSubstructMatches(mine.graph, uniquify=False, maxMatches=MAX_MATCHES)
    return [tuple(other.heavy[at] for at in match) for match in matches]


def distances(positions: Float64) -> Float64:
    """Return the distances [n, n] between positions [n, 3]."""
    between: Float64 = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    return between


def add_conformer(molecule: Chem.Mol, positions: Float32 | Float64) -> None:
    """Add positions [n, 3] Å as a conformer of the molecule, in place."""
    conformer = Chem.Conformer(len(positions))
    for number, position in enumerate(positions.tolist()):
        conformer.SetAtomPosition(number, Point3D(*position))
    molecule.AddConformer(conformer, assignId=True)


def _relative_distances(symbols: Sequence[str], positions: Float64) -> Float64:
    table = Chem.GetPeriodicTable()
    radii = np.array([table.GetRcovalent(symbol) for symbol in symbols])
    relative: Float64 = distances(positions) / (radii[:, None] + radii[None])
    np.fill_diagonal(relative, np.inf)
    return relative


def _bonds(molecule: Chem.Mol) -> Bonds:
    return [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()]


def _has_bonds_of(molecule: Chem.Mol, geometry: Geometry, conformer: int) -> bool:
    relative = _relative_distances(geometry.symbols, geometry.positions[conformer].astype(np.float64))
    for fragment in Chem.GetMolFrags(molecule):  # fragments are checked one by one, since they may overlap
        outside = np.setdiff1d(np.arange(len(relative)), fragment)
        relative[np.ix_(fragment, outside)] = np.inf
    return _agree(_bonds(molecule), relative)


def _agree(bonds: Bonds, relative: Float64) -> bool:
    bonded = np.zeros(relative.shape, bool)
    for first, second in bonds:
        bonded[first, second] = bonded[second, first] = True
    return bool(np.all(relative[bonded] <= LONGEST_BOND) and np.all(relative[~bonded] >= CLOSEST_NON_BOND))


def _match_bonds(molecule: Chem.Mol, symbols: Sequence[str], positions: Float64, relative: Float64) -> list[int] | None:
    first, second = np.triu_indices(len(relative), 1)
    closest = np.argsort(relative[first, second], kind="stable")[: molecule.GetNumBonds()]
    bonds = sorted(zip(first[closest].tolist(), second[closest].tolist(), strict=True))
    if not _agree(bonds, relative):
        return None
    wanted = _Skeleton([atom.GetSymbol() for atom in molecule.GetAtoms()], _bonds(molecule))
    found = _Skeleton(symbols, bonds)
    if wanted.graph.GetNumBonds() != found.graph.GetNumBonds():
        return None
    matches = found.graph.GetSubstructMatches(wanted.graph, uniquify=False, maxMatches=MAX_MATCHES)
    if not matches:
        return None
    ends = np.array(_bonds(molecule), np.int64).reshape(-1, 2)
    multiplicity = np.array([bond.GetBondTypeAsDouble() for bond in molecule.GetBonds()])

    def strain(order: list[int]) -> float:
        placed = positions[order]
        return float(multiplicity @ np.linalg.norm(placed[ends[:, 0]] - placed[ends[:, 1]], axis=1))

    order = min((wanted.order_in(found, match) for match in matches), key=strain)
    return order if sorted(order) == list(range(len(symbols))) else None  # a hydrogen at two atoms, or at none


class _Skeleton:
    """Heavy atoms and their bonds without orders; an isotope number encodes the hydrogens at each atom.

    Hydrogens of one atom are interchangeable, and matching them one by one would try all their permutations.
    """

    def __init__(self, symbols: Sequence[str], bonds: Bonds, counts: Sequence[int] | None = None) -> None:
        """Take the hydrogens at each atom from ``counts``, or else count those that are atoms."""
        self.heavy = [number for number, symbol in enumerate(symbols) if symbol != "H"]
        self._hydrogens: dict[int, list[int]] = {number: [] for number in self.heavy}
        place = {number: at for at, number in enumerate(self.heavy)}
        graph = Chem.RWMol()
        for first, second in bonds:
            for atom, other in ((first, second), (second, first)):
                if atom in place and other not in place:
                    self._hydrogens[atom].append(other)
        for number in self.heavy:
            atom = Chem.Atom(symbols[number])
            atom.SetIsotope(len(self._hydrogens[number]) if counts is None else counts[number])
            graph.AddAtom(atom)
        for first, second in bonds:
            if first in place and second in place:
                graph.AddBond(place[first], place[second], Chem.BondType.SINGLE)
        self.graph = graph.GetMol()

    def order_in(self, other: "_Skeleton", match: tuple[int, ...]) -> list[int]:
        """Return the index in ``other`` of each atom, hydrogens included, for a given match of the heavy atoms."""
        order: dict[int, int] = {}
        for mine, at in zip(self.heavy, match, strict=True):
            theirs = other.heavy[at]
            order[mine] = theirs
            order.update(zip(self._hydrogens[mine], other._hydrogens[theirs], strict=True))
        return [order[number] for number in sorted(order)]


def _with_given_stereo(molecule: Chem.Mol, order: list[int], positions: Float64) -> list[int]:
    """Choose, among the symmetry-equivalent matches, one with the stereochemistry of the SMILES if there is one."""
    placed = Chem.Mol(molecule)
    add_conformer(placed, positions[order])
    Chem.AssignStereochemistryFrom3D(placed)
    match = placed.GetSubstructMatch(molecule, useChirality=True)
    return [order[at] for at in match] if match else order
