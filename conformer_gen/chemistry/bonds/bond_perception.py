"""Elements and coordinates → a molecule with bonds, for files that give none. Imports RDKit.

Which atoms are bonded is told by their distances and by how many bonds an element can have; bond orders, charges and
unpaired electrons are RDKit's choice (``rdDetermineBonds``, after Kim and Kim 2015, Bull. Korean Chem. Soc. 36, 1769).
The net charge is the file's, or else the first that gives a usual molecule.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDetermineBonds

from conformer_gen.chemistry.bonds.atom_matching import add_conformer
from conformer_gen.sources.frames import ATOMIC_NUMBERS, neighbours, relative_distances
from conformer_gen.sources.molecule import Rejected
from unimol_scale.store.geometry_faults import RADII
from unimol_scale.store.schema import Float32, Float64

# Elements whose bonds follow from distances and valences, and the most bonds that an atom of each has: atoms, not
# orders. Of all others, metals above all, a distance does not tell a bond.
MOST_NEIGHBOURS = {
    **{"H": 1, "B": 4, "C": 4, "N": 4, "O": 3, "F": 1, "Si": 4, "P": 6, "S": 6, "Cl": 4, "Ge": 4, "As": 4, "Se": 4},
    **{"Br": 4, "Te": 4, "I": 4},
}
# Charges that are tried where the file says none; the least unusual ion is taken. A usual charged atom costs 1.
CHARGES = (0, 1, -1, 2, -2, 3, -3, 4, -4)
COST_OF_CHARGE = 0.6  # of each elementary charge of the whole: a zwitterion costs less than an ion with as many charges
UNUSUAL = 3.0
COSTS = {("N", 1): 1.0, ("P", 1): 1.0, ("N", -1): 1.5, ("O", -1): 1.0, ("S", -1): 1.0, ("B", -1): 1.0}
COST_OF_NITROSYL = 1.5
OTHER_ORDERS = 3  # of the atoms, beside their own and its reverse, in which bond orders are looked for
# Elements that are drawn with double bonds to oxygen, and how many neighbours they have without.
USUAL_NEIGHBOURS = {"P": 3, "S": 2, "As": 3, "Se": 2, "Te": 2}
SULFONYL_NEIGHBOURS = 4
TRIPLE = Chem.BondType.TRIPLE
LONGEST_TRIPLE = 0.88  # in units of the sum of the covalent radii: 1.34 Å of C≡C, which is 1.20 Å long at rest
MOST_UNPAIRED = 2  # electrons
MOST_HEAVY_ATOMS = 1_000  # as many as a molecule of a store can have
MAX_ITERATIONS = 20_000  # of the search for bond orders: tens of milliseconds; what needs more is rejected

Bonds = list[tuple[int, int]]


def perceive_bonds(symbols: Sequence[str], positions: Float32 | Float64, charge: int | None) -> Chem.Mol | Rejected:
    """Return the sanitised molecule of some atoms, which it has in their order, with stereo and one conformer.

    Args:
        symbols: element of each of n atoms; all hydrogens are there.
        positions: [n, 3] Å.
        charge: of all together; None: to be searched among ``CHARGES``.

    Returns:
        The molecule, perhaps of several fragments; rejected where bonds cannot be told from distances.

    Raises:
        RuntimeError, ValueError: RDKit's, for chemistry it does not cope with.
    """
    unknown = sorted(set(symbols) - MOST_NEIGHBOURS.keys())
    if unknown:
        detail = f"bonds of {', '.join(unknown)} cannot be told from distances; give a SMILES beside the coordinates"
        return Rejected(reason="metal_or_unknown_element", detail=detail)
    if len(symbols) - symbols.count("H") > MOST_HEAVY_ATOMS:
        detail = f"bonds of more than {MOST_HEAVY_ATOMS:,} heavy atoms are not looked for"
        return Rejected(reason="too_many_atoms", detail=detail)
    skeleton = _skeleton(symbols, positions, connect(symbols, positions))
    found: list[Chem.Mol] = []
    for one, charged in _ways(symbols, charge):
        if found and (not charged or min(map(_cost_of_ion, found)) <= abs(one) * (1.0 + COST_OF_CHARGE)):
            break  # unpaired electrons are the last resort, and no such ion costs less
        molecule = _with_best_orders(skeleton, one, charged=charged)
        if molecule is not None and _is_usual(molecule, guessed=charge is None and one != 0):
            found.append(molecule)
    if found:
        return min(found, key=_cost_of_ion)  # of equal ones the first, whose charge is smaller
    tried = f"charge {charge}" if charge is not None else f"any of the charges {', '.join(map(str, CHARGES))}"
    return Rejected(
        reason="bonds_not_perceived", detail=f"no bond orders fit the atoms and their neighbours with {tried}"
    )


def connect(symbols: Sequence[str], positions: Float32 | Float64) -> Bonds:
    """Return the pairs of atoms that are bonded, ascending.

    All pairs nearer than bonds can be long; then every atom with more neighbours than its element can have, those with
    the most too many first, loses the bond that is longest for its kind.

    Args:
        symbols: element of each of n atoms.
        positions: [n, 3] Å.
    """
    numbers = np.array([ATOMIC_NUMBERS[symbol] for symbol in symbols])
    relative = relative_distances(numbers, positions.astype(np.float64))
    bonded = neighbours(numbers, positions.astype(np.float64))
    most = np.array([MOST_NEIGHBOURS[symbol] for symbol in symbols])
    while (excess := bonded.sum(axis=1) - most).max(initial=0) > 0:
        atom = int(excess.argmax())
        other = int(np.where(bonded[atom], relative[atom], -np.inf).argmax())
        bonded[atom, other] = bonded[other, atom] = False
    first, second = np.nonzero(np.triu(bonded))
    return list(zip(first.tolist(), second.tolist(), strict=True))


def _ways(symbols: Sequence[str], charge: int | None) -> Iterator[tuple[int, bool]]:
    """Yield net charges to try, and whether valences are filled with charges (or else with unpaired electrons)."""
    protons = sum(ATOMIC_NUMBERS[symbol] for symbol in symbols)
    charges = CHARGES if charge is None else (charge,)
    yield from ((one, True) for one in charges if (protons - one) % 2 == 0)
    yield charges[0], False


def _skeleton(symbols: Sequence[str], positions: Float32 | Float64, bonds: Bonds) -> Chem.Mol:
    molecule = Chem.RWMol()
    for symbol in symbols:
        atom = Chem.Atom(symbol)
        atom.SetNoImplicit(True)
        molecule.AddAtom(atom)
    for first, second in bonds:
        molecule.AddBond(first, second, Chem.BondType.SINGLE)
    whole = molecule.GetMol()
    add_conformer(whole, positions)
    return whole


def _with_best_orders(skeleton: Chem.Mol, charge: int, *, charged: bool) -> Chem.Mol | None:
    """Return the skeleton with bond orders and stereo; None if none fit the charge.

    RDKit's search ends at the first choice for each atom in turn, and in some orders of the atoms (one in four of
    nitro compounds) finds none, or one with more charges than needed. So others are tried where that could be.
    """
    found: list[Chem.Mol] = []
    for order in _orders(skeleton.GetNumAtoms()):
        molecule = _with_orders(Chem.RenumberAtoms(skeleton, order), charge, charged=charged)
        if molecule is not None:
            found.append(Chem.RenumberAtoms(molecule, np.argsort(order).tolist()))
            if not _cost(molecule):
                break
    if not found:
        return None
    best = min(found, key=_preference)
    Chem.AssignStereochemistryFrom3D(best)
    return best


def _orders(num_atoms: int) -> Iterator[list[int]]:
    yield list(range(num_atoms))
    yield list(reversed(range(num_atoms)))
    random = np.random.default_rng(num_atoms)
    for _ in range(OTHER_ORDERS):
        yield random.permutation(num_atoms).tolist()


def _with_orders(skeleton: Chem.Mol, charge: int, *, charged: bool) -> Chem.Mol | None:
    try:
        rdDetermineBonds.DetermineBondOrders(
            skeleton, charge=charge, allowChargedFragments=charged, embedChiral=False, maxIterations=MAX_ITERATIONS
        )
        molecule = _as_usually_drawn(skeleton)
        Chem.SanitizeMol(molecule)
    except (ValueError, RuntimeError):
        return None
    return molecule if Chem.GetFormalCharge(molecule) == charge else None


def _as_usually_drawn(molecule: Chem.Mol) -> Chem.Mol:
    """Return the molecule with double bonds in place of opposite charges at S, P, As, Se and Te, as in sulfoxides."""
    drawn = Chem.RWMol(molecule)
    for bond in drawn.GetBonds():
        ends = sorted((bond.GetBeginAtom(), bond.GetEndAtom()), key=lambda atom: atom.GetFormalCharge())
        minus, plus = ends
        if (
            plus.GetFormalCharge() > 0 > minus.GetFormalCharge()
            and bond.GetBondType() == Chem.BondType.SINGLE
            and plus.GetDegree() > USUAL_NEIGHBOURS.get(plus.GetSymbol(), plus.GetDegree())
        ):
            bond.SetBondType(Chem.BondType.DOUBLE)
            for atom in ends:
                atom.SetFormalCharge(atom.GetFormalCharge() - (1 if atom.GetFormalCharge() > 0 else -1))
    for sulfur in drawn.GetAtoms():
        if sulfur.GetSymbol() == "S" and sulfur.GetDegree() == SULFONYL_NEIGHBOURS:
            _move_charge_to_nitrogen(sulfur)
    return drawn.GetMol()


def _move_charge_to_nitrogen(sulfur: Chem.Atom) -> None:
    """Draw the anion of a sulfonamide with both oxygens at double bonds, in place."""
    single = [b for b in sulfur.GetBonds() if b.GetOtherAtom(sulfur).GetFormalCharge() == -1]
    double = [b for b in sulfur.GetBonds() if b.GetBondType() == Chem.BondType.DOUBLE]
    oxygen = next((b for b in single if b.GetOtherAtom(sulfur).GetSymbol() == "O"), None)
    nitrogen = next((b for b in double if b.GetOtherAtom(sulfur).GetSymbol() == "N"), None)
    if oxygen is not None and nitrogen is not None and len(double) > 1:
        oxygen.SetBondType(Chem.BondType.DOUBLE)
        nitrogen.SetBondType(Chem.BondType.SINGLE)
        oxygen.GetOtherAtom(sulfur).SetFormalCharge(0)
        nitrogen.GetOtherAtom(sulfur).SetFormalCharge(-1)


def _preference(molecule: Chem.Mol) -> tuple[float, int, int, int, str]:
    """Return what is least for the usual one of several ways to draw a molecule of one charge.

    Few and usual charges, whole aromatic rings, positive charges in them, and negative ones at the ends of chains.
    """
    atoms = list(molecule.GetAtoms())
    aromatic = [atom for atom in atoms if atom.GetIsAromatic()]
    within = sum(atom.GetFormalCharge() > 0 for atom in aromatic)
    inside = sum(atom.GetDegree() for atom in atoms if atom.GetFormalCharge() < 0)
    return _cost(molecule), -len(aromatic), -within, inside, Chem.MolToSmiles(molecule)


def _cost_of_ion(molecule: Chem.Mol) -> float:
    return _cost(molecule) + COST_OF_CHARGE * abs(Chem.GetFormalCharge(molecule))


def _cost(molecule: Chem.Mol) -> float:
    """Return how unusual the charges and unpaired electrons of a molecule are; 0 where there are none."""
    total = 0.0
    for atom in molecule.GetAtoms():
        charge = atom.GetFormalCharge()
        if charge:
            total += COSTS.get((atom.GetSymbol(), charge), UNUSUAL * abs(charge))
            total += COST_OF_NITROSYL - 1.0 if charge == 1 and _has_double_bond_to_oxygen(atom) else 0.0
        total += UNUSUAL * atom.GetNumRadicalElectrons()
    return total


def _has_double_bond_to_oxygen(atom: Chem.Atom) -> bool:
    return any(
        bond.GetBondType() == Chem.BondType.DOUBLE and bond.GetOtherAtom(atom).GetSymbol() == "O"
        for bond in atom.GetBonds()
    )


def _is_usual(molecule: Chem.Mol, *, guessed: bool) -> bool:
    """Return whether a molecule may be what the file meant.

    More than two unpaired electrons, or triple bonds as long as single ones, mean that hydrogens are missing. Where the
    charge is ``guessed``, an ion with the charge on a carbon or hydrogen is a wrong guess.
    """
    if any(_relative_length(bond) > LONGEST_TRIPLE for bond in molecule.GetBonds() if bond.GetBondType() == TRIPLE):
        return False
    atoms = list(molecule.GetAtoms())
    if sum(atom.GetNumRadicalElectrons() for atom in atoms) > MOST_UNPAIRED:
        return False
    return not guessed or all(atom.GetSymbol() not in ("C", "H") for atom in atoms if atom.GetFormalCharge())


def _relative_length(bond: Chem.Bond) -> float:
    """Return the length of a bond in units of the sum of the covalent radii."""
    ends = bond.GetBeginAtom(), bond.GetEndAtom()
    conformer = bond.GetOwningMol().GetConformer()
    first, second = (conformer.GetAtomPosition(atom.GetIdx()) for atom in ends)
    return float(first.Distance(second) / sum(RADII[atom.GetAtomicNum()] for atom in ends))
