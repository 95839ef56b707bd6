"""What is written into a store comes out of it, in any order, from any number of shards, in both formats."""

import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.store_samples import random_record, write_store
from unimol_scale.store.maintain import convert
from unimol_scale.store.manifest import Backend
from unimol_scale.store.schema import COORDINATE_SCALE, PLANAR_SCALE, ragged_indices
from unimol_scale.store.shards import open_store


@pytest.mark.parametrize("backend", ["arrow", "lmdb"])
@pytest.mark.parametrize("scale", [COORDINATE_SCALE, None])
@settings(max_examples=15)
@given(data=st.data())
def test_gather_returns_the_records_asked_for(backend: Backend, scale: float | None, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 15), label="molecules")
    labels = data.draw(st.sampled_from([{}, {"gap": "eV", "log S": ""}]), label="labels")
    records = [random_record(data.draw(st.integers(0, 10_000)), num_labels=len(labels)) for _ in range(count)]
    shard_rows = data.draw(st.integers(1, count), label="rows in a shard")
    with tempfile.TemporaryDirectory() as folder:
        store = write_store(
            Path(folder), records, backend=backend, shard_rows=shard_rows, coordinate_scale=scale, labels=labels
        )
        split = pickle.loads(pickle.dumps(store.split("train")))
        assert split.num_atoms.tolist() == [len(record.atomic_number) for record in records]
        assert split.num_conformers.tolist() == [len(record.coordinates) for record in records]
        picks = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=20), label="order")
        conformers = [data.draw(st.integers(0, len(records[pick].coordinates) - 1)) for pick in picks]
        columns = split.gather(np.array(picks), np.array(conformers))
        wanted = [records[pick] for pick in picks]
        assert split.ids(np.array(picks)) == [record.id for record in wanted]
        assert split.smiles(np.array(picks)) == [record.smiles for record in wanted]
        assert columns.num_atoms.tolist() == [len(record.atomic_number) for record in wanted]
        assert columns.num_bonds.tolist() == [len(record.bond_index) for record in wanted]
        for name in ("atomic_number", "atom_features", "bond_index", "bond_features"):
            np.testing.assert_array_equal(getattr(columns, name), np.concatenate([getattr(r, name) for r in wanted]))
        geometry = np.concatenate([r.coordinates[c] for r, c in zip(wanted, conformers, strict=True)])
        tolerance = 0 if scale is None else 0.51 * scale
        np.testing.assert_allclose(columns.coordinates, geometry, rtol=0, atol=tolerance)
        planar = np.concatenate([record.planar_coordinates for record in wanted])
        np.testing.assert_allclose(columns.planar_coordinates[:, :2], planar, rtol=0, atol=0.51 * PLANAR_SCALE)
        assert not columns.planar_coordinates[:, 2].any()
        origins = [r.conformer_origin[c] for r, c in zip(wanted, conformers, strict=True)]
        assert columns.conformer_origin.tolist() == origins
        assert columns.labels.tolist() == [list(record.labels) for record in wanted]
        for found, record in zip(split.records(np.array(picks)), wanted, strict=True):
            for name, value in vars(record).items():
                close = {"coordinates": tolerance, "planar_coordinates": 0.51 * PLANAR_SCALE}.get(name)
                if close is None:
                    np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)
                else:
                    np.testing.assert_allclose(getattr(found, name), value, rtol=0, atol=close, err_msg=name)


@settings(max_examples=10)
@given(numbers=st.lists(st.integers(0, 1000), min_size=1, max_size=9), shard_rows=st.integers(1, 9))
def test_converting_there_and_back_gives_the_same_bytes(numbers: list[int], shard_rows: int) -> None:
    records = [random_record(number) for number in numbers]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        first = write_store(root / "arrow", records, records[:2], shard_rows=shard_rows)
        other = convert(first, "lmdb", root / "lmdb")
        back = convert(other, "arrow", root / "back")
        assert back.manifest == first.manifest
        order = np.arange(len(records))[::-1]
        for name, column in vars(first.split("train").gather(order)).items():
            np.testing.assert_array_equal(column, getattr(other.split("train").gather(order), name))


@pytest.mark.parametrize("backend", ["arrow", "lmdb"])
def test_the_same_records_give_the_same_bytes(backend: Backend, tmp_path: Path) -> None:
    records = [random_record(number) for number in range(30)]
    first = write_store(tmp_path / "a", records, backend=backend, shard_rows=7)
    second = write_store(tmp_path / "b", records, backend=backend, shard_rows=7)
    assert first.manifest_sha256 == second.manifest_sha256
    assert open_store(tmp_path / "a").manifest == first.manifest


@given(runs=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 6)), max_size=8))
def test_ragged_indices_lay_runs_end_to_end(runs: list[tuple[int, int]]) -> None:
    starts, lengths = (np.array([run[side] for run in runs], np.int64) for side in (0, 1))
    expected = [start + step for start, length in runs for step in range(length)]
    assert ragged_indices(starts, lengths).tolist() == expected
