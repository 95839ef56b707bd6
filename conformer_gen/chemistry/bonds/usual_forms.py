"""Chooses the usual one of several ways to draw the same atoms: bond orders, charges, radicals. Imports RDKit.

Distances cannot distinguish a sulfoxide from its charge-separated form, or tell which atom of an ion carries the
charge; convention decides.
"""

from rdkit import Chem

from unimol_scale.store.geometry_faults import RADII

# Cost of a charge on an atom of an element. Any other charge, and an unpaired electron, costs ``UNUSUAL``.
COSTS = {("N", 1): 1.0, ("P", 1): 1.0, ("N", -1): 1.5, ("O", -1): 1.0, ("S", -1): 1.0, ("B", -1): 1.0}
UNUSUAL = 3.0
COST_OF_NITROSYL = 1.5
COST_OF_CHARGE = 0.6  # per elementary net charge: a zwitterion costs less than an ion with as many charges
# Elements drawn with double bonds to oxygen, and how many neighbours they have without such bonds.
USUAL_NEIGHBOURS = {"P": 3, "S": 2, "As": 3, "Se": 2, "Te": 2}
SULFONYL_NEIGHBOURS = 4
TRIPLE = Chem.BondType.TRIPLE
LONGEST_TRIPLE = 0.88  # relative to the covalent radii: 1.34 Å for C≡C, whose usual length is 1.20 Å
MOST_UNPAIRED = 2  # electrons


def as_usually_drawn(molecule: Chem.Mol) -> Chem.Mol:
    """Return the molecule with double bonds instead of opposite charges at S, P, As, Se and Te, as in sulfoxides."""
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
    """Redraw, in place, a sulfonamide anion so that both oxygens have double bonds."""
    single = [b for b in sulfur.GetBonds() if b.GetOtherAtom(sulfur).GetFormalCharge() == -1]
    double = [b for b in sulfur.GetBonds() if b.GetBondType() == Chem.BondType.DOUBLE]
    oxygen = next((b for b in single if b.GetOtherAtom(sulfur).GetSymbol() == "O"), None)
    nitrogen = next((b for b in double if b.GetOtherAtom(sulfur).GetSymbol() == "N"), None)
    if oxygen is not None and nitrogen is not None and len(double) > 1:
        oxygen.SetBondType(Chem.BondType.DOUBLE)
        nitrogen.SetBondType(Chem.BondType.SINGLE)
        oxygen.GetOtherAtom(sulfur).SetFormalCharge(0)
        nitrogen.GetOtherAtom(sulfur).SetFormalCharge(-1)


def preference(molecule: Chem.Mol) -> tuple[float, int, int, int, str]:
    """Return a sort key that is smallest for the usual way to draw a molecule of a given charge.

    It prefers few and usual charges, aromatic rings, positive charges in rings, and negative charges at chain ends.
    """
    atoms = list(molecule.GetAtoms())
    aromatic = [atom for atom in atoms if atom.GetIsAromatic()]
    within = sum(atom.GetFormalCharge() > 0 for atom in aromatic)
    inside = sum(atom.GetDegree() for atom in atoms if atom.GetFormalCharge() < 0)
    return cost_of_form(molecule), -len(aromatic), -within, inside, Chem.MolToSmiles(molecule)


def cost_of_ion(molecule: Chem.Mol) -> float:
    """Return how unusual an ion is, for comparing molecules of different net charge."""
    return cost_of_form(molecule) + COST_OF_CHARGE * abs(Chem.GetFormalCharge(molecule))


def least_cost_of_ion(charge: int) -> float:
    """Return the cost of the most usual ion with a net charge, in which every charge sits on a different atom."""
    return abs(charge) * (1.0 + COST_OF_CHARGE)


def cost_of_form(molecule: Chem.Mol) -> float:
    """Return how unusual the charges and unpaired electrons of a molecule are; 0 if it has none."""
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


def is_usual(molecule: Chem.Mol, *, guessed: bool) -> bool:
    """Return whether a molecule is a plausible reading of the file.

    More than two unpaired electrons, or triple bonds as long as single bonds, mean that hydrogens are missing. If the
    charge was ``guessed``, an ion with its charge on a carbon or hydrogen is a wrong guess.
    """
    if any(_relative_length(bond) > LONGEST_TRIPLE for bond in molecule.GetBonds() if bond.GetBondType() == TRIPLE):
        return False
    atoms = list(molecule.GetAtoms())
    if sum(atom.GetNumRadicalElectrons() for atom in atoms) > MOST_UNPAIRED:
        return False
    return not guessed or all(atom.GetSymbol() not in ("C", "H") for atom in atoms if atom.GetFormalCharge())


def _relative_length(bond: Chem.Bond) -> float:
    """Return the length of a bond as a multiple of the sum of the covalent radii."""
    ends = bond.GetBeginAtom(), bond.GetEndAtom()
    conformer = bond.GetOwningMol().GetConformer()
    first, second = (conformer.GetAtomPosition(atom.GetIdx()) for atom in ends)
    return float(first.Distance(second) / sum(RADII[atom.GetAtomicNum()] for atom in ends))
