"""Files that want to run something or take all memory fail, and do nothing else."""

import contextlib
import pickle
import sqlite3
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

from conformer_gen.sources.frame_settings import FramesConfig
from tests.helpers.frame_files import (
    BOHR,
    ase_frames,
    curated,
    numbers,
    placed,
    positions,
    read,
    reasons,
    write_aselmdb,
    write_lmdb,
    write_small,
)
from unimol_scale.errors import SourceError

MARK = "it_was_run"


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self._target = folder / MARK

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self._target,)


@pytest.fixture
def pickled(tmp_path: Path) -> bytes:
    pytest.importorskip("ase")
    return pickle.dumps(Hostile(tmp_path))


def not_run(folder: Path) -> bool:
    return not (folder / MARK).exists()


def test_a_pickle_or_a_bomb_in_an_aselmdb_file_is_a_failed_row(tmp_path: Path, pickled: bytes) -> None:
    write_aselmdb(tmp_path / "a.aselmdb", ase_frames("CCO"))
    bomb = zlib.compress(b'{"numbers": [' + b" " * (64 << 20) + b"1]}")
    deep = zlib.compress(b"[" * 200_000)
    values = [pickled, zlib.compress(pickled), bomb, deep, zlib.compress(b"[1]"), b"", bomb[:-10]]
    write_lmdb(tmp_path / "a.aselmdb", {str(at).encode(): value for at, value in enumerate(values, start=11)})
    found = reasons(read("ase-db", tmp_path / "a.aselmdb"))
    assert sorted(found) == [""] + ["unreadable_row"] * len(values)
    assert not_run(tmp_path)


def test_a_record_of_an_aselmdb_file_that_would_go_beyond_its_end_is_a_failed_row(tmp_path: Path) -> None:
    path, value = tmp_path / "a.aselmdb", zlib.compress(b"[1]") + bytes(9_000)
    write_lmdb(path, {b"1": value, b"2": zlib.compress(b"[1]")})
    large = "<HHHH"  # LMDB's node: size in two halves, a flag of large values, length of the key
    head = struct.pack(large, len(value), 0, 1, 1)
    assert path.read_bytes().count(head) == 1
    path.write_bytes(path.read_bytes().replace(head, struct.pack(large, len(value), 1 << 13, 1, 1)))
    first, second = read("ase-db", path)
    assert f"its {(1 << 29) + len(value):,} bytes are more than" in first.problem
    assert second.problem


def test_a_database_without_rows_is_a_failed_row(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "a.aselmdb", {b"nextid": b"1", b"other": b"2"})
    (row,) = read("ase-db", tmp_path / "a.aselmdb")
    assert row.reason == "no_rows"


def test_a_pickle_in_a_column_of_an_sqlite_file_is_not_run(tmp_path: Path, pickled: bytes) -> None:
    from ase.db import connect

    with connect(tmp_path / "a.db") as database:
        for atoms in ase_frames("CCO", "CCN"):
            database.write(atoms)
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("UPDATE systems SET positions = ? WHERE id = 1", (pickled,))
        connection.execute("UPDATE systems SET data = ?, constraints = ?", (pickled, '[{"name": "os.system"}]'))
        connection.execute("UPDATE systems SET energy = 'low' WHERE id = 2")
        connection.execute("UPDATE systems SET key_value_pairs = '__import__(\"os\")' WHERE id = 3")
    found = reasons(read("ase-db", tmp_path / "a.db"))
    assert sorted(found) == ["", "energy_is_no_number", "unreadable_row", "unreadable_row"]
    assert not_run(tmp_path)


