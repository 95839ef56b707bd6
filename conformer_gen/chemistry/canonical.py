"""The canonical form of a molecule: without implied hydrogens, as canonical SMILES. Imports RDKit.

Most hydrogens are implied: those with one bond, to a heavy atom, and neither charge nor mass number. All others carry
information that the heavy atoms do not (bridges such as F[H-]F, hydrides, protons, deuterium), so they stay as atoms.
"""

import re
from collections.abc import Sequence
from typing import Any

from rdkit import Chem
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from conformer_gen.chemistry.atropisomers import add_axes, axes_of, without_axes
from conformer_gen.chemistry.stereo import RELATIVE
from conformer_gen.sources.molecule import Rejected

ISOTOPE = re.compile(r"\[\d")
WRITE_GROUPS = Chem.CXSmilesFields.CX_ENHANCEDSTEREO
WRITE_PROPERTIES = Chem.CXSmilesFields.CX_ATOM_PROPS
NUMBER = "number"
ORDER = "_smilesAtomOutputOrder"  # RDKit's property of a molecule: its atoms in the order of the last SMILES


def _removal() -> Any:  # noqa: ANN401 - RDKit's stubs take no values for its parameters
    parameters: Any = Chem.RemoveHsParameters()
    parameters.removeHydrides = False
    # A hydrogen at the end of a double bond is implied; removing it leaves the stereo of the double bond unspecified.
    parameters.removeDefiningBondStereo = True
    parameters.removeNontetrahedralNeighbors = True
    parameters.removeDummyNeighbors = True  # the row is rejected later because of its dummy atom
    parameters.removeWithQuery = True  # hydrogen counts in MDL files turn atoms into queries
    parameters.showWarnings = False
    return parameters


REMOVAL = _removal()


def without_isotopes(molecule: Chem.Mol) -> Chem.Mol:
    """Return a copy without mass numbers; stereo elements that exist only because of them disappear."""
    plain = Chem.Mol(molecule)
    for atom in plain.GetAtoms():
        atom.SetIsotope(0)
    Chem.AssignStereochemistry(plain, cleanIt=True, force=True)
    return plain


def without_hydrogens(fragment: Chem.Mol) -> Chem.Mol | Rejected:
    """Return the fragment without the hydrogens that its atoms imply; the other atoms keep their order.

    A fragment that would become another molecule, such as one with a proton bonded to an atom, is rejected.
    """
    molecule = Chem.RemoveHs(fragment, REMOVAL)
    before, after = CalcMolFormula(fragment), CalcMolFormula(molecule)
    if before != after or len(Chem.GetMolFrags(molecule)) != len(Chem.GetMolFrags(fragment)):
        detail = f"without its hydrogens {before} becomes {after}: is a charge on the wrong atom?"
        return Rejected(reason="hydrogens_matter", detail=detail)
    return molecule


def canonical_smiles(molecule: Chem.Mol, *, extended: bool) -> str | Rejected:
    """Return the canonical SMILES; ``canonical_order`` then returns the molecule's atoms in its order.

    Args:
        molecule: without the hydrogens that can be removed. Its atom maps, which are labels of the source, are removed.
        extended: also express what only ChemAxon's extension can: racemates, relative stereo, atropisomers.

    Returns:
        The SMILES, with an extension where needed, such as ``CC[C@H](C)O |&1:2|``; RDKit reads both forms.
    """
    if not extended:
        smiles = Chem.MolToSmiles(molecule)
        if ":" in smiles:  # of atom maps only, in SMILES that RDKit writes
            _remove_maps(molecule)
            smiles = Chem.MolToSmiles(molecule)
        return _as_read(smiles, molecule)
    _remove_maps(molecule)
    groups = [group for group in molecule.GetStereoGroups() if group.GetGroupType() in RELATIVE]
    if any(len(group.GetBonds()) for group in groups):
        detail = "a racemic or relative configuration of an axis cannot be stored: leave it out of the SMILES"
        return Rejected(reason="relative_axis", detail=detail)
    axes = axes_of(molecule)
    if not (groups or axes):
        return _as_read(Chem.MolToSmiles(molecule), molecule)
    smiles, order = _with_groups(without_axes(molecule), groups)
    if axes:
        smiles, order = add_axes(smiles, order, axes)
    molecule.SetProp(ORDER, str(order))
    return _as_read(smiles, molecule)


def canonical_order(molecule: Chem.Mol) -> list[int]:
    """Return the molecule's atoms in the order of the SMILES that ``canonical_smiles`` has just returned."""
    # As text, such as "[0,1,2,]": twice as fast as fetching each number of a vector with its own call.
    return [int(number) for number in molecule.GetProp(ORDER).strip("[,]").split(",")]


def _with_groups(molecule: Chem.Mol, groups: Sequence[Chem.StereoGroup]) -> tuple[str, list[int]]:
    """Return the canonical SMILES with these stereo groups only, and the molecule's atoms in its order."""
    grouped = Chem.RWMol(molecule)
    members = [(group.GetGroupType(), [atom.GetIdx() for atom in group.GetAtoms()]) for group in groups]
    grouped.SetStereoGroups([Chem.CreateStereoGroup(kind, grouped, atoms) for kind, atoms in members])
    for atom in grouped.GetAtoms():
        for name in atom.GetPropNames():
            atom.ClearProp(name)
        atom.SetProp(NUMBER, str(atom.GetIdx()))
    parameters = Chem.SmilesWriteParams()
    numbered = Chem.MolFromSmiles(Chem.MolToCXSmiles(grouped, parameters, WRITE_GROUPS | WRITE_PROPERTIES))
    order = [int(atom.GetProp(NUMBER)) for atom in numbered.GetAtoms()]
    return Chem.MolToCXSmiles(grouped, parameters, WRITE_GROUPS), order


def _as_read(smiles: str, molecule: Chem.Mol) -> str | Rejected:
    """Return the SMILES, or a rejection if RDKit would not read its explicit hydrogens back as atoms."""
    if molecule.GetNumAtoms() > molecule.GetNumHeavyAtoms():
        read = Chem.MolFromSmiles(smiles)
        if read is None or read.GetNumAtoms() != molecule.GetNumAtoms():
            detail = f"{smiles} has explicit hydrogens that RDKit does not read back as atoms"
            return Rejected(reason="hydrogens_matter", detail=detail)
    return smiles


def _remove_maps(molecule: Chem.Mol) -> None:
    for atom in molecule.GetAtoms():
        atom.SetAtomMapNum(0)
