"""Uni-Mol's LMDB files: both generations, what is damaged or hostile in them, and a real one."""

import os
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from conformer_gen.chemistry.config import CurateConfig
from conformer_gen.chemistry.curate import Curated, curate_molecule
from conformer_gen.sources.data_sets.unimol import read_unimol, unimol_labels
from conformer_gen.sources.molecule import Rejected, SourceMolecule
from unimol_scale.errors import SourceError
from unimol_scale.store.schema import ConformerOrigin

METHANE = ["C", "H", "H", "H", "H"]
POINTS = np.arange(15, dtype=np.float32).reshape(5, 3)
FLAT = POINTS * np.array([1, 1, 0], np.float32)


def record(**changes: object) -> dict[str, Any]:
    return {"atoms": METHANE, "coordinates": [POINTS, FLAT], "smi": "C", **changes}


def write(path: Path, values: Mapping[bytes, bytes]) -> Path:
    environment = lmdb.open(str(path), subdir=False, lock=False, map_size=64 << 20)
    with environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key, value)
    environment.close()
    return path


def rows(
    tmp_path: Path, *records: object, key: Callable[[int], bytes] = lambda n: str(n).encode()
) -> list[SourceMolecule]:
    values = {key(n): r if isinstance(r, bytes) else pickle.dumps(r) for n, r in enumerate(records)}
    return list(read_unimol(write(tmp_path / "molecules.lmdb", values)))


@pytest.mark.parametrize("key", [lambda n: str(n).encode(), lambda n: n.to_bytes(4, "big")])
def test_both_generations_of_keys_are_read(tmp_path: Path, key: Callable[[int], bytes]) -> None:
    found = rows(tmp_path, record(), record(smi="[CH4]"), key=key)
    assert [(row.id, row.smiles, row.problem) for row in found] == [("0", "C", ""), ("1", "[CH4]", "")]
    geometry = found[0].geometry
    assert geometry is not None
    assert geometry.symbols == tuple(METHANE)
    np.testing.assert_array_equal(geometry.positions, [POINTS, FLAT])
    assert geometry.origins == (ConformerOrigin.FILE, ConformerOrigin.FLAT)


@pytest.mark.parametrize("coordinates", [POINTS, [POINTS], POINTS[None], (POINTS.astype(np.float64),)])
def test_one_bare_array_is_one_conformer(tmp_path: Path, coordinates: object) -> None:
    (row,) = rows(tmp_path, record(coordinates=coordinates))
    assert row.geometry is not None
    np.testing.assert_array_equal(row.geometry.positions, POINTS[None])
    assert row.geometry.positions.dtype == np.float32


@pytest.mark.parametrize(
    ("target", "labels", "names"),
    [
        (1.5, (1.5,), ("target",)),
        (3, (3.0,), ("target",)),
        ((1, 0), (1.0, 0.0), ("target_0", "target_1")),
        (np.array([0.25, -1]), (0.25, -1.0), ("target_0", "target_1")),
        (np.float32(0.5), (0.5,), ("target",)),
        ([None, 2], (float("nan"), 2.0), ("target_0", "target_1")),
        ("toxic", (), ()),
        (None, (), ()),
    ],
    ids=str,
)
def test_numeric_targets_become_labels(
    tmp_path: Path, target: object, labels: tuple[float, ...], names: tuple[str, ...]
) -> None:
    (row,) = rows(tmp_path, record(target=target))
    np.testing.assert_array_equal(row.labels, labels)
    assert unimol_labels(tmp_path / "molecules.lmdb") == names