def test_a_view_that_counts_for_ever_is_no_database_of_ase(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute(
            "CREATE VIEW systems AS WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n) "
            "SELECT id, '' AS numbers, '' AS positions FROM n"
        )
    with pytest.raises(SourceError, match="not a database of ASE"):
        read("ase-db", tmp_path / "a.db")


def test_links_objects_and_absurd_shapes_in_hdf5_fail(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    secret = tmp_path / "secret.h5"
    molecule = placed("CCO")
    with h5py.File(secret, "w") as file:
        file["conformations"], file["atomic_numbers"] = positions(molecule), numbers(molecule)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        good = file.create_group("good")
        good["conformations"], good["atomic_numbers"] = positions(molecule), numbers(molecule)
        file["again"] = h5py.SoftLink("/good")
        file["other"] = h5py.ExternalLink(str(secret), "/")
        good["loop"] = good
        file["deep"] = file["/"]
        linked = file.create_group("linked")
        linked["conformations"] = h5py.ExternalLink(str(secret), "/conformations")
        huge = file.create_group("huge")
        huge.create_dataset("conformations", (1 << 40, 9, 3), "f8", chunks=(1, 9, 3), fillvalue=1.0)
        huge["atomic_numbers"] = numbers(molecule)
        wide = file.create_group("wide")
        wide.create_dataset("conformations", (1, 1 << 40, 3), "f8", chunks=(1, 100, 3))
        bomb = file.create_group("bomb")
        bomb.create_dataset("conformations", (1 << 20, 9, 3), "f8", chunks=(1 << 20, 9, 3), compression="gzip")
        bomb["atomic_numbers"] = numbers(molecule)
        text = file.create_group("text")
        text["conformations"] = [[["x"] * 3] * 9]
    settings = FramesConfig(units={"positions": "Å"})
    rows = read("hdf5", tmp_path / "a.hdf5", frames=settings)
    found = dict(zip([row.id for row in rows], reasons(rows), strict=True))
    assert [name for name, reason in found.items() if not reason] == ["a:good"]
    assert {name.split(":")[1] for name in found} == {"good", "huge", "wide", "bomb", "text"}


@pytest.mark.parametrize("name", ["atomic_numbers", "dft_total_energy", "forces", "smiles"])
def test_what_stands_beside_the_positions_in_hdf5_is_not_read_where_it_is_absurdly_large(
    tmp_path: Path, name: str
) -> None:
    h5py = pytest.importorskip("h5py")
    molecule = placed("CCO", frames=2)
    values = {"conformations": positions(molecule) / BOHR, "atomic_numbers": numbers(molecule)}
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for key, value in values.items():
            if key != name:
                file[f"m/{key}"] = value
        if name == "smiles":
            file["m"].create_dataset(name, (1,), f"S{1 << 30}", chunks=(1,))
        else:
            file["m"].create_dataset(name, (2, 1 << 36), "f8" if name != "atomic_numbers" else "i4", chunks=(1, 1024))
    tracemalloc.start()
    (row,) = read("hdf5", tmp_path / "a.hdf5", frames=FramesConfig(keep=("forces",)))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 64 << 20
    if name == "smiles":
        assert curated(row).smiles == "CCO"
    else:
        assert row.problem


def test_a_dataset_without_values_is_not_read_as_one(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    molecule = placed("CCO")
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["m/conformations"], file["m/atomic_numbers"] = positions(molecule) / BOHR, numbers(molecule)
        file["m/dft_total_energy"] = h5py.Empty("f8")
    (row,) = read("hdf5", tmp_path / "a.hdf5")
    assert "no dataset 'dft_total_energy'" in row.problem


@pytest.mark.parametrize("kind", ["db", "aselmdb", "npz", "msgpack", "xyz", "pdb", "mol2"])
def test_a_damaged_file_of_any_kind_gives_rows_or_a_message(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("ase")
    whole, damaged = tmp_path / f"whole.{kind}", tmp_path / f"damaged.{kind}"
    source = write_small(whole)
    random, data = np.random.default_rng(1), whole.read_bytes()
    for first in (len(data), 128) * 30:  # anywhere, or in the head
        content = bytearray(data)
        for at in random.integers(0, min(first, len(data)), 5).tolist():
            content[at] = int(random.integers(256))
        damaged.write_bytes(content)
        with contextlib.suppress(SourceError):
            assert reasons(read(source, damaged))


def test_a_damaged_hdf5_file_gives_rows_or_a_message(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    whole, damaged = tmp_path / "whole.hdf5", tmp_path / "damaged.hdf5"
    with h5py.File(whole, "w") as file:
        for at, smiles in enumerate(("CCO", "CCN", "c1ccoc1")):
            molecule = placed(smiles)
            file[f"in/{at}/conformations"], file[f"in/{at}/atomic_numbers"] = positions(molecule), numbers(molecule)
            file[f"in/{at}/smiles"] = [smiles]
    random, data = np.random.default_rng(0), whole.read_bytes()
    refused = 0
    for _ in range(150):
        content = bytearray(data)
        for at in random.integers(0, len(data), 20).tolist():
            content[at] = int(random.integers(256))
        damaged.write_bytes(content)
        try:
            rows = read("hdf5", damaged)
        except SourceError:
            refused += 1
        else:
            assert rows
    assert 0 < refused < 150


def test_objects_and_absurd_shapes_in_an_npz_file_fail(tmp_path: Path, pickled: bytes) -> None:
    molecule = placed("CCO")
    np.savez(tmp_path / "a.npz", z=numbers(molecule), R=np.array([Hostile(tmp_path)] * 3, object))
    assert reasons(read("md17", tmp_path / "a.npz")) == ["unreadable_row"]
    np.savez(tmp_path / "b.npz", z=numbers(molecule), R=np.zeros((2, 9, 4)))
    assert reasons(read("md17", tmp_path / "b.npz")) == ["unreadable_row"]
    np.savez(tmp_path / "c.npz", z=np.ones(1 << 20, int), R=np.zeros((1, 3, 3)))
    assert reasons(read("md17", tmp_path / "c.npz")) == ["unreadable_row"]
    (tmp_path / "d.npz").write_bytes(pickled)
    with pytest.raises(SourceError, match=r"no \.npz file"):
        read("md17", tmp_path / "d.npz")
    assert not_run(tmp_path)


def test_the_pickles_of_geom_are_refused_with_a_way_around(tmp_path: Path, pickled: bytes) -> None:
    for name in ("a.pickle", "a.msgpack"):
        (tmp_path / name).write_bytes(pickled)
        with pytest.raises(SourceError, match=r"is a pickle, .* drugs_crude\.msgpack .* --source sdf"):
            read("geom", tmp_path / name)
    assert not_run(tmp_path)


def test_absurd_counts_in_messagepack_end_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.msgpack").write_bytes(b"\xdf\xff\xff\xff\xff\xa1C\xdd\xff\xff\xff\xff")
    assert reasons(read("geom", tmp_path / "a.msgpack")) == ["unreadable_row"]
