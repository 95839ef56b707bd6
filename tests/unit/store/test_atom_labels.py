"""Labels of atoms, such as forces: kept beside coordinates, by both backends; stores without have the old format."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.store_samples import chain_record, write_store
from unimol_scale.errors import StoreError
from unimol_scale.store.maintain import convert, verify
from unimol_scale.store.manifest import MANIFEST_NAME, Backend
from unimol_scale.store.schema import ATOM_LABELS, MoleculeRecord
from unimol_scale.store.shards import Store, open_store

NAMES = tuple(ATOM_LABELS)


def labelled(number: int) -> MoleculeRecord:
    record = chain_record(number)
    k, n, _ = record.coordinates.shape
    random = np.random.default_rng(number)
    values = {name: random.normal(size=(k, n, ATOM_LABELS[name].width)).astype(np.float32) for name in NAMES}
    return dataclasses.replace(record, atom_labels=values)


RECORDS = [labelled(number) for number in range(9)]


def check(store: Store) -> None:
    found = store.split("train").records(np.arange(len(RECORDS)))
    for record, read in zip(RECORDS, found, strict=True):
        for name in NAMES:
            np.testing.assert_array_equal(read.atom_labels[name], record.atom_labels[name])


@pytest.mark.parametrize("backend", ["arrow", "lmdb"])
def test_labels_of_atoms_come_back_and_convert(tmp_path: Path, backend: Backend) -> None:
    store = write_store(tmp_path / "store", RECORDS, backend=backend, atom_labels=NAMES)
    check(store)
    assert store.manifest.schema_version == 3
    assert not verify(store).damages
    other = convert(store, "lmdb" if backend == "arrow" else "arrow", tmp_path / "other")
    check(other)
    assert not verify(other).damages
    # What is read for training is as without.
    assert store.split("train").gather(np.arange(3)).num_atoms.tolist() == [len(r.atomic_number) for r in RECORDS[:3]]


def test_a_store_without_has_the_format_of_before(tmp_path: Path) -> None:
    write_store(tmp_path, [chain_record(0)])
    tree = json.loads((tmp_path / MANIFEST_NAME).read_text())
    assert tree["schema_version"] == 2
    assert "atom_labels" not in tree


def test_what_a_source_lacks_is_not_a_number(tmp_path: Path) -> None:
    store = write_store(tmp_path, [RECORDS[0], chain_record(1)], atom_labels=NAMES)
    first, second = store.split("train").records(np.arange(2))
    assert np.isfinite(first.atom_labels["forces"]).all()
    assert second.atom_labels["forces"].shape == second.coordinates.shape
    assert np.isnan(second.atom_labels["forces"]).all()


def test_a_version_that_does_not_fit_is_damage(tmp_path: Path) -> None:
    write_store(tmp_path, RECORDS, atom_labels=NAMES)
    file = tmp_path / MANIFEST_NAME
    file.write_text(file.read_text().replace('"schema_version": 3', '"schema_version": 2'))
    with pytest.raises(StoreError, match="schema_version is 2, but the contents of this store need 3"):
        open_store(tmp_path)
