"""Sources divided into units have the rows of the whole, in its order, with its ids, wherever the borders are."""

import dataclasses
import pickle
from pathlib import Path

import h5py
import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rdkit import Chem

from conformer_gen.sources import units
from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.file_range import WHOLE, FileRange, ranges_between
from conformer_gen.sources.frame_files.ase_db import ASE_DB_FORMAT
from conformer_gen.sources.frame_files.frames import Frame, bad_frame, group_frames
from conformer_gen.sources.frame_settings import FramesConfig
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.reader import read_source
from conformer_gen.sources.units import peek, plan_units
from tests.helpers.frame_files import (
    BOHR,
    MOL2_WATER,
    SMILES,
    ase_frames,
    numbers,
    placed,
    positions,
    write_aselmdb,
    write_small,
)
from tests.helpers.source_rows import plain

# Two molecules of the same elements, told apart by their distances, and one of others.
PLACES = {"a": ([1, 1, 8], 0.8), "b": ([1, 1, 8], 9.0), "c": ([1, 8], 0.8)}


def frame(place: int, kind: str, name: str, smiles: str, moved: int, charge: int | None) -> Frame | SourceMolecule:
    if kind == "bad":
        return bad_frame(f"f:{place}", "unreadable_row", "of no use")
    elements, distance = PLACES[kind]
    points = np.arange(len(elements))[:, None] * np.array([distance, 0.0, 0.0]) + moved * 1e-3
    return Frame(
        id=f"f:{place}", numbers=elements, positions=points, name=name, smiles=smiles, charge=charge, place=place
    )


frames_of_files = st.lists(
    st.tuples(
        st.sampled_from(["a", "a", "b", "c", "bad"]),
        st.sampled_from(["", "x", "x", "y"]),
        st.sampled_from(["", "O"]),
        st.integers(0, 3),
        st.sampled_from([None, None, 1]),
    ),
    max_size=25,
)


@given(
    parts=frames_of_files,
    borders=st.lists(st.integers(0, 26), max_size=4),
    group=st.sampled_from([None, "name", "smiles", "graph", "none"]),
    most=st.sampled_from([1, 2, 3, 500]),
)
def test_ranges_of_frames_make_the_molecules_of_the_whole_file(
    parts: list[tuple[str, str, str, int, int | None]], borders: list[int], group: str | None, most: int
) -> None:
    settings = ASE_DB_FORMAT.resolved(FramesConfig(group=group, most=most))
    frames = [frame(place, *part) for place, part in enumerate(parts)]

    def rows(within: FileRange) -> list[object]:
        return [plain(row) for row in group_frames(frames[max(0, within.first) :], settings, within)]

    found = [row for within in ranges_between(sorted(borders)) for row in rows(within)]
    assert found == rows(WHOLE)


def write_many(path: Path) -> SourceConfig:
    """Write a file that can be read in ranges, of molecules in several frames each where the format has frames."""
    frames = [one for _ in range(8) for one in ase_frames(*SMILES)]
    if path.suffix == ".db":
        from ase.db import connect

        with connect(path) as database:
            for atoms in frames:
                database.write(atoms)
    elif path.suffix == ".aselmdb":
        write_aselmdb(path, frames)
    elif path.suffix == ".xyz":
        from ase.io import write

        write(path, frames, format="extxyz")
    elif path.suffix == ".sdf":
        path.write_text("".join(Chem.MolToMolBlock(placed("C" * (1 + at % 3))) + "$$$$\n" for at in range(30)))
    elif path.suffix == ".mol2":
        path.write_text(MOL2_WATER.replace("water", "*****") * 30)
    elif path.suffix == ".hdf5":
        molecule = placed("CCO")
        with h5py.File(path, "w") as file:
            for at in range(40):
                group = file.create_group(f"m{at}" if at % 4 else f"nested/m{at}")
                group["atomic_numbers"], group["smiles"] = numbers(molecule), ["CCO"]
                group["conformations"] = positions(molecule) / BOHR
    elif path.suffix == ".parquet":
        table = pa.table({"smiles": ["C" * (1 + at % 9) for at in range(500)], "u": np.arange(500.0)})
        pq.write_table(table, path, row_group_size=37)
    else:
        points = np.arange(15, dtype=np.float32).reshape(5, 3)
        record = {"atoms": ["C", "H", "H", "H", "H"], "coordinates": [points], "smi": "C"}
        environment = lmdb.open(str(path), subdir=False, lock=False, map_size=64 << 20)
        with environment.begin(write=True) as transaction:
            for at in range(90):
                transaction.put(str(at).encode(), pickle.dumps(record))
        environment.close()
    name = {".db": "ase-db", ".aselmdb": "ase-db", ".lmdb": "unimol-lmdb"}.get(path.suffix, path.suffix[1:])
    return SourceConfig(name=name, input=(str(path),))


