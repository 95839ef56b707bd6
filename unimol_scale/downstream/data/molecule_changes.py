"""How the molecule that a model sees differs from the one that a row gives: what curation did. Imports RDKit."""

import re
from collections import Counter

from rdkit import Chem, rdBase

FRAGMENT_KEPT, LEFT_OUT = "largest fragment kept", "; left out: "
ISOTOPES_LOST = "isotope labels removed"
NAMED = 3  # rows that a line names
# Only such texts can name several fragments, atom maps or isotopes; all others are not parsed again.
_SUSPECT = re.compile(r"\.|:\d+\]|\[\d")


def describe_changes(text: str, smiles: str) -> str:
    """Return, in words, what makes the molecule of a row another one than its text says; "" if nothing does.

    Another order of atoms, Kekulé or aromatic bonds, and hydrogens written out are other texts of the same molecule.

    Args:
        text: SMILES as given, which RDKit reads.
        smiles: what curation made of it.
    """
    if not _SUSPECT.search(text):
        return ""
    with rdBase.BlockLogs():
        given, used = Chem.MolFromSmiles(text), Chem.MolFromSmiles(smiles)
    if given is None or used is None:
        return ""
    said = []
    fragments = Chem.GetMolFrags(given, asMols=True)
    if len(fragments) > 1:
        said.append(_kept(fragments, used, smiles))
    if re.search(r":\d+\]", text):
        said.append("atom maps removed")
    lost = _isotopes(given) - _isotopes(used)
    if len(fragments) == 1 and lost:
        said.append(f"{ISOTOPES_LOST}: {', '.join(sorted(lost.elements()))}")
    return "; ".join(said)


class ChangeCount:
    """Counts the rows of which a model sees another molecule than was given, and names the first."""

    def __init__(self) -> None:
        self._rows = self._reduced = self._unlabelled = 0
        self._first: list[str] = []

    def add(self, row: int, changes: str) -> None:
        """Count a row, from 0, by what ``describe_changes`` said of it."""
        self._rows += 1
        self._unlabelled += ISOTOPES_LOST in changes
        if FRAGMENT_KEPT in changes:
            self._reduced += 1
            if len(self._first) < NAMED:
                left_out = changes.partition(LEFT_OUT)[2].partition("; ")[0]
                self._first.append(f"row {row + 1} without {left_out}")

    def describe(self) -> str:
        """Return a line on the rows that were changed; "" if there are none."""
        said = []
        if self._reduced:
            more = f"; and {self._reduced - NAMED:,} more" if self._reduced > NAMED else ""
            said.append(
                f"{self._reduced:,} of {self._rows:,} rows have several fragments and were reduced to the largest "
                f"({'; '.join(self._first)}{more}), so a salt gets the value of its largest ion; --fragments "
                "reject refuses such rows"
            )
        if self._unlabelled:
            said.append(f"{self._unlabelled:,} of {self._rows:,} rows lost their isotope labels")
        return ". ".join(said)


def _kept(fragments: tuple[Chem.Mol, ...], used: Chem.Mol, smiles: str) -> str:
    """Return which fragment is used and what was left out, each with how often it is there."""
    counts = Counter(Chem.MolToSmiles(_unmapped(fragment)) for fragment in fragments)
    counts[smiles if smiles in counts else _nearest(counts, used)] -= 1
    left_out = [f"{name} ({number} times)" if number > 1 else name for name, number in counts.items() if number]
    charge = Chem.GetFormalCharge(used)
    charged = f" (charge {charge:+d})" if charge else ""
    return f"{FRAGMENT_KEPT}: {smiles}{charged}{LEFT_OUT}{', '.join(left_out)}"


def _nearest(counts: Counter[str], used: Chem.Mol) -> str:
    """Return the fragment with as many heavy atoms as the one used, which curation has written in another way."""
    heavy = used.GetNumHeavyAtoms()
    return next((name for name in counts if _heavy(name) == heavy), next(iter(counts)))


def _heavy(smiles: str) -> int:
    molecule = Chem.MolFromSmiles(smiles)
    return -1 if molecule is None else int(molecule.GetNumHeavyAtoms())


def _unmapped(molecule: Chem.Mol) -> Chem.Mol:
    for atom in molecule.GetAtoms():
        atom.SetAtomMapNum(0)
    return molecule


def _isotopes(molecule: Chem.Mol) -> Counter[str]:
    return Counter(f"{atom.GetIsotope()}{atom.GetSymbol()}" for atom in molecule.GetAtoms() if atom.GetIsotope())
