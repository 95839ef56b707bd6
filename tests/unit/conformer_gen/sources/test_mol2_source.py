"""MOL2 files: the bonds, coordinates and titles of the file."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from tests.helpers.frame_files import curated, placed, positions, read, reasons

TYPES = {"CCO": ["C.3", "C.3", "O.3"], "c1ccccc1": ["C.ar"] * 6, "CC(N)=O": ["C.3", "C.2", "N.am", "O.2"]}


def mol2(smiles: str, title: str = "") -> str:
    """A record as docking programs write it: atoms with the types of Sybyl, bonds with orders."""
    molecule = placed(smiles, frames=1)
    types = TYPES[smiles] + ["H"] * (molecule.GetNumAtoms() - len(TYPES[smiles]))
    atoms = [
        f"{at} {kind.split('.')[0]}{at} {x:.4f} {y:.4f} {z:.4f} {kind} 1 LIG 0.0"
        for at, (kind, (x, y, z)) in enumerate(zip(types, positions(molecule)[0], strict=True), start=1)
    ]
    orders = {Chem.BondType.SINGLE: "1", Chem.BondType.DOUBLE: "2", Chem.BondType.AROMATIC: "ar"}
    bonds = [
        f"{at} {bond.GetBeginAtomIdx() + 1} {bond.GetEndAtomIdx() + 1} {orders[bond.GetBondType()]}"
        for at, bond in enumerate(molecule.GetBonds(), start=1)
    ]
    head = ["@<TRIPOS>MOLECULE", title or "*****", f"{len(atoms)} {len(bonds)} 1 0 0", "SMALL", "NO_CHARGES", ""]
    return "\n".join([*head, "@<TRIPOS>ATOM", *atoms, "@<TRIPOS>BOND", *bonds, ""])


def test_records_keep_their_bonds_coordinates_and_titles(tmp_path: Path) -> None:
    (tmp_path / "a.mol2").write_text("# by a program\n" + mol2("CCO", "ethanol") + mol2("c1ccccc1") + mol2("CC(N)=O"))
    rows = read("mol2", tmp_path)
    assert [row.id for row in rows] == ["ethanol", "a:2", "a:3"]
    found = [curated(row) for row in rows]
    assert [one.smiles for one in found] == ["CCO", "c1ccccc1", "CC(N)=O"]
    np.testing.assert_allclose(found[0].conformers[0][:3], positions(placed("CCO", frames=1))[0][:3], atol=1e-3)


@pytest.mark.parametrize(("cut", "reason"), [("@<TRIPOS>ATOM", "unreadable_row"), ("@<TRIPOS>BOND", "not_parsed")])
def test_a_record_that_is_cut_off_is_a_failed_row(tmp_path: Path, cut: str, reason: str) -> None:
    text = mol2("CCO")
    (tmp_path / "a.mol2").write_text(mol2("c1ccccc1") + text[: text.index(cut)])
    assert reasons(read("mol2", tmp_path)) == ["", reason]


def test_text_before_the_first_record_is_a_failed_row(tmp_path: Path) -> None:
    (tmp_path / "a.mol2").write_text("# by a program\n\n" + mol2("CCO").replace("MOLECULE", "MOL") + mol2("c1ccccc1"))
    rows = read("mol2", tmp_path)
    assert reasons(rows) == ["unreadable_row", ""]
    assert "begins with '@<TRIPOS>MOL" in rows[0].problem


def test_a_record_without_end_is_a_failed_row_and_is_not_held(tmp_path: Path) -> None:
    head = "@<TRIPOS>MOLECULE\nlong\n"
    (tmp_path / "a.mol2").write_text(mol2("CCO") + head + ("x" * 99 + "\n") * 200_000 + mol2("c1ccccc1"))
    tracemalloc.start()
    rows = read("mol2", tmp_path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reasons(rows) == ["", "unreadable_row", ""]
    assert most < 16 << 20
