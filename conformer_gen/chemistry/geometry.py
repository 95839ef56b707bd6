"""Turns a row of a source into an RDKit molecule, with coordinates in the atom order of the store. Imports RDKit.

A row can bring coordinates in three ways: an MDL block, a SMILES with ChemAxon's extension, or elements with positions,
as in XYZ files. The last has no bonds: its atoms are matched to those of the SMILES beside it, or, if there is none,
the
bonds are perceived.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from conformer_gen.chemistry.bonds.atom_matching import add_conformer, distances, match_atoms, match_graphs
from conformer_gen.chemistry.bonds.bond_perception import perceive_bonds
from conformer_gen.chemistry.stereo import compare_stereo
from conformer_gen.sources.molecule import MOL2_RECORD, Geometry, Rejected, SourceMolecule
from unimol_scale.store.geometry_faults import COINCIDENT_A, Conformers, Fault, find_faults, is_drawn
from unimol_scale.store.schema import ConformerOrigin, ConformerStereo, Float32, Float64

CHARGED_HYDROGEN = re.compile(r"\[\d*H[+-]")
NUMBER = "_number"
SOURCE_NUMBER = "_source_number"
PERCEIVED_FRAMES = 3  # lowest-energy frames in which to look for bonds before giving up on a molecule
STEREO_MATCHES = 50  # symmetry mappings whose stereo is compared
DRAWN_BONDS = 4  # with at least so many, bonds that all have RDKit's drawing length are no coincidence
REASONS = {
    Fault.NOT_FINITE: "no_geometry",
    Fault.COINCIDENT: "no_geometry",
    Fault.LONG_BOND: "geometry_mismatch",
    Fault.SHORT_BOND: "geometry_mismatch",
    Fault.CLOSE: "clash",
    Fault.SMALL_ANGLE: "clash",
}


def parse_row(row: SourceMolecule) -> Chem.Mol | Rejected:
    """Return the sanitised molecule of a row, with one conformer for each one that the row brings.

    Hydrogens are atoms of the result if the row has coordinates for them; otherwise they are as RDKit leaves them.

    Raises:
        RuntimeError, ValueError: raised by RDKit for chemistry that it cannot handle.
    """
    if row.problem:
        return Rejected(reason=row.reason, detail=row.problem)
    if row.geometry is not None:
        return _with_geometry(row.smiles, row.geometry) if row.smiles else _perceived(row.geometry)
    if row.origin is None and not row.block:
        return parse_smiles(row.smiles)
    return _with_own_coordinates(row)


def conformer_origins(row: SourceMolecule, molecule: Chem.Mol) -> tuple[int, ...]:
    """Return the codes of ``ConformerOrigin`` for the conformers that the row brought; () if it brought none."""
    if row.geometry is not None:
        return row.geometry.origins
    return () if row.origin is None else (row.origin,) * molecule.GetNumConformers()


def parse_smiles(smiles: str) -> Chem.Mol | Rejected:
    """Return the molecule of a SMILES without the hydrogens RDKit removes; if any is charged, none are removed."""
    if not smiles:
        return Rejected(reason="empty", detail="the row has no SMILES")
    # Few SMILES have these characters, and a search between two molecules takes far longer than in a tight loop.
    charged = ("H+" in smiles or "H-" in smiles) and CHARGED_HYDROGEN.search(smiles) is not None

    def parse(sanitize: bool) -> Chem.Mol | None:
        return Chem.MolFromSmiles(smiles, _parser_settings(sanitize, not charged))

    extension = ", or RDKit cannot read its extension between bars" if "|" in smiles else ""
    return _sanitised(parse, f"this is not a SMILES{extension}")


@dataclasses.dataclass(frozen=True)
class Sound:
    """The plausible conformers of a row: their indices, and the origin of each."""

    kept: list[int]
    origins: tuple[int, ...]


def sound_conformers(fragment: Chem.Mol, origins: Sequence[int]) -> Sound | Rejected:
    """Check every conformer of a fragment.

    A flat one counts as a depiction if its bonds have drawing length, and as a geometry like any other if not.

    Returns:
        The conformers to keep, or a rejection if there are none.
    """
    bonds = np.array([(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in fragment.GetBonds()], np.int64)
    conformers = Conformers.of_one_molecule(
        np.array([atom.GetAtomicNum() for atom in fragment.GetAtoms()], np.uint8),
        bonds,
        np.stack([conformer.GetPositions() for conformer in fragment.GetConformers()]),
    )
    faults, drawn = find_faults(conformers), is_drawn(conformers)
    kept: dict[int, int] = {}
    for at, origin in enumerate(origins):
        if origin == ConformerOrigin.FLAT and drawn[at]:
            kept[at] = origin
        elif faults.code[at] == Fault.NONE and not (drawn[at] and len(bonds) >= DRAWN_BONDS):
            kept[at] = ConformerOrigin.FILE if origin == ConformerOrigin.FLAT else origin
    if kept:
        return Sound(list(kept), tuple(kept.values()))
    fault = Fault(int(faults.code[0]))
    if fault == Fault.NONE:
        return Rejected(reason="no_geometry", detail="the coordinates are a 2D depiction; use a SMILES source")
    return Rejected(reason=REASONS[fault], detail=faults.describe(0))


def number_atoms(fragment: Chem.Mol) -> None:
    """Record each atom's number on the atom, in place, so that ``atom_numbers`` finds it once hydrogens are gone."""
    for atom in fragment.GetAtoms():
        atom.SetIntProp(NUMBER, atom.GetIdx())


