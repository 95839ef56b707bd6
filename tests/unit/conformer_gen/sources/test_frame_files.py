"""Files of elements with coordinates, as ASE, h5py, msgpack and NumPy write them, give molecules with conformers."""

import io
import itertools
import pickle
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.frame_files import hdf5
from conformer_gen.sources.frame_files.xyz import read_xyz
from conformer_gen.sources.frame_settings import FramesConfig
from conformer_gen.sources.inputs.text_streams import TextStream
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.reader import read_source
from tests.helpers.frame_files import (
    BOHR,
    EV,
    FRAMES,
    HARTREE,
    SMILES,
    ase_frames,
    curated,
    forces,
    numbers,
    placed,
    positions,
    read,
    reasons,
    write_aselmdb,
)
from unimol_scale.common.machine.memory import resident_bytes
from unimol_scale.errors import ConfigError, SourceError
from unimol_scale.store.schema import ConformerOrigin

CANONICAL = [Chem.CanonSmiles(smiles) for smiles in SMILES]
KEEP = FramesConfig(keep=("forces",), origin="dft")


def check(rows: list[SourceMolecule], energy_unit: float, force_unit: float) -> None:
    """Frames are conformers in the order of the file, energies above the lowest, forces those of the same atoms."""
    assert [curated(row).smiles for row in rows] == CANONICAL
    for row, smiles in zip(rows, SMILES, strict=True):
        molecule, found = placed(smiles), curated(row)
        assert found.origins == (ConformerOrigin.DFT,) * FRAMES
        np.testing.assert_allclose(found.energies, np.arange(FRAMES)[::-1] * energy_unit, rtol=1e-6)
        here, there = found.conformers[0], positions(molecule)[0]
        same = np.linalg.norm(here[:, None] - there[None], axis=-1).argmin(axis=1)
        np.testing.assert_allclose(here, there[same], atol=1e-4)
        np.testing.assert_allclose(found.atom_labels["forces"], forces(molecule)[:, same] * force_unit, rtol=1e-5)


