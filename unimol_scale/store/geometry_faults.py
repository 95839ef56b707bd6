"""Checks whether coordinates are plausible for a molecule: no coincident atoms, bonded atoms at bonding distance.

NumPy only. The builder and ``store verify`` apply the same rules. Distances are given as multiples of the sum of the
two covalent radii (Cordero et al. 2008; Pyykkö and Atsumi 2009 for the elements beyond curium), so an ordinary single
bond is near 1.0.

The limits leave a margin around what real molecules show. They were set on the 4,856 molecules of the NCI sample, 500
rows of ZINC20, 1,999 and 14,170 DFT geometries of PCQM4Mv2 and QM9, and the 2,859 experimental ligands of Platinum,
all with hydrogens. There, bonds between non-metals range from 0.67 to 1.19, and bonds to metals, which are built
without a force field, from 0.56 to 1.29. Atoms that are not bonded are at least 1.17 apart (the shortest case is the
cage of a bicyclo[1.1.0]butane). Two neighbours of one atom that are not bonded to each other span at least 68°.

Shapes: B conformers, with A atoms and E bonds in total.
"""

import dataclasses
import enum

import numpy as np
import numpy.typing as npt

from unimol_scale.store.schema import Float32, Float64, Int64, UInt8, ragged_indices

Bool = npt.NDArray[np.bool_]

# Å, from hydrogen to oganesson.
COVALENT_RADII = """
0.31 0.28 1.28 0.96 0.84 0.76 0.71 0.66 0.57 0.58 1.66 1.41 1.21 1.11 1.07 1.05 1.02 1.06 2.03 1.76 1.7 1.6 1.52
1.39 1.39 1.32 1.26 1.24 1.32 1.22 1.22 1.2 1.19 1.2 1.2 1.16 2.2 1.95 1.9 1.75 1.64 1.54 1.47 1.46 1.42 1.39 1.45
1.44 1.42 1.39 1.39 1.38 1.39 1.4 2.44 2.15 2.07 2.04 2.03 2.01 1.99 1.98 1.98 1.96 1.94 1.92 1.92 1.89 1.9 1.87
1.87 1.75 1.7 1.62 1.51 1.44 1.41 1.36 1.36 1.32 1.45 1.46 1.48 1.4 1.5 1.5 2.6 2.2 2.15 2.06 2 1.96 1.9 1.87 1.8
1.69 1.9 1.9 1.9 1.9 1.9 1.9 1.9 1.9 1.9 1.9 1.9 1.9 1.9 1.9 1.9 1.9 1.36 1.43 1.62 1.75 1.65 1.57
"""
NON_METALS = frozenset({1, 2, *range(5, 11), *range(14, 19), *range(32, 37), *range(51, 55), 85, 86})
IS_METAL: Bool = np.array([number > 0 and number not in NON_METALS for number in range(256)])
RADII: Float64 = np.array([0.0, *map(float, COVALENT_RADII.split()), *[1.5] * 137])  # one entry for every uint8 value

# In units of the sum of the covalent radii; the second value is for pairs with a metal.
SHORTEST_BOND, LONGEST_BOND, CLOSEST_PAIR = (0.55, 0.5), (1.4, 1.6), (1.1, 0.6)
# Degrees between two neighbours of an atom, neither of them a metal, that are not bonded to each other. Around a metal,
# ligands that bind with two atoms, such as nitrate, reach down to 50°.
SMALLEST_ANGLE = (55.0, 45.0)
# Applies to two atoms that share a hydrogen, as in diborane, and to all pairs in a metal complex of an old store.
CLOSEST_AT_ALL = 0.5
COINCIDENT_A = 0.1
# RDKit draws most bonds 1.5 Å long. In 12,800 depictions, at least 47 % of the bonds have that length and their mean is
# at most 1.81 Å. A depiction with its atoms in reverse order passes only if the molecule reads the same both ways.
DRAWN_BOND_A, DRAWN_WITHIN, DRAWN_SHARE, DRAWN_MEAN_A = 1.5, 0.02, 0.4, 2.0
FLAT_WITHIN_A = 1e-6
PAIRS_AT_ONCE = 2_000_000