def atom_numbers(molecule: Chem.Mol, order: Sequence[int]) -> list[int]:
    """Return the numbers that ``number_atoms`` gave to the atoms of the molecule, taken in ``order``."""
    return [molecule.GetAtomWithIdx(at).GetIntProp(NUMBER) for at in order]


def stored_order(fragment: Chem.Mol, atoms: Sequence[int]) -> list[int]:
    """Return the atoms of a molecule with coordinates, in the order of the store.

    Args:
        fragment: may have hydrogens as atoms, at any positions.
        atoms: the atoms of the fragment that are in the canonical SMILES, in its order.

    Returns:
        These atoms; then, if every hydrogen has coordinates, the other hydrogens of each atom in turn, as in
        ``Chem.AddHs(Chem.MolFromSmiles(smiles))``.
    """
    own = set(atoms)
    order = list(atoms)
    if not any(fragment.GetAtomWithIdx(at).GetTotalNumHs() for at in atoms):  # counts hydrogens that are not atoms
        order += [
            hydrogen for at in atoms for hydrogen in _hydrogens(fragment.GetAtomWithIdx(at)) if hydrogen not in own
        ]
    return order


def positions_of(fragment: Chem.Mol, order: Sequence[int]) -> Float32:
    """Return the coordinates, float32 [k, n, 3] Å, of the atoms ``order`` in each conformer."""
    return np.stack([conformer.GetPositions()[order] for conformer in fragment.GetConformers()]).astype(np.float32)


def source_atoms(fragment: Chem.Mol, order: Sequence[int]) -> list[int]:
    """Return the indices in ``SourceMolecule.geometry`` of the atoms ``order`` of a fragment."""
    return [fragment.GetAtomWithIdx(at).GetIntProp(SOURCE_NUMBER) for at in order]


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


@functools.cache  # making them for every row takes a twentieth of the time of parsing it
def _parser_settings(sanitize: bool, remove_hydrogens: bool) -> Any:  # noqa: ANN401 - as in _with_extension
    parameters: Any = Chem.SmilesParserParams()
    parameters.sanitize = sanitize
    parameters.removeHs = remove_hydrogens
    return parameters


def _with_own_coordinates(row: SourceMolecule) -> Chem.Mol | Rejected:
    if row.block.startswith(MOL2_RECORD):
        molecule = _sanitised(
            lambda sanitize: Chem.MolFromMol2Block(row.block, sanitize=sanitize, removeHs=False),
            "RDKit cannot read this MOL2 record, whose atom types must be Tripos types as Corina writes them",
        )
        if not isinstance(molecule, Rejected):
            Chem.AssignStereochemistryFrom3D(molecule)
    elif row.block:
        molecule = _sanitised(
            lambda sanitize: Chem.MolFromMolBlock(row.block, sanitize=sanitize, removeHs=False),
            "RDKit cannot read this SDF record",
        )
    else:
        molecule = _sanitised(
            lambda sanitize: Chem.MolFromSmiles(row.smiles, _with_extension(sanitize)),
            "this is not a SMILES with coordinates for every atom",
        )
    if isinstance(molecule, Rejected) or row.origin is None:
        return molecule
    if not (molecule.GetNumConformers() and molecule.GetConformer().Is3D()):
        return Rejected(
            reason="no_geometry", detail="the record has no 3D coordinates; use a SMILES source to make them"
        )
    if row.origin == ConformerOrigin.DFT:
        _no_implicit_hydrogens(molecule)
    return _same_molecule(row.smiles, molecule) if row.block and row.smiles else molecule


