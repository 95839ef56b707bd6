"""Which stereo a SMILES specifies or leaves open, and whether conformers have it. Imports RDKit.

The comparison uses geometry alone: the handedness of the four points around a tetrahedral centre, and on which sides of
a double bond its substituents lie. Nothing is perceived anew, so CIP ranks and rings cannot differ between the two
sides of the comparison, and a pseudo-asymmetric centre is treated like any other. Only if elements differ does the code
ask whether that makes another stereoisomer: the mirror image of a meso compound does not.

What cannot be judged counts as open: the arrangement around a metal (square planar, trigonal bipyramidal, octahedral),
which ETKDG does not enforce; the axis of an allene; and the centres and axes of a flat depiction. The same holds for
the centres of a racemate or of relative stereo (``|&1:2|``, ``|o1:2|``), where a conformer shows one of the
stereoisomers that are meant. RDKit does not treat a nitrogen that inverts at room temperature as a centre.
"""

import dataclasses

import numpy as np
import numpy.typing as npt
from rdkit import Chem

from conformer_gen.chemistry.atropisomers import axes_of
from unimol_scale.store.schema import ConformerStereo, Float32, Float64, Int64, UInt8

Bool = npt.NDArray[np.bool_]

TETRAHEDRAL = {Chem.ChiralType.CHI_TETRAHEDRAL_CCW: 1, Chem.ChiralType.CHI_TETRAHEDRAL_CW: -1}
# Z and E refer to the bond's stereo atoms, as cis and trans do.
DOUBLE = {
    Chem.BondStereo.STEREOZ: 1,
    Chem.BondStereo.STEREOCIS: 1,
    Chem.BondStereo.STEREOE: -1,
    Chem.BondStereo.STEREOTRANS: -1,
}
RELATIVE = (Chem.StereoGroupType.STEREO_AND, Chem.StereoGroupType.STEREO_OR)
OPPOSITE = {
    Chem.BondStereo.STEREOZ: Chem.BondStereo.STEREOE,
    Chem.BondStereo.STEREOE: Chem.BondStereo.STEREOZ,
    Chem.BondStereo.STEREOCIS: Chem.BondStereo.STEREOTRANS,
    Chem.BondStereo.STEREOTRANS: Chem.BondStereo.STEREOCIS,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Elements:
    """The stereo elements that the SMILES specifies and that can be judged.

    Attributes:
        centres: [c, 5] a tetrahedral centre and its neighbours in RDKit's order; the centre itself stands for a lone
            pair.
        hands: [c] +1 where the SMILES says counter-clockwise, −1 where it says clockwise.
        bonds: [d] bond indices.
        paths: [d, 4] the two atoms of a double bond between its two stereo atoms.
        sides: [d] +1 where the SMILES puts the stereo atoms on the same side, −1 on opposite sides.
        axes: [a, 4] the two ends of an atropisomer's axis between a neighbour of each.
        turns: [a] the sign of the dihedral angle over these four atoms.
        relative: positions in ``centres`` of those that are specified only relative to each other, group by group.
        all_judged: whether every specified element is listed here and none is only relative.
    """

    centres: Int64
    hands: Int64
    bonds: Int64
    paths: Int64
    sides: Int64
    axes: Int64
    turns: Int64
    relative: tuple[Int64, ...]
    all_judged: bool


def compare_stereo(smiles: str, full: Chem.Mol, coordinates: Float32 | Float64, flat: Bool) -> UInt8:
    """Compare conformers with the stereo that the SMILES specifies.

    If the coordinates lack hydrogens, a centre's position replaces that of its own hydrogen, which lies on the side
    away
    from its three other neighbours.

    Args:
        smiles: of the molecule.
        full: the molecule, read from ``smiles`` and then given hydrogens, which come last.
        coordinates: [k, n, 3] Å of all its atoms, or of all but the hydrogens.
        flat: bool [k], whether a conformer is a depiction, which can show only double bonds.

    Returns:
        uint8 [k] codes of ``ConformerStereo``.
    """
    elements = _given(smiles, full)
    hands = np.sign(_volumes(elements.centres, coordinates)).astype(np.int64)
    hands[flat] = elements.hands
    for group in elements.relative:
        mirrored = (hands[:, group] == -elements.hands[group]).all(axis=1)
        hands[np.ix_(mirrored, group)] *= -1
    sides = np.sign(_alignments(elements.paths, coordinates)).astype(np.int64)
    differs = (hands != elements.hands).any(axis=1) | (sides != elements.sides).any(axis=1)
    for at in np.flatnonzero(differs):
        differs[at] = not _same_isomer(full, elements, hands[at], sides[at])
    turns = np.sign(_turning(elements.axes, coordinates)).astype(np.int64)
    turns[flat] = elements.turns
    differs |= (turns != elements.turns).any(axis=1)
    judged = elements.all_judged and not any(_is_open(element, full) for element in Chem.FindPotentialStereo(full))
    is_open = (flat & (len(elements.centres) + len(elements.axes) > 0)) | (not judged)
    codes = np.where(is_open, ConformerStereo.OPEN, ConformerStereo.AS_GIVEN)
    return np.where(differs, ConformerStereo.CHANGED, codes).astype(np.uint8)


def _given(smiles: str, full: Chem.Mol) -> _Elements:
    centres, hands, bonds, paths, sides = [], [], [], [], []
    all_judged = True
    # Examining each atom and bond would cost more than everything else, and most molecules specify nothing.
    for atom in full.GetAtoms() if "@" in smiles else ():
        tag = atom.GetChiralTag()
        if tag == Chem.ChiralType.CHI_UNSPECIFIED:
            continue
        neighbours = [bond.GetOtherAtomIdx(atom.GetIdx()) for bond in atom.GetBonds()]
        if tag in TETRAHEDRAL and len(neighbours) in (3, 4):
            centres.append([atom.GetIdx(), *neighbours, *[atom.GetIdx()] * (4 - len(neighbours))])
            hands.append(TETRAHEDRAL[tag])
        else:
            all_judged = False
    for bond in full.GetBonds() if "/" in smiles or "\\" in smiles else ():
        if bond.GetStereo() in DOUBLE:
            first, last = bond.GetStereoAtoms()
            bonds.append(bond.GetIdx())
            paths.append([first, bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), last])
            sides.append(DOUBLE[bond.GetStereo()])
    axes = axes_of(full) if "|" in smiles else []
    groups = [group for group in full.GetStereoGroups() if group.GetGroupType() in RELATIVE]
    places = {centre[0]: at for at, centre in enumerate(centres)}
    members = [[places[a.GetIdx()] for a in group.GetAtoms() if a.GetIdx() in places] for group in groups]
    return _Elements(
        centres=np.array(centres, np.int64).reshape(-1, 5),
        hands=np.array(hands, np.int64),
        bonds=np.array(bonds, np.int64),
        paths=np.array(paths, np.int64).reshape(-1, 4),
        sides=np.array(sides, np.int64),
        axes=np.array([axis[:4] for axis in axes], np.int64).reshape(-1, 4),
        turns=np.array([axis.turn for axis in axes], np.int64),
        relative=tuple(np.array(group, np.int64) for group in members),
        all_judged=all_judged and not groups,
    )


