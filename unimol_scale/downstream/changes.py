"""What curation made of a row: how the molecule that a model sees differs from the one that was given. Imports RDKit."""

import re
from collections import Counter
from collections.abc import Sequence

from rdkit import Chem, rdBase

FRAGMENT_KEPT = "largest fragment kept"
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


def describe_rows(changes: Sequence[str]) -> str:
    """Return a line on rows that were reduced to a fragment or lost isotopes; "" if there are none.

    Args:
        changes: [M] what ``describe_changes`` said of each row.
    """
    rows = [row for row, text in enumerate(changes) if FRAGMENT_KEPT in text]
    said = []
    if rows:
        named = "; ".join(f"row {row + 1}: {changes[row]}" for row in rows[:NAMED])
        more = f"; and {len(rows) - NAMED:,} more" if len(rows) > NAMED else ""
        said.append(
            f"{len(rows):,} of {len(changes):,} rows have several fragments and were reduced to the largest, so a salt "
            f"gets the value of its largest ion ({named}{more}); fragments=reject refuses such rows"
        )
    if lost := sum(ISOTOPES_LOST in text for text in changes):
        said.append(f"{lost:,} of {len(changes):,} rows lost their isotope labels")
    return ". ".join(said)


def _kept(fragments: tuple[Chem.Mol, ...], used: Chem.Mol, smiles: str) -> str:
    """Return which fragment is used and what was left out, each with how often it is there."""
    counts = Counter(Chem.MolToSmiles(_unmapped(fragment)) for fragment in fragments)
    counts[smiles if smiles in counts else _nearest(counts, used)] -= 1
    left_out = [f"{name} ({number} times)" if number > 1 else name for name, number in counts.items() if number]
    charge = Chem.GetFormalCharge(used)
    charged = f" (charge {charge:+d})" if charge else ""
    return f"{FRAGMENT_KEPT}: {smiles}{charged}; left out: {', '.join(left_out)}"


def _nearest(counts: Counter[str], used: Chem.Mol) -> str:
    """Return the fragment that has as many heavy atoms as the one used, where curation has written it in another way."""
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