def test_a_molecule_with_another_number_of_targets_is_a_problem(tmp_path: Path) -> None:
    good, bad = rows(tmp_path, record(target=(1, 2)), record(target=(1, 2, 3)))
    assert good.problem == ""
    assert bad.problem == "record 1 has 3 targets, but others have 2"


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def test_a_hostile_record_is_a_problem_that_names_it_and_does_not_run(tmp_path: Path) -> None:
    hostile = record(coordinates=Hostile(tmp_path / "mark"))
    good, bad, last = rows(tmp_path, record(), hostile, record())
    assert bad.problem == "record 1: its pickle names posix.system, which is not allowed; nothing was run"
    assert (good.problem, last.problem, bad.geometry) == ("", "", None)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b"", "damaged"),
        (pickle.dumps(record())[:-20], "damaged"),
        (pickle.dumps([1, 2]), "not a dict"),
        (pickle.dumps({"atoms": METHANE}), "lacks coordinates, smi"),
        (pickle.dumps(record(smi=b"C")), "smi is not a string"),
        (pickle.dumps(record(atoms="CHHHH")), "not a list of symbols"),
        (pickle.dumps(record(atoms=[6, 1, 1, 1, 1])), "not a list of symbols"),
        (pickle.dumps(record(atoms=[])), "0 atoms"),
        (pickle.dumps(record(coordinates=[POINTS[:4]])), r"5 atoms is an array \[4, 3\]"),
        (pickle.dumps(record(coordinates=[])), "not 1 to"),
        (pickle.dumps(record(coordinates=[None])), "is a NoneType"),
        (pickle.dumps(record(coordinates=[POINTS] * 1001)), "not 1 to 1,000"),
        (bytes(17 << 20), "bytes are more than"),
    ],
)
def test_a_damaged_record_is_a_row_with_its_problem(tmp_path: Path, value: bytes, problem: str) -> None:
    good, bad = rows(tmp_path, record(), value)
    assert (good.id, good.problem) == ("0", "")
    assert bad.id == "1"
    assert bad.problem.startswith("record 1: ")
    assert re.search(problem, bad.problem), bad.problem


def test_a_file_that_is_something_else_or_cut_off_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.lmdb").write_text("not a database\n" * 1000)
    with pytest.raises(SourceError, match=r"notes\.lmdb is not an LMDB file"):
        list(read_unimol(tmp_path / "notes.lmdb"))
    with pytest.raises(SourceError, match="cannot be read: No such file"):
        list(read_unimol(tmp_path / "nowhere.lmdb"))
    path = write(tmp_path / "cut.lmdb", {str(n).encode(): pickle.dumps(record()) for n in range(100)})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SourceError, match=r"cut\.lmdb is not an LMDB file, or has been cut off: it has [\d,]+ bytes"):
        list(read_unimol(path))


def test_a_sound_file_without_its_last_pages_which_are_free_is_read(tmp_path: Path) -> None:
    """The library leaves out such pages where it has not written them, which takes more than a test can arrange."""
    path = write(tmp_path / "free.lmdb", {b"0": pickle.dumps(record())})
    environment = lmdb.open(str(path), subdir=False, lock=False, map_size=64 << 20)
    for value in (bytes(1 << 20), None, b"", None, b"", None):
        with environment.begin(write=True) as transaction:
            transaction.delete(b"1") if value is None else transaction.put(b"1", value)
    environment.close()
    path.write_bytes(path.read_bytes()[: -(200 << 10)])
    assert [row.problem for row in read_unimol(path)] == [""]