class Fault(enum.IntEnum):
    """A reason why coordinates cannot be those of a molecule."""

    NONE = 0
    NOT_FINITE = 1
    COINCIDENT = 2  # two atoms at the same point
    LONG_BOND = 3
    SHORT_BOND = 4
    CLOSE = 5  # two atoms that are not bonded but too near each other
    SMALL_ANGLE = 6


@dataclasses.dataclass(frozen=True)
class Conformers:
    """Conformers with their atoms and bonds, one after another.

    Attributes:
        num_atoms: [B] atoms of each conformer.
        atomic_number: [A].
        bonds: [E, 2] indices into the A atoms, in ascending order of conformer; each bond once.
        coordinates: [A, 3] Å.
    """

    num_atoms: npt.NDArray[np.integer]
    atomic_number: UInt8
    bonds: Int64
    coordinates: Float32 | Float64

    @property
    def owner(self) -> Int64:
        """Conformer of each atom, [A]."""
        owners: Int64 = np.repeat(np.arange(len(self.num_atoms)), self.num_atoms)
        return owners

    @staticmethod
    def of_one_molecule(atomic_number: UInt8, bonds: Int64, coordinates: Float32 | Float64) -> "Conformers":
        """Return k conformers of one molecule: atomic numbers [n], bonds [m, 2] and coordinates [k, n, 3]."""
        k, n, _ = coordinates.shape
        shifts = n * np.repeat(np.arange(k), len(bonds))
        return Conformers(
            num_atoms=np.full(k, n),
            atomic_number=np.tile(atomic_number, k),
            bonds=np.tile(bonds.reshape(-1, 2), (k, 1)) + shifts[:, None],
            coordinates=coordinates.reshape(-1, 3),
        )


@dataclasses.dataclass(frozen=True)
class Faults:
    """The first fault of each of B conformers.

    Attributes:
        code: uint8 [B] codes of ``Fault``.
        atoms: [B, 2] the two atoms concerned, numbered from 0 within their molecule.
        value: [B] their distance in Å, or the angle in degrees.
    """

    code: UInt8
    atoms: Int64
    value: Float64

    def describe(self, at: int) -> str:
        """Return the fault of conformer ``at`` as a clause for a message."""
        first, second = self.atoms[at].tolist()
        pair, value = f"atoms {first} and {second}", float(self.value[at])
        return {
            Fault.NONE: "nothing is wrong",
            Fault.NOT_FINITE: "a coordinate is not a finite number",
            Fault.COINCIDENT: f"{pair} lie at the same point",
            Fault.LONG_BOND: f"{pair} are bonded but lie {value:.2f} Å apart",
            Fault.SHORT_BOND: f"{pair} are bonded but lie only {value:.2f} Å apart",
            Fault.CLOSE: f"{pair} are not bonded but lie only {value:.2f} Å apart",
            Fault.SMALL_ANGLE: f"{pair} are neighbours of one atom at an angle of only {value:.0f}°",
        }[Fault(int(self.code[at]))]


