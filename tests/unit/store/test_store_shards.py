"""Opening, reading and committing: what a user meets when a store is not what it should be."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.helpers.store_samples import random_record, write_store
from unimol_scale.common.files import commit_file
from unimol_scale.errors import StoreError
from unimol_scale.store.arrow_backend import ColumnViews
from unimol_scale.store.manifest import MANIFEST_NAME, Backend, Counts
from unimol_scale.store.schema import ATOM_VOCABULARIES, BOND_VOCABULARIES, Layout, encode
from unimol_scale.store.shards import open_store

RECORDS = [random_record(number) for number in range(10)]


def test_a_missing_store_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"unimol-scale build --source sample"):
        open_store(tmp_path / "nowhere")


def test_an_unfinished_store_is_refused(tmp_path: Path) -> None:
    write_store(tmp_path, RECORDS)
    (tmp_path / MANIFEST_NAME).unlink()
    with pytest.raises(StoreError, match="unfinished"):
        open_store(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "schema_version 99 is newer than 3"),
        (
            {"surprise": 1},
            "unknown key 'surprise', so a newer version .*; update unimol-scale to read it$",
        ),
        ({"counts": {"read": 3, "stored": 1, "duplicates": 1, "failed": 0}}, "do not add up"),
    ],
)
def test_a_manifest_that_can_not_be_right_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    write_store(tmp_path, RECORDS)
    manifest = tmp_path / MANIFEST_NAME
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | change))
    with pytest.raises(StoreError, match=message):
        open_store(tmp_path)


def test_a_truncated_manifest_is_refused(tmp_path: Path) -> None:
    write_store(tmp_path, RECORDS)
    manifest = tmp_path / MANIFEST_NAME
    manifest.write_text(manifest.read_text()[:100])
    with pytest.raises(StoreError, match="damaged"):
        open_store(tmp_path)


@pytest.mark.parametrize("backend", ["arrow", "lmdb"])
def test_a_truncated_or_missing_shard_is_named_when_read(tmp_path: Path, backend: Backend) -> None:
    store = write_store(tmp_path, RECORDS, backend=backend)
    shard = tmp_path / store.manifest.splits["train"].shards[1].file
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(StoreError, match=rf"shard-00001\.{backend} has \d+ bytes instead of"):
        store.split("train").gather(np.arange(10))
    shard.unlink()
    with pytest.raises(StoreError, match=rf"shard-00001\.{backend} is missing"):
        store.split("train").gather(np.arange(10))


def test_an_unknown_split_gets_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="did you mean 'valid'"):
        write_store(tmp_path, RECORDS).split("validation")


@pytest.mark.parametrize("index", [-1, 10])
def test_a_molecule_that_does_not_exist_is_an_error(tmp_path: Path, index: int) -> None:
    with pytest.raises(IndexError, match="molecule indices"):
        write_store(tmp_path, RECORDS).split("train").gather(np.array([0, index]))


def test_a_conformer_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    split = write_store(tmp_path, RECORDS).split("train")
    conformers = split.num_conformers.astype(np.int64)
    with pytest.raises(IndexError, match="molecule 0 has"):
        split.gather(np.arange(10), np.where(np.arange(10) == 0, conformers, 0))


def test_an_empty_split_has_length_zero(tmp_path: Path) -> None:
    split = write_store(tmp_path, RECORDS).split("valid")
    assert len(split) == 0
    assert split.num_atoms.tolist() == []


def test_coordinates_that_do_not_fit_in_16_bits_are_an_error() -> None:
    far = dataclasses.replace(RECORDS[0], coordinates=RECORDS[0].coordinates + 40)
    with pytest.raises(StoreError, match="'molecule-0' has coordinates beyond ±32"):
        encode([far], Layout(0.001))
    missing = dataclasses.replace(RECORDS[0], coordinates=RECORDS[0].coordinates * np.nan)
    with pytest.raises(StoreError, match="not finite"):
        encode([missing], Layout(None))


def test_a_record_whose_columns_disagree_is_a_programming_error() -> None:
    with pytest.raises(AssertionError, match="atom_features"):
        dataclasses.replace(RECORDS[0], atom_features=RECORDS[0].atom_features[:, :7])


@pytest.mark.parametrize(
    ("column", "packed"), [("atom_features", 5), ("atom_features", 1 << 23), ("bond_features", 128)]
)
def test_a_code_that_no_vocabulary_has_is_damage(column: str, packed: int) -> None:
    batch = encode([random_record(3)], Layout())
    ColumnViews.of(batch).check()
    at = batch.schema.get_field_index(column)
    wrong = batch[column].to_pylist()
    wrong[0][0] = packed
    with pytest.raises(StoreError, match=f"{column} has a code outside"):
        ColumnViews.of(batch.set_column(at, batch.schema.field(at), pa.array(wrong, batch[column].type))).check()


def test_a_write_that_fails_leaves_nothing_and_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        commit_file(target, fail)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert target.read_text() == "old"


def test_counts_must_add_up() -> None:
    with pytest.raises(Exception, match="do not add up"):
        Counts(read=3, stored=1, duplicates=1, failed=0)


def test_vocabularies_have_the_lengths_the_released_weights_expect() -> None:
    assert [len(words) for words in ATOM_VOCABULARIES.values()] == [5, 12, 12, 10, 6, 6, 2, 2]
    assert [len(words) for words in BOND_VOCABULARIES.values()] == [5, 6, 2]