def _no_implicit_hydrogens(molecule: Chem.Mol) -> None:
    """Remove, in place, hydrogens that are not atoms: a calculation has all of its atoms in the record.

    One in ten records of PCQM4Mv2 has too few double bonds for its atoms, and RDKit fills the valences with hydrogens
    that were not there. As in the data set's own SMILES, these atoms become radicals instead.
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


def _same_molecule(smiles: str, molecule: Chem.Mol) -> Chem.Mol | Rejected:
    """Return the molecule, or a rejection if the SMILES beside it describes another one."""
    beside = parse_smiles(smiles)
    if isinstance(beside, Rejected):
        return beside
    if Chem.MolToSmiles(beside) == Chem.MolToSmiles(Chem.RemoveHs(molecule)):
        return molecule
    formulas = CalcMolFormula(beside), CalcMolFormula(molecule)
    if formulas[0] != formulas[1]:
        return _mismatch("the SMILES is {}, the record is {}".format(*formulas))
    matches = match_graphs(beside, molecule)
    if not matches:
        return _mismatch(f"the atoms of the record are not bonded as in {smiles}")
    return (
        molecule
        if _has_stereo_of(smiles, beside, molecule, matches)
        else _mismatch(f"the record is a different stereoisomer from {smiles}")
    )


def _has_stereo_of(smiles: str, beside: Chem.Mol, molecule: Chem.Mol, matches: Sequence[Sequence[int]]) -> bool:
    """Return whether the geometry has the stereo that the SMILES specifies, in one of the matches of their heavy atoms.

    Double bonds in rings are not compared: in larger rings some flip during the calculation.
    """
    if beside.GetNumAtoms() > beside.GetNumHeavyAtoms():
        return True
    full = Chem.AddHs(beside)
    for bond in full.GetBonds():
        if bond.IsInRing() and bond.GetBondType() == Chem.BondType.DOUBLE:
            bond.SetStereo(Chem.BondStereo.STEREONONE)
    placed = molecule.GetConformer().GetPositions()[np.array(matches[:STEREO_MATCHES])]
    stereo = compare_stereo(smiles, full, placed, flat=np.zeros(len(placed), bool))
    return bool((stereo != ConformerStereo.CHANGED).any())


def _mismatch(detail: str) -> Rejected:
    return Rejected(reason="geometry_mismatch", detail=detail)


def _with_geometry(smiles: str, geometry: Geometry) -> Chem.Mol | Rejected:
    parsed = parse_smiles(smiles)
    if isinstance(parsed, Rejected):
        return parsed
    molecule = Chem.AddHs(parsed)
    order = match_atoms(molecule, geometry)
    if order is None and not np.isfinite(geometry.positions).all(axis=(1, 2)).any():
        return Rejected(reason="no_geometry", detail="a coordinate is not a finite number")
    if order is None and len(geometry.symbols) > 1 and np.ptp(geometry.positions, axis=1).max() < COINCIDENT_A:
        return Rejected(reason="no_geometry", detail="all atoms lie at the same point")
    if order is None:
        return _mismatch("the coordinates have other atoms or bonds than the SMILES")
    return _placed(molecule, geometry, order)


def _perceived(geometry: Geometry) -> Chem.Mol | Rejected:
    """Return the molecule perceived from distances, from the first of the geometry's frames that gives one."""
    energies = np.array(geometry.energies or [np.nan] * len(geometry.positions))
    rejected = None
    for frame in np.argsort(energies, kind="stable")[:PERCEIVED_FRAMES].tolist():
        molecule = perceive_bonds(geometry.symbols, geometry.positions[frame], geometry.charge)
        if not isinstance(molecule, Rejected):
            molecule.RemoveAllConformers()
            return _placed(molecule, geometry, list(range(len(geometry.symbols))))
        rejected = rejected or molecule
    assert rejected is not None, "a geometry has a frame"
    if rejected.reason == "bonds_not_perceived" and _has_coincident_atoms(geometry.positions[0].astype(np.float64)):
        return Rejected(reason="no_geometry", detail="two atoms lie on one point")
    return rejected


def _has_coincident_atoms(positions: Float64) -> bool:
    between = distances(positions)
    return bool((between[np.triu_indices(len(positions), 1)] < COINCIDENT_A).any())


def _placed(molecule: Chem.Mol, geometry: Geometry, order: Sequence[int]) -> Chem.Mol:
    """Add all conformers of a geometry to a molecule, and number its atoms as there, in place; return the molecule."""
    for positions in geometry.positions[:, order]:
        add_conformer(molecule, positions)
    for atom, number in zip(molecule.GetAtoms(), order, strict=True):
        atom.SetIntProp(SOURCE_NUMBER, number)
    return molecule
