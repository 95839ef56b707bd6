"""Turns elements and coordinates into a molecule with bonds, for files that give none. Imports RDKit.

Interatomic distances and the maximum number of bonds per element decide which atoms are bonded. RDKit then chooses bond
orders, charges and unpaired electrons (``rdDetermineBonds``, after Kim and Kim 2015, Bull. Korean Chem. Soc. 36, 1769).
The net charge comes from the file, or else from the least unusual ion (``usual_forms``).
"""

from collections.abc import Iterator, Sequence

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDetermineBonds

from conformer_gen.chemistry.bonds.atom_matching import add_conformer
from conformer_gen.chemistry.bonds.usual_forms import (
    as_usually_drawn,
    cost_of_form,
    cost_of_ion,
    is_usual,
    least_cost_of_ion,
    preference,
)
from conformer_gen.sources.frame_files.frames import ATOMIC_NUMBERS, neighbours, relative_distances
from conformer_gen.sources.molecule import Rejected
from unimol_scale.store.schema import Float32, Float64

# Elements whose bonds follow from distances and valences, with the most neighbours that an atom of each can have. For
# all other elements, metals above all, a distance does not tell whether there is a bond.
MOST_NEIGHBOURS = {
    **{"H": 1, "B": 4, "C": 4, "N": 4, "O": 3, "F": 1, "Si": 4, "P": 6, "S": 6, "Cl": 4, "Ge": 4, "As": 4, "Se": 4},
    **{"Br": 4, "Te": 4, "I": 4},
}
# Net charges to try if the file gives none; the least unusual ion is taken.
CHARGES = (0, 1, -1, 2, -2, 3, -3, 4, -4)
OTHER_ORDERS = 3  # further atom orders to try for bond orders, besides the file's order and its reverse
MOST_HEAVY_ATOMS = 1_000  # the largest molecule that a store can hold
MAX_ITERATIONS = 20_000  # of the bond order search, tens of milliseconds; molecules that need more are rejected

Bonds = list[tuple[int, int]]


def perceive_bonds(symbols: Sequence[str], positions: Float32 | Float64, charge: int | None) -> Chem.Mol | Rejected:
    """Return the sanitised molecule, with its atoms in the given order, stereochemistry and one conformer.

    Args:
        symbols: element of each of the n atoms; all hydrogens must be included.
        positions: [n, 3] Å.
        charge: net charge; None tries each of ``CHARGES``.

    Returns:
        The molecule, which may have several fragments, or a rejection if bonds cannot be derived from distances.

    Raises:
        RuntimeError, ValueError: raised by RDKit for chemistry that it cannot handle.
    """
    unknown = sorted(set(symbols) - MOST_NEIGHBOURS.keys())
    if unknown:
        detail = f"bonds of {', '.join(unknown)} cannot be derived from distances; give a SMILES beside the coordinates"
        return Rejected(reason="metal_or_unknown_element", detail=detail)
    if len(symbols) - symbols.count("H") > MOST_HEAVY_ATOMS:
        detail = f"bonds are not derived for more than {MOST_HEAVY_ATOMS:,} heavy atoms"
        return Rejected(reason="too_many_atoms", detail=detail)
    skeleton = _skeleton(symbols, positions, connect(symbols, positions))
    found: list[Chem.Mol] = []
    for one, charged in _ways(symbols, charge):
        if found and (not charged or min(map(cost_of_ion, found)) <= least_cost_of_ion(one)):
            break  # unpaired electrons are the last resort, and no such ion costs less
        molecule = _with_best_orders(skeleton, one, charged=charged)
        if molecule is not None and is_usual(molecule, guessed=charge is None and one != 0):
            found.append(molecule)
    if found:
        return min(found, key=cost_of_ion)  # ties go to the first, which has the smaller charge
    tried = f"charge {charge}" if charge is not None else f"any of the charges {', '.join(map(str, CHARGES))}"
    return Rejected(
        reason="bonds_not_perceived", detail=f"no bond orders fit the atoms and their neighbours with {tried}"
    )


def connect(symbols: Sequence[str], positions: Float32 | Float64) -> Bonds:
    """Return the pairs of atoms that are bonded, in ascending order.

    Starts from all pairs closer than the longest possible bond. Then every atom with more neighbours than its element
    can have loses the bond that is longest for its kind, starting with the atoms that have the most too many.

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
    """Yield net charges to try, and whether to fill valences with charges (or else with unpaired electrons)."""
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

    RDKit's search stops at the first choice for each atom in turn. For some atom orders (one in four of nitro
    compounds) it finds nothing, or a form with more charges than needed, so other orders are tried in those cases.
    """
    found: list[Chem.Mol] = []
    for order in _orders(skeleton.GetNumAtoms()):
        molecule = _with_orders(Chem.RenumberAtoms(skeleton, order), charge, charged=charged)
        if molecule is not None:
            found.append(Chem.RenumberAtoms(molecule, np.argsort(order).tolist()))
            if not cost_of_form(molecule):
                break
    if not found:
        return None
    best = min(found, key=preference)
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
        molecule = as_usually_drawn(skeleton)
        Chem.SanitizeMol(molecule)
    except (ValueError, RuntimeError):
        return None
    return molecule if Chem.GetFormalCharge(molecule) == charge else None
