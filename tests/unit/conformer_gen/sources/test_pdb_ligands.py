"""Ligands of PDB files: which residues they are, where their bonds come from, and why a row is none."""

from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from conformer_gen.sources.frame_settings import FramesConfig
from conformer_gen.sources.molecule import SourceMolecule
from tests.helpers.frame_files import curated, placed, positions, reasons
from tests.helpers.frame_files import read as read_source

WATER = "HETATM 9001  O   HOH A 900      20.000  20.000  20.000  1.00  0.00           O\n"
GLYCINE = "ATOM      1  CA  GLY A   1      30.000  30.000  30.000  1.00  0.00           C\n"


def pdb(smiles: str, frames: int = 1, residue: str = "LIG", hydrogens: bool = True, bonds: bool = True) -> str:
    """Records as RDKit writes them, with its CONECT records of double bonds twice."""
    molecule = placed(smiles, frames)
    for at, atom in enumerate(molecule.GetAtoms()):
        info = Chem.AtomPDBResidueInfo(f" {atom.GetSymbol()}{at % 10:<2}"[:4], at, "", residue, 7, "A")
        info.SetIsHeteroAtom(True)
        atom.SetMonomerInfo(info)
    text = Chem.MolToPDBBlock(molecule if hydrogens else Chem.RemoveHs(molecule))
    return text if bonds else "".join(line for line in text.splitlines(True) if not line.startswith("CONECT"))


def read(folder: Path, text: str, **keys: object) -> list[SourceMolecule]:
    (folder / "a.pdb").write_text(text)
    return read_source("pdb-ligands", folder, **keys)


@pytest.mark.parametrize("smiles", ["CC(=O)[O-]", "C/C=C\\C[NH3+]", "N[C@@H](C)C(=O)NC", "c1ccoc1", "CC#N"])
@pytest.mark.parametrize(("hydrogens", "bonds"), [(True, True), (True, False), (False, True)])
def test_a_ligand_is_the_molecule_that_was_written(tmp_path: Path, smiles: str, hydrogens: bool, bonds: bool) -> None:
    (row,) = read(tmp_path, pdb(smiles, hydrogens=hydrogens, bonds=bonds))
    found = curated(row)
    assert row.id == "a:LIG:A7"
    assert found.smiles == Chem.CanonSmiles(smiles)
    heavy = Chem.MolFromSmiles(found.smiles).GetNumAtoms()
    there = positions(placed(smiles, frames=1))[0]
    nearest = np.linalg.norm(found.conformers[0][:heavy, None] - there[None], axis=-1).min(axis=1)
    assert nearest.max() < 2e-3
    assert (len(found.conformers[0]) > heavy) == hydrogens