def find_faults(conformers: Conformers, *, old_complexes: bool = False) -> Faults:
    """Find the first fault of each conformer.

    Args:
        conformers: any number of conformers of any molecules.
        old_complexes: check metal complexes less strictly: only coincident atoms and bond lengths count. Stores of
            earlier versions contain complexes whose ligands clash, since no force field covers them.

    Returns:
        The fault of each conformer. Where a conformer has several, the first of this order is reported: not finite,
        bonds, atoms that are not bonded, angles.
    """
    found = _Found(len(conformers.num_atoms))
    owner = conformers.owner
    is_bad = ~np.isfinite(conformers.coordinates).all(axis=1)
    found.add(Fault.NOT_FINITE, owner[is_bad], np.zeros((int(is_bad.sum()), 2), np.int64), np.zeros(int(is_bad.sum())))
    points = np.where(np.isfinite(conformers.coordinates), conformers.coordinates, 0.0).astype(np.float64)
    firsts = np.cumsum(conformers.num_atoms) - conformers.num_atoms
    starts = firsts[owner]
    metal = IS_METAL[conformers.atomic_number]
    lenient = np.zeros(len(conformers.num_atoms), bool)
    if old_complexes:
        lenient[owner[metal]] = True
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        _judge_bonds(conformers, points, metal, found, owner, starts)
        triples = _neighbour_pairs(conformers.bonds, len(owner))
        _judge_pairs(conformers, points, triples, lenient, found)
        _judge_angles(conformers, points, triples, metal | lenient[owner], found, owner, starts)
    return Faults(found.code, found.atoms, found.value)


def is_drawn(conformers: Conformers) -> Bool:
    """Return bool [B]: whether a conformer is a 2D depiction, that is flat with many bonds of RDKit's drawing length.

    The real geometry of a flat molecule is not reported, because its bond lengths differ. A single atom counts as
    drawn.
    """
    owner, total = conformers.owner, len(conformers.num_atoms)
    out_of_plane = ~(np.abs(conformers.coordinates[:, 2]) < FLAT_WITHIN_A)
    is_flat = np.bincount(owner[out_of_plane], minlength=total) == 0
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = _lengths(conformers.coordinates.astype(np.float64), conformers.bonds)
        drawn = np.abs(lengths - DRAWN_BOND_A) < DRAWN_WITHIN * DRAWN_BOND_A
    bond_owner = owner[conformers.bonds[:, 0]]
    num_bonds = np.bincount(bond_owner, minlength=total)
    enough = np.bincount(bond_owner[drawn], minlength=total) >= DRAWN_SHARE * num_bonds
    drawn_all: Bool = is_flat & enough & (np.bincount(bond_owner, lengths, total) <= DRAWN_MEAN_A * num_bonds)
    return drawn_all


class _Found:
    """Collects the first fault of each conformer."""

    def __init__(self, number: int) -> None:
        self.code = np.zeros(number, np.uint8)
        self.atoms = np.zeros((number, 2), np.int64)
        self.value = np.zeros(number)

    def add(self, fault: Fault, owners: Int64, atoms: Int64, values: Float64) -> None:
        """Record the smallest value of each conformer that has no fault yet, or the largest for long bonds."""
        order = np.argsort(-values if fault == Fault.LONG_BOND else values, kind="stable")
        order = order[self.code[owners[order]] == Fault.NONE]
        which, first = np.unique(owners[order], return_index=True)
        chosen = order[first]
        self.code[which], self.atoms[which], self.value[which] = fault, atoms[chosen], values[chosen]


def _lengths(points: Float64, pairs: Int64) -> Float64:
    lengths: Float64 = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1)
    return lengths


def _judge_bonds(
    conformers: Conformers, points: Float64, metal: Bool, found: _Found, owner: Int64, starts: Int64
) -> None:
    bonds = conformers.bonds
    lengths = _lengths(points, bonds)
    usual = RADII[conformers.atomic_number[bonds]].sum(axis=1)
    with_metal = metal[bonds].any(axis=1).astype(np.int64)
    for fault, bad in (
        (Fault.COINCIDENT, lengths < COINCIDENT_A),
        (Fault.LONG_BOND, ~(lengths <= np.array(LONGEST_BOND)[with_metal] * usual)),
        (Fault.SHORT_BOND, lengths < np.array(SHORTEST_BOND)[with_metal] * usual),
    ):
        found.add(fault, owner[bonds[bad, 0]], bonds[bad] - starts[bonds[bad]], lengths[bad])