@pytest.mark.parametrize("suffix", [".db", ".aselmdb", ".hdf5", ".parquet", ".lmdb", ".xyz", ".sdf", ".mol2"])
def test_a_large_file_is_divided_and_its_units_have_its_rows(tmp_path: Path, suffix: str) -> None:
    config = write_many(tmp_path / f"many{suffix}")
    found = list(plan_units([config], None, 0, 500))
    assert len(found) > 5
    assert all(unit.anywhere for unit in found)
    counts = [len(list(unit.read())) for unit in found]
    assert sum(count > 0 for count in counts) > 5
    rows = [plain(row) for unit in found for row in pickle.loads(pickle.dumps(unit)).read()]
    assert rows == [plain(row) for row in read_source(config)]


@pytest.mark.parametrize("suffix", [".npz", ".msgpack", ".pdb"])
def test_files_of_other_formats_are_read_whole_and_small_ones_together(tmp_path: Path, suffix: str) -> None:
    paths = [tmp_path / f"f{at}{suffix}" for at in range(4)]
    name = {write_small(path) for path in paths}.pop()
    config = SourceConfig(name=name, input=tuple(map(str, paths)))
    size = paths[0].stat().st_size
    rows = [plain(row) for row in read_source(config)]
    for unit_bytes, expected in ((1, 4), (2 * size, 2), (units.UNIT_BYTES, 1)):
        found = list(plan_units([config], None, 0, unit_bytes))
        assert len(found) == expected
        assert [plain(row) for unit in found for row in unit.read()] == rows


def test_a_damaged_file_is_read_in_ranges_with_the_rows_and_problems_of_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "many.db"
    config = write_many(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4] + bytes(len(data) // 4))
    found = [plain(row) for unit in plan_units([config], None, 0, 500) for row in unit.read()]
    assert found == [plain(row) for row in read_source(config)]
    assert any("cannot be read to its end" in str(row) for row in found)


@pytest.mark.parametrize("suffix", [".xyz", ".parquet"])
def test_text_is_read_whole_where_a_build_began_so(tmp_path: Path, suffix: str) -> None:
    config = write_many(tmp_path / f"many{suffix}")
    found = list(plan_units([config], None, 0, 500, text_ranges=False))
    assert (len(found) == 1) == (suffix == ".xyz")
    assert [plain(row) for unit in found for row in unit.read()] == [plain(row) for row in read_source(config)]


def test_what_depends_on_the_rows_before_is_one_unit_of_this_process(tmp_path: Path) -> None:
    for at in range(3):
        (tmp_path / f"{at}.smi").write_text("C\nCC\nCCC\n")
    config = SourceConfig(name="smiles", input=(str(tmp_path),))
    assert [unit.anywhere for unit in plan_units([config], None, 0, 1)] == [True] * 3
    for chosen in ({"limit": 5}, {"sample": 5}):
        (unit,) = plan_units([dataclasses.replace(config, **chosen)], None, 0, 1)
        assert not unit.anywhere
        assert len(list(unit.read())) == 5


@pytest.mark.parametrize("keys", [{}, {"limit": 7}])
def test_looking_at_the_first_rows_loses_none(tmp_path: Path, keys: dict[str, int]) -> None:
    for at in range(3):
        (tmp_path / f"{at}.smi").write_text("C\nCC\nCCC\n")
    config = SourceConfig(name="smiles", input=(str(tmp_path),), **keys)
    for most in (1, 4, 100):
        count, found = peek(plan_units([config], None, 0, 1), most)
        rows = [row for unit in found for row in unit.read()]
        assert rows == list(read_source(config))
        assert count == min(most, len(rows))