def test_the_models_of_a_ligand_are_its_conformers(tmp_path: Path) -> None:
    (row,) = read(tmp_path, pdb("CCO", frames=3, bonds=False))
    assert curated(row).conformers.shape == (3, 9, 3)
    rows = read(tmp_path, pdb("CC=O", frames=2))
    assert [curated(row).smiles for row in rows] == ["CC=O"] * 2  # the bonds of a model are its own, counted once
    shared = pdb("CCO", frames=2)
    bonds = [line for line in shared.splitlines(True) if line.startswith("CONECT")]
    atoms = [line for line in shared.splitlines(True) if not line.startswith(("CONECT", "END\n"))]
    (row,) = read(tmp_path, "".join([*atoms, *bonds[: len(bonds) // 2], "END\n"]))
    assert curated(row).conformers.shape == (2, 9, 3)


def test_water_ions_and_protein_are_no_ligands_and_structures_end_at_end(tmp_path: Path) -> None:
    sodium = WATER.replace("O   HOH", "NA   NA").replace(" O\n", "NA\n")
    rows = read(tmp_path, "REMARK\n" + GLYCINE + WATER + sodium + pdb("CCO") + pdb("CCN", residue="AMN") + "\n")
    assert [(row.id, curated(row).smiles) for row in rows] == [("a:LIG:A7", "CCO"), ("a:2:AMN:A7", "CCN")]
    (row,) = read(tmp_path, GLYCINE + WATER + sodium + "END\n")
    assert row.reason == "no_ligand"


def test_the_element_is_that_of_the_name_in_old_files_and_the_first_location_is_taken(tmp_path: Path) -> None:
    text = pdb("ClCCBr", bonds=False)
    for symbol in ("Cl", "Br"):
        text = text.replace(f" {symbol}", f"{symbol.upper()} ")
    old = "".join(line[:66] + "\n" for line in text.splitlines() if line.startswith("HETATM"))
    (row,) = read(tmp_path, old)
    assert curated(row).smiles == "ClCCBr"
    first = old.splitlines(True)[1]
    other = first[:16] + "B" + first[17:30] + f"{float(first[30:38]) + 0.3:8.3f}" + first[38:]
    (row,) = read(tmp_path, old.replace(first, first[:16] + "A" + first[17:] + other))
    assert curated(row).smiles == "ClCCBr"


def test_residues_that_are_bound_to_each_other_are_one_ligand(tmp_path: Path) -> None:
    lines = pdb("CC(=O)OC").splitlines(True)
    split = "".join(line.replace("LIG A   7", "OME A   8") if line[6:11] == "    5" else line for line in lines)
    (row,) = read(tmp_path, split)
    assert curated(row).smiles == "COC(C)=O"


CHARGED = pdb("CC(=O)[O-]", bonds=False)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (pdb("CCO", hydrogens=False, bonds=False), "hydrogens_missing"),
        (
            pdb("CCO", hydrogens=False),
            "hydrogens_missing",
        ),  # single bonds are named once, and so is every bond of the PDB
        (GLYCINE + pdb("CCO").replace("END\n", "CONECT    1  777\nEND\n"), "bound_to_polymer"),
        (pdb("CC=O").replace("END\n", "CONECT    2    3    3    3\nEND\n"), "unreadable_row"),
        (CHARGED.replace("O1-", "O9x"), "unreadable_row"),
        (CHARGED[: CHARGED.index("O1-") - 40], "unreadable_row"),
        (CHARGED.replace(" C  \n", "XX  \n", 1), "unknown_element"),
        (pdb("CC=O").replace(" C  \n", "XX  \n", 1), "unknown_element"),
        (pdb("CC=O")[:30] + "     nan" + pdb("CC=O")[38:], "no_geometry"),
        ("<not a pdb>\n", "no_ligand"),
    ],
)
def test_a_ligand_that_cannot_be_told_is_a_row_with_its_reason(tmp_path: Path, text: str, reason: str) -> None:
    assert reasons(read(tmp_path, text)) == [reason]


def test_atoms_of_one_number_are_told_apart_by_their_residues(tmp_path: Path) -> None:
    text = pdb("CCO", bonds=False).replace("END\n", "") + pdb("CCN", residue="AMN", bonds=False)
    assert [curated(row).smiles for row in read(tmp_path, text)] == ["CCO", "CCN"]


def test_a_net_charge_can_be_given(tmp_path: Path) -> None:
    text = CHARGED.replace("O1-", "O  ")
    (row,) = read(tmp_path, text, frames=FramesConfig(charge=-1))
    assert curated(row).smiles == "CC(=O)[O-]"


def test_a_structure_without_end_is_not_held_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from conformer_gen.sources.frame_files import pdb_ligands

    monkeypatch.setattr(pdb_ligands, "MOST_HELD", 40)
    endless = "".join(line for line in pdb("CCO").splitlines(True) if line.startswith("HETATM")) * 10
    rows = read(tmp_path, endless + "END\n" + pdb("CCN"))
    assert reasons(rows) == ["too_many_atoms", ""]