@pytest.mark.parametrize("suffix", [".xyz", ".db", ".aselmdb"])
def test_what_ase_writes_is_read_with_energies_and_forces(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("ase")
    from ase.db import connect
    from ase.io import write

    file, frames = tmp_path / f"three{suffix}", ase_frames(*SMILES, charge=0)
    if suffix == ".xyz":
        write(file, frames, format="extxyz")
    elif suffix == ".db":
        with connect(file) as database:
            for atoms in frames:
                database.write(atoms)
    else:
        write_aselmdb(file, frames)
    check(read("xyz" if suffix == ".xyz" else "ase-db", tmp_path, frames=KEEP), EV, EV)


def test_the_charge_of_an_sqlite_file_is_known_only_with_the_charges_of_atoms(tmp_path: Path) -> None:
    pytest.importorskip("ase")
    from ase.db import connect

    (ammonium, *_) = ase_frames("C[NH3+]")
    with connect(tmp_path / "a.db") as database:
        database.write(ammonium)
        ammonium.set_initial_charges([0.99] + [0.0] * (len(ammonium) - 1))
        ammonium.calc = None
        database.write(ammonium)
    rows = read("ase-db", tmp_path, frames=FramesConfig(group="none"))
    assert [row.geometry.charge for row in rows] == [None, 1]
    assert [curated(row).smiles for row in rows] == ["C[NH3+]"] * 2


def test_the_backend_of_fairchem_writes_the_same(tmp_path: Path) -> None:
    backend = pytest.importorskip("ase_db_backends.aselmdb")
    with backend.LMDBDatabase(tmp_path / "three.aselmdb") as database:
        for atoms in ase_frames(*SMILES):
            database.write(atoms, data={"charge": 0})
    check(read("ase-db", tmp_path, frames=KEEP), EV, EV)


def write_spice(path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for at, smiles in enumerate(SMILES):
            molecule = placed(smiles)
            for atom in molecule.GetAtoms():
                atom.SetAtomMapNum(atom.GetIdx() + 1)
            group = file.create_group(f"{at}")
            group["atomic_numbers"] = np.array(numbers(molecule), np.int16)
            group["smiles"] = [Chem.MolToSmiles(molecule)]
            group.create_dataset("conformations", data=positions(molecule) / BOHR, compression="gzip")
            group["dft_total_energy"] = -100.0 - np.arange(FRAMES)
            group["dft_total_gradient"] = -forces(molecule)


def test_hdf5_in_the_layout_of_spice(tmp_path: Path) -> None:
    write_spice(tmp_path / "spice.hdf5")
    check(read("hdf5", tmp_path, frames=KEEP), HARTREE, HARTREE / BOHR)


@pytest.mark.parametrize(
    "settings", [KEEP, FramesConfig(origin="dft"), FramesConfig(origin="dft", group="smiles", charge=1)]
)
def test_frames_of_a_group_that_are_looked_at_together_give_the_rows_of_one_after_another(
    tmp_path: Path, settings: FramesConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    h5py = pytest.importorskip("h5py")
    write_spice(tmp_path / "spice.hdf5")
    with h5py.File(tmp_path / "spice.hdf5", "a") as file:
        file["1/charge"], file["2/charge"] = [0.0], [0.4]
        file["1/mbis_charges"] = np.zeros((FRAMES, len(file["1/atomic_numbers"]), 1))
    together = read("hdf5", tmp_path, frames=settings)
    monkeypatch.setattr(hdf5, "clean_molecule", lambda frames, config: None)
    one_by_one = read("hdf5", tmp_path, frames=settings)
    assert [row.id for row in together] == [row.id for row in one_by_one]
    assert sum(row.geometry is not None for row in together) == 2
    for here, there in zip(together, one_by_one, strict=True):
        assert pickle.dumps(here) == pickle.dumps(there)


def test_groups_of_an_hdf5_file_that_were_read_do_not_stay_in_memory(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "many.hdf5", "w") as file:
        for at in range(2_000):
            group = file.create_group(f"{at:05}")
            group["atomic_numbers"], group["conformations"] = [8, 1, 1], np.arange(18.0).reshape(2, 3, 3) + at
            group["dft_total_energy"], group["smiles"] = [0.0, 1.0], ["O"]
    rows = read_source(SourceConfig(name="hdf5", input=(str(tmp_path / "many.hdf5"),)))
    assert all(row.geometry for row in itertools.islice(rows, 200))
    early = resident_bytes()
    assert sum(row.geometry is not None for row in rows) == 1_800
    assert resident_bytes() - early < 12 << 20


def test_hdf5_in_another_layout_by_a_mapping(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "ani.h5", "w") as file:
        for smiles in SMILES:
            molecule = placed(smiles)
            group = file.create_group(f"all/{smiles}")
            group["species"], group["coordinates"] = numbers(molecule), positions(molecule)
            group["wb97x_dz.energy"], group["wb97x_dz.forces"] = -100.0 - np.arange(FRAMES), forces(molecule)
    names = {
        **{"numbers": "species", "positions": "coordinates"},
        **{"energy": "wb97x_dz.energy", "forces": "wb97x_dz.forces"},
    }
    units = {"positions": "Å", "forces": "Ha/Å"}
    settings = FramesConfig(keep=("forces",), origin="dft", fields=names, units=units)
    rows = read("hdf5", tmp_path, frames=settings)
    check(sorted(rows, key=lambda row: CANONICAL.index(curated(row).smiles)), HARTREE, HARTREE)
    with pytest.raises(SourceError, match="no group has a dataset 'conformations'; name it"):
        read("hdf5", tmp_path)


def test_geom_in_messagepack(tmp_path: Path) -> None:
    import msgpack

    molecules = {
        smiles: {
            "conformers": [
                {
                    "totalenergy": -100.0 - at,
                    "xyz": np.column_stack([numbers(molecule), positions(molecule)[at]]).tolist(),
                }
                for at in range(FRAMES)
            ]
        }
        for smiles, molecule in ((smiles, placed(smiles)) for smiles in SMILES)
    }
    first = {smiles: molecules.pop(smiles) for smiles in SMILES[:1]}
    content = msgpack.packb(first) + msgpack.packb(molecules)
    (tmp_path / "drugs_crude.msgpack").write_bytes(content)
    rows = read("geom", tmp_path)
    assert [curated(row).smiles for row in rows] == CANONICAL
    assert all(row.geometry is not None and len(row.geometry.positions) == FRAMES for row in rows)
    np.testing.assert_allclose(curated(rows[1]).energies, np.arange(FRAMES)[::-1] * HARTREE)
    (tmp_path / "drugs_crude.msgpack").write_bytes(content[:-50])
    *whole, last = read("geom", tmp_path)
    assert [curated(row).smiles for row in whole] == CANONICAL[:2]
    assert last.ends_early


@pytest.mark.parametrize("names", [("z", "R", "E", "F"), ("nuclear_charges", "coords", "energies", "forces")])
def test_md17_takes_frames_at_equal_distances(tmp_path: Path, names: tuple[str, ...]) -> None:
    molecule = placed("CCO", frames=10)
    values = (np.array(numbers(molecule)), positions(molecule), -1.0 - np.arange(10), forces(molecule))
    np.savez_compressed(tmp_path / "ethanol.npz", **dict(zip(names, values, strict=True)))
    (row,) = read("md17", tmp_path, frames=FramesConfig(keep=("forces",), most=5))
    assert curated(row).smiles == "CCO"
    assert row.geometry is not None
    assert row.geometry.energies == (-1.0, -3.0, -5.0, -7.0, -9.0)
    np.testing.assert_array_equal(row.geometry.atom_labels["forces"], forces(molecule)[::2].astype(np.float32))
    np.testing.assert_allclose(row.geometry.positions, positions(molecule)[::2], atol=1e-6)


def test_frames_are_grouped_by_name_smiles_or_graph(tmp_path: Path) -> None:
    ethanol, ether = (positions(placed(smiles, 1))[0] for smiles in ("CCO", "COC"))

    def frame(place: np.ndarray, comment: str, symbols: str = "CCOHHHHHH") -> str:
        lines = [f"{symbol} {x} {y} {z}" for symbol, (x, y, z) in zip(symbols, place, strict=True)]
        return "\n".join([str(len(lines)), comment, *lines, ""])

    moved = ethanol + 0.01
    file = tmp_path / "a.xyz"
    # The two are isomers of the same elements in the same order.
    ether = ether[[0, 2, 1, *range(3, 9)]]
    file.write_text(frame(ethanol, "first") + frame(moved, "second") + frame(ether, "third"))
    assert [curated(row).smiles for row in read("xyz", file)] == ["CCO", "COC"]
    assert [len(row.geometry.positions) for row in read("xyz", file)] == [2, 1]
    assert len(read("xyz", file, frames=FramesConfig(group="none"))) == 3
    assert [len(row.geometry.positions) for row in read("xyz", file, frames=FramesConfig(most=1))] == [1, 1, 1]
    file.write_text(frame(ethanol, "name=a") + frame(moved, "name=b") + frame(moved + 0.01, "name=b"))
    assert [(row.id, len(row.geometry.positions)) for row in read("xyz", file)] == [("a", 1), ("b", 2)]
    file.write_text(frame(ethanol, "smiles=CCO") + frame(moved, 'smiles="OCC"'))
    assert [row.smiles for row in read("xyz", file)] == ["CCO", "OCC"]
    assert len(read("xyz", file, frames=FramesConfig(group="name"))) == 2  # neither has one
    (row,) = read("xyz", file, frames=FramesConfig(group="graph"))
    assert len(row.geometry.positions) == 2


def test_frames_are_read_one_after_another() -> None:
    endless = itertools.chain.from_iterable(
        ("3\n", f"name=m{at}\n", *WATER.splitlines(keepends=True)) for at in itertools.count()
    )
    rows = read_xyz(TextStream("a.xyz", endless), SourceConfig(name="xyz", input=("a.xyz",)))
    assert [row.id for row in itertools.islice(rows, 3)] == ["m0", "m1", "m2"]


WATER = "O 0 0 0.119\nH 0 0.763 -0.477\nH 0 -0.763 -0.477\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"3\n\n{WATER}", [""]),
        (f"4\n\n{WATER}3\n\n{WATER}", ["wrong_count", ""]),
        (f"3\n\n{WATER}{WATER}3\n\n{WATER}", ["wrong_count", "duplicate_frame", ""]),
        (f"3\n\n{WATER}4\n\n{WATER}", ["wrong_count", ""]),
        (f"999999999999\n\n{WATER}3\n\n{WATER}", ["wrong_count", ""]),
        (f"3\n\n{WATER.replace('0.119', 'nan')}", ["no_geometry"]),
        (f"3\n\n{WATER.replace('0.119', '1e39')}", ["no_geometry"]),
        (f"3\n\n{WATER.replace('O 0 0 0.119', 'O 0 0.763 -0.477')}", ["no_geometry"]),
        (f"3\n\n{WATER.replace('O', 'Xx')}", ["unknown_element"]),
        (f"3\n\n{WATER.replace('O', '119')}", ["unknown_element"]),
        (f"3\n\n{WATER.replace('O', 'Fe')}", ["metal_or_unknown_element"]),
        (f"3\nenergy=low\n{WATER}", ["energy_is_no_number"]),
        (f"3\nenergy=inf\n{WATER}", ["energy_is_no_number"]),
        (f"3\nenergy=1e38\n{WATER}", ["energy_is_no_number"]),
        (f"3\ncharge=0.5\n{WATER}", ["charge_is_no_number"]),
        (f"3\ncharge=7\n{WATER}", ["bonds_not_perceived"]),
        (f"3\n\n{WATER}3\n\n{WATER}", ["duplicate_frame", ""]),
        (f'3\nLattice="5 0 0 0 5 0 0 0 5"\n{WATER}', ["unit_cell"]),
        (f'3\nLattice="5 0 0 0 5 0 0 0 5" pbc="F F F"\n{WATER}', [""]),
        (f"3\nProperties=species:S:1:pos:R:99999999\n{WATER}", ["unreadable_row"]),
        ("<svg></svg>\n", ["wrong_count"]),
    ],
)
def test_every_bad_frame_of_an_xyz_file_is_a_row_with_its_reason(
    tmp_path: Path, text: str, expected: list[str]
) -> None:
    (tmp_path / "a.xyz").write_text(text)
    assert reasons(read("xyz", tmp_path)) == expected


def test_atoms_on_one_point_are_the_reason_why_bonds_are_not_perceived(tmp_path: Path) -> None:
    places = positions(placed("CCO", frames=1))[0]
    places[1] = places[0]
    atoms = [f"{symbol} {x} {y} {z}" for symbol, (x, y, z) in zip("CCOHHHHHH", places, strict=True)]
    (tmp_path / "a.xyz").write_text("\n".join(["9", "", *atoms, ""]))
    assert reasons(read("xyz", tmp_path)) == ["no_geometry"]


def test_a_unit_cell_can_be_ignored(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text(f'3\nLattice="5 0 0 0 5 0 0 0 5"\n{WATER}')
    assert [curated(row).smiles for row in read("xyz", tmp_path, frames=FramesConfig(cell="ignore"))] == ["O"]


def test_a_truncated_database_keeps_what_can_be_read(tmp_path: Path) -> None:
    pytest.importorskip("ase")
    from ase.db import connect

    file = tmp_path / "a.db"
    with connect(file) as database:
        for atoms in ase_frames("CCO", "CCN", "c1ccoc1") * 20:
            database.write(atoms)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=r"a\.db") if reads_nothing(file) else io.StringIO():
        rows = read("ase-db", file)
        assert rows[-1].problem


def reads_nothing(file: Path) -> bool:
    try:
        return not sqlite3.connect(file).execute("SELECT id FROM systems LIMIT 1").fetchall()
    except sqlite3.Error:
        return True


def test_units_that_are_none_of_the_quantity_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"source\.frames\.units\.energy is 'Å'"):
        FramesConfig(units={"energy": "Å"})
    with pytest.raises(ConfigError, match=r"source\.frames\.units\.forces is 'eV'; write an energy by a length"):
        FramesConfig(units={"forces": "eV"})
    with pytest.raises(ConfigError, match="unknown 'force'; did you mean 'forces'"):
        FramesConfig(keep=("force",))
