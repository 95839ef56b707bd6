"""A row of a source → RDKit molecule, and its coordinates in the atom order of the store. Imports RDKit.

Three ways in which a row brings coordinates: an MDL block, a SMILES with ChemAxon's extension, and elements with
positions beside a SMILES, as in XYZ files; the last has no bonds, so its atoms are matched to those of the SMILES.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from conformer_gen.atom_matching import add_conformer, distances, match_atoms
from conformer_gen.sources.molecule import Geometry, Rejected, SourceMolecule
from unimol_scale.store.schema import ConformerOrigin, Float32, Float64

COINCIDENT_A = 0.1


def parse_row(row: SourceMolecule) -> Chem.Mol | Rejected:
    """Return the sanitised molecule of a row, with one conformer for each that the row brings.

    Hydrogens are atoms of the result where the row has coordinates for them; else they are where RDKit leaves them.

    Raises:
        RuntimeError, ValueError: RDKit's, for chemistry it does not cope with.
    """
    if row.problem:
        return Rejected(reason="unreadable_row", detail=row.problem)
    if row.geometry is not None:
        return _with_geometry(row.smiles, row.geometry)
    if row.origin is None:
        return parse_smiles(row.smiles)
    return _with_own_coordinates(row)


def conformer_origins(row: SourceMolecule, molecule: Chem.Mol) -> tuple[int, ...]:
    """Return the codes of ``ConformerOrigin`` of the conformers that the row brought, none if it brought none."""
    if row.geometry is not None:
        return row.geometry.origins
    return () if row.origin is None else (row.origin,) * molecule.GetNumConformers()


def parse_smiles(smiles: str) -> Chem.Mol | Rejected:
    """Return the molecule of a SMILES, hydrogens removed as RDKit does."""
    if not smiles:
        return Rejected(reason="empty", detail="the row has no SMILES")
    return _sanitised(lambda sanitize: Chem.MolFromSmiles(smiles, sanitize=sanitize), "this is not a SMILES")


def ordered_coordinates(molecule: Chem.Mol, heavy_order: Sequence[int]) -> Float32:
    """Return the coordinates of a molecule in the atom order of the store.

    Args:
        molecule: one fragment with conformers; hydrogens may be atoms anywhere in it.
        heavy_order: the heavy atoms in the order of the canonical SMILES, as numbers among the heavy atoms.

    Returns:
        [k, n, 3] Å. The heavy atoms; then, if every hydrogen has coordinates, each heavy atom's hydrogens, which is
        the order of ``Chem.AddHs(Chem.MolFromSmiles(smiles))``.
    """
    heavy = [atom for atom in molecule.GetAtoms() if atom.GetAtomicNum() != 1]
    heavy = [heavy[number] for number in heavy_order]
    order = [atom.GetIdx() for atom in heavy]
    if not any(atom.GetTotalNumHs() for atom in heavy):  # of those that are not atoms
        order += [hydrogen for atom in heavy for hydrogen in _hydrogens(atom)]
    return np.stack([conformer.GetPositions()[order] for conformer in molecule.GetConformers()]).astype(np.float32)


def _hydrogens(atom: Chem.Atom) -> list[int]:
    return [neighbour.GetIdx() for neighbour in atom.GetNeighbors() if neighbour.GetAtomicNum() == 1]


def _sanitised(parse: Callable[[bool], Chem.Mol | None], otherwise: str) -> Chem.Mol | Rejected:
    molecule = parse(True)
    if molecule is not None:
        return molecule
    raw = parse(False)
    if raw is None:
        return Rejected(reason="not_parsed", detail=otherwise)
    problems = [problem.Message() for problem in Chem.DetectChemistryProblems(raw)]
    return Rejected(reason="not_sanitised", detail="; ".join(problems) or "RDKit refuses its chemistry")


def _with_own_coordinates(row: SourceMolecule) -> Chem.Mol | Rejected:
    if row.block:
        molecule = _sanitised(
            lambda sanitize: Chem.MolFromMolBlock(row.block, sanitize=sanitize, removeHs=False),
            "RDKit can not read this SDF record",
        )
    else:
        molecule = _sanitised(
            lambda sanitize: Chem.MolFromSmiles(row.smiles, _with_extension(sanitize)),
            "this is not a SMILES with coordinates for every atom",
        )
    if isinstance(molecule, Rejected):
        return molecule
    if not (molecule.GetNumConformers() and molecule.GetConformer().Is3D()):
        return Rejected(
            reason="no_geometry", detail="the record has no 3D coordinates; use a SMILES source to make them"
        )
    if (clash := _coincident(molecule.GetConformer().GetPositions())) is not None:
        return Rejected(reason="no_geometry", detail=f"atoms {clash[0]} and {clash[1]} lie on one point")
    if row.origin == ConformerOrigin.DFT:
        _no_implicit_hydrogens(molecule)
    return _same_formula(row.smiles, molecule) if row.block and row.smiles else molecule


def _no_implicit_hydrogens(molecule: Chem.Mol) -> None:
    """Take away, in place, the hydrogens that are not atoms: a calculation had all of its atoms in the record.

    One in ten records of PCQM4Mv2 has too few double bonds for its atoms; RDKit fills the valences with hydrogens that
    were not there. As in the data set's own SMILES, these atoms are radicals instead.
    """
    if not any(atom.GetTotalNumHs() for atom in molecule.GetAtoms()):
        return
    Chem.Kekulize(molecule, clearAromaticFlags=True)
    for atom in molecule.GetAtoms():
        atom.SetNoImplicit(True)
        atom.SetNumExplicitHs(0)
    Chem.SanitizeMol(molecule)
    Chem.AssignStereochemistry(molecule, cleanIt=True, force=True)


def _with_extension(sanitize: bool) -> Any:  # noqa: ANN401 - RDKit's stubs take no values for its parameters
    parameters: Any = Chem.SmilesParserParams()
    parameters.sanitize = sanitize
    parameters.removeHs = False
    parameters.strictCXSMILES = True
    return parameters


def _same_formula(smiles: str, molecule: Chem.Mol) -> Chem.Mol | Rejected:
    """Return the molecule unless the SMILES that stands beside it is of another one."""
    beside = parse_smiles(smiles)
    if isinstance(beside, Rejected):
        return beside
    formulas = CalcMolFormula(beside), CalcMolFormula(molecule)
    return molecule if formulas[0] == formulas[1] else _mismatch("the SMILES is {}, the record is {}".format(*formulas))


def _mismatch(detail: str) -> Rejected:
    return Rejected(reason="geometry_mismatch", detail=detail)


def _coincident(positions: Float64) -> tuple[int, int] | None:
    """Return the numbers of two atoms that lie on one point."""
    close = np.argwhere(np.triu(distances(positions) < COINCIDENT_A, 1))
    return (int(close[0, 0]), int(close[0, 1])) if len(close) else None


def _with_geometry(smiles: str, geometry: Geometry) -> Chem.Mol | Rejected:
    parsed = parse_smiles(smiles)
    if isinstance(parsed, Rejected):
        return parsed
    molecule = Chem.AddHs(parsed)
    order = match_atoms(molecule, geometry)
    if order is None:
        return _mismatch("the atoms are other ones, or bonded in another way, in the coordinates than in the SMILES")
    for positions in geometry.positions[:, order]:
        add_conformer(molecule, positions)
    return molecule