def _neighbour_pairs(bonds: Int64, num_atoms: int) -> Int64:
    """Return [T, 3]: an atom and two of its neighbours. Each pair of neighbours appears once."""
    ends = np.concatenate([bonds, bonds[:, ::-1]])
    ends = ends[np.argsort(ends[:, 0], kind="stable")]
    degrees = np.bincount(ends[:, 0], minlength=num_atoms)
    firsts = np.cumsum(degrees) - degrees
    lengths = degrees[ends[:, 0]]
    partner = ragged_indices(firsts[ends[:, 0]], lengths)
    own = np.repeat(np.arange(len(ends)), lengths)
    once = own < partner
    return np.column_stack([ends[own[once], 0], ends[own[once], 1], ends[partner[once], 1]])


def _judge_pairs(conformers: Conformers, points: Float64, triples: Int64, lenient: Bool, found: _Found) -> None:
    """Check pairs of atoms that are not bonded. Conformers of the same size are checked together."""
    numbers, num_atoms, owner = conformers.atomic_number, conformers.num_atoms, conformers.owner
    firsts = np.cumsum(num_atoms) - num_atoms
    bridged = triples[numbers[triples[:, 0]] == 1][:, 1:]
    for size in np.unique(num_atoms).tolist():
        alike = np.flatnonzero(num_atoms == size)
        step = max(1, PAIRS_AT_ONCE // (size * size))
        for start in range(0, len(alike), step):
            part = alike[start : start + step]
            place = np.full(len(num_atoms), -1)
            place[part] = np.arange(len(part))
            atoms = firsts[part][:, None] + np.arange(size)
            metal = IS_METAL[numbers[atoms]]
            limit = np.where(metal[:, :, None] | metal[:, None], CLOSEST_PAIR[1], CLOSEST_PAIR[0])
            limit[lenient[part]] = CLOSEST_AT_ALL
            for pairs, value in ((bridged, CLOSEST_AT_ALL), (conformers.bonds, 0.0)):
                row = place[owner[pairs[:, 0]]]
                inside = row >= 0
                ends = pairs[inside] - firsts[owner[pairs[inside, 0]]][:, None]
                limit[row[inside], ends[:, 0], ends[:, 1]] = value
                limit[row[inside], ends[:, 1], ends[:, 0]] = value
            radii = RADII[numbers[atoms]]
            limit *= radii[:, :, None] + radii[:, None]
            placed = points[atoms]
            distance = np.sqrt(((placed[:, :, None] - placed[:, None]) ** 2).sum(axis=-1))
            where = np.argwhere(np.triu(distance < limit, 1))
            values = distance[where[:, 0], where[:, 1], where[:, 2]]
            for fault, bad in ((Fault.COINCIDENT, values < COINCIDENT_A), (Fault.CLOSE, values >= COINCIDENT_A)):
                found.add(fault, part[where[bad, 0]], where[bad, 1:], values[bad])


def _judge_angles(
    conformers: Conformers,
    points: Float64,
    triples: Int64,
    exempt: Bool,
    found: _Found,
    owner: Int64,
    starts: Int64,
) -> None:
    """Check the angles between neighbours that are not bonded to each other, except where ``exempt`` is set."""
    size = len(owner)
    pair = np.array([size, 1])
    bonded = np.concatenate([conformers.bonds @ pair, conformers.bonds[:, ::-1] @ pair])
    triples = triples[~exempt[triples[:, 1:]].any(axis=1)]
    triples = triples[~np.isin(triples[:, 1:] @ pair, bonded)]
    one = points[triples[:, 1]] - points[triples[:, 0]]
    other = points[triples[:, 2]] - points[triples[:, 0]]
    cosine = (one * other).sum(axis=1) / (np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1))
    angle = np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))
    bad = angle < np.array(SMALLEST_ANGLE)[IS_METAL[conformers.atomic_number[triples[:, 0]]].astype(np.int64)]
    pairs = triples[bad, 1:]
    found.add(Fault.SMALL_ANGLE, owner[pairs[:, 0]], pairs - starts[pairs], angle[bad])