def test_a_damaged_page_is_an_error_or_a_problem_of_its_records_and_never_ends_the_process(tmp_path: Path) -> None:
    path = write(tmp_path / "whole.lmdb", {str(n).encode(): pickle.dumps(record()) for n in range(200)})
    data, random, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(100):
        content = np.frombuffer(data, np.uint8).copy()
        places = random.integers(0, len(content) // 4096, 8) * 4096 + random.integers(0, 64, 8)  # heads of pages
        content[places] = random.integers(0, 256, 8)
        path.write_bytes(content.tobytes())
        try:
            refused += any(row.problem for row in read_unimol(path))
        except SourceError:
            refused += 1
    assert 0 < refused < 100


def test_the_real_file_is_read_whole_with_its_flat_conformers_marked(shared_data: Path) -> None:
    found = list(read_unimol(shared_data / "uni-mol-lmdb" / "clintox_valid.lmdb"))
    assert len(found) == 148
    assert [row.id for row in found if row.problem] == []
    geometries = {row.id: row.geometry for row in found if row.geometry is not None}
    assert len(geometries) == 148
    assert {len(geometry.origins) for geometry in geometries.values()} == {11}
    assert all(geometry.origins[-1] == ConformerOrigin.FLAT for geometry in geometries.values())
    flat = {key: geometry.origins.count(ConformerOrigin.FLAT) for key, geometry in geometries.items()}
    assert {key: count for key, count in flat.items() if count > 1} == {"140": 11, "5": 11, "95": 11, "142": 4}
    assert max(len(geometry.symbols) for geometry in geometries.values()) == 276
    assert {len(row.labels) for row in found} == {2}


def placed(smiles: str) -> tuple[list[str], np.ndarray]:
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(molecule, randomSeed=1) == 0
    return [atom.GetSymbol() for atom in molecule.GetAtoms()], molecule.GetConformer().GetPositions()


def curated(tmp_path: Path, smiles: str, atoms: list[str], *conformers: np.ndarray) -> Curated | Rejected:
    tmp_path.mkdir(exist_ok=True)
    (row,) = rows(tmp_path, {"atoms": atoms, "coordinates": list(conformers), "smi": smiles})
    return curate_molecule(row, CurateConfig())


def test_fragments_that_lie_upon_each_other_are_told_apart(tmp_path: Path) -> None:
    atoms, positions = placed("CCO.CC(=O)O")
    shift = positions[3:7].mean(axis=0) - positions[:3].mean(axis=0)
    first = Chem.GetMolFrags(Chem.AddHs(Chem.MolFromSmiles("CCO.CC(=O)O")))[0]
    positions[list(first)] += shift
    found = curated(tmp_path, "CCO.CC(=O)O", atoms, positions)
    assert isinstance(found, Curated), found
    assert found.smiles == "CC(=O)O"


def test_one_stretched_conformer_among_others_is_no_other_molecule(tmp_path: Path) -> None:
    atoms, positions = placed("CCO")
    stretched = positions.copy()
    stretched[3] += 0.4 * (positions[3] - positions[0])
    found = curated(tmp_path, "CCO", atoms, stretched, positions)
    assert isinstance(found, Curated), found
    assert isinstance(curated(tmp_path, "CCO", atoms, positions[[1, 2, 0, *range(3, 9)]]), Rejected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_a_number_that_is_not_finite_costs_its_own_conformer_only(tmp_path: Path, bad: float) -> None:
    atoms, positions = placed("CCO")
    spoilt = positions.copy()
    spoilt[2, 1] = bad
    found = curated(tmp_path, "CCO", atoms, spoilt, positions, spoilt)
    assert isinstance(found, Curated), found
    assert found.conformers is not None
    assert np.isfinite(found.conformers).all()
    assert (len(found.conformers), found.left_out) == (1, 2)
    none = curated(tmp_path / "other", "CCO", atoms, spoilt)
    assert isinstance(none, Rejected)
    assert (none.reason, none.detail) == ("no_geometry", "a coordinate is not a finite number")


def test_every_molecule_of_the_real_file_is_matched_to_its_smiles(shared_data: Path) -> None:
    kept = {}
    for row in read_unimol(shared_data / "uni-mol-lmdb" / "clintox_valid.lmdb"):
        found = curate_molecule(row, CurateConfig())
        assert isinstance(found, Curated), (row.id, found)
        assert found.conformers is not None
        assert found.origins == (row.geometry.origins if row.geometry else None)
        kept[found.smiles] = found.conformers.shape
    assert len(kept) == 148
    assert {shape[0] for shape in kept.values()} == {11}