def _is_open(element: Chem.StereoInfo, full: Chem.Mol) -> bool:
    if element.specified == Chem.StereoSpecified.Specified:
        return False
    if element.type != Chem.StereoType.Bond_Double:
        return True
    bond = full.GetBondWithIdx(element.centeredOn)
    ends = (bond.GetBeginAtom(), bond.GetEndAtom())
    # RDKit treats the double bonds of isocyanates and terminal allenes as stereo bonds.
    return all(end.GetHybridization() != Chem.HybridizationType.SP for end in ends)


def _volumes(centres: Int64, coordinates: Float32 | Float64) -> Float64:
    """Return six times the signed volume of the neighbours' tetrahedra, [k, c] Å³; positive means counter-clockwise."""
    corners = np.where(centres < coordinates.shape[1], centres, centres[:, :1])[:, 1:]
    points = coordinates[:, corners].astype(np.float64)
    volumes: Float64 = np.linalg.det(points[:, :, :3] - points[:, :, 3:])
    return volumes


def _alignments(paths: Int64, coordinates: Float32 | Float64) -> Float64:
    """Return how far the two stereo atoms lie on the same side of their bond, [k, d] Å⁴; negative if opposite."""
    points = coordinates[:, paths].astype(np.float64)
    axis = points[:, :, 2] - points[:, :, 1]
    one, other = points[:, :, 0] - points[:, :, 1], points[:, :, 3] - points[:, :, 2]
    # The dot product of their components perpendicular to the bond, times its squared length.
    alignments: Float64 = _dot(one, other) * _dot(axis, axis) - _dot(one, axis) * _dot(other, axis)
    return alignments


def _turning(axes: Int64, coordinates: Float32 | Float64) -> Float64:
    """Return numbers with the signs of the dihedral angles, [k, a] Å³."""
    points = coordinates[:, axes].astype(np.float64)
    turning: Float64 = np.linalg.det(np.diff(points, axis=2))
    return turning


def _dot(one: Float64, other: Float64) -> Float64:
    product: Float64 = np.einsum("kdx,kdx->kd", one, other)
    return product


def _same_isomer(full: Chem.Mol, elements: _Elements, hands: Int64, sides: Int64) -> bool:
    """Return whether the molecule with these elements is the same stereoisomer up to a renumbering of atoms."""
    if not (hands.all() and sides.all()):
        return False
    other = Chem.Mol(full)
    for atom in elements.centres[hands != elements.hands, 0]:
        other.GetAtomWithIdx(int(atom)).InvertChirality()
    for bond in elements.bonds[sides != elements.sides]:
        turned = other.GetBondWithIdx(int(bond))
        turned.SetStereo(OPPOSITE[turned.GetStereo()])
    # RDKit writes double bonds by the directions of the bonds beside them, which are still the old ones.
    for single in other.GetBonds():
        single.SetBondDir(Chem.BondDir.NONE)
    Chem.SetDoubleBondNeighborDirections(other)
    return _canonical(other) == _canonical(full)


def _canonical(molecule: Chem.Mol) -> str:
    written: str = Chem.MolToSmiles(molecule)
    read = Chem.MolFromSmiles(written)  # tags that were set by hand are ranked again only on reading
    return written if read is None else str(Chem.MolToSmiles(read))
