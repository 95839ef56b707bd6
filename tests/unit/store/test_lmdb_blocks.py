"""LMDB keeps blocks of molecules: rows on both sides of a block's edge come out right, and a small file results."""

import contextlib
from pathlib import Path

import lmdb
import numpy as np
import pytest

from tests.helpers.store_samples import random_record, write_store
from unimol_scale.errors import StoreError
from unimol_scale.store.lmdb_backend import BLOCK_ROWS, LmdbShard
from unimol_scale.store.maintain import convert, verify
from unimol_scale.store.shards import Store, open_store

COUNT = 2 * BLOCK_ROWS + 5
RECORDS = [random_record(number, max_atoms=40) for number in range(COUNT)]


@pytest.fixture
def arrow(tmp_path: Path) -> Store:
    return write_store(tmp_path / "arrow", RECORDS, shard_rows=COUNT)


@pytest.mark.parametrize(
    "rows",
    [
        [0],
        [COUNT - 1],
        [BLOCK_ROWS - 1, BLOCK_ROWS],
        [BLOCK_ROWS, BLOCK_ROWS - 1, BLOCK_ROWS],
        [COUNT - 1, 0, COUNT - 1, BLOCK_ROWS + 3],
        list(range(COUNT)),
        list(range(COUNT))[::-1],
    ],
)
def test_any_list_of_rows_reads_as_from_arrow(arrow: Store, tmp_path: Path, rows: list[int]) -> None:
    blocks = convert(arrow, "lmdb", tmp_path / "lmdb")
    expected, found = (store.split("train").gather(np.array(rows)) for store in (arrow, blocks))
    for name, column in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), column)
    assert blocks.split("train").ids(np.array(rows)) == [RECORDS[row].id for row in rows]
    assert blocks.split("train").column("key").to_pylist() == list(range(COUNT))


def test_converting_back_gives_the_first_bytes_again(arrow: Store, tmp_path: Path) -> None:
    back = convert(convert(arrow, "lmdb", tmp_path / "lmdb"), "arrow", tmp_path / "back")
    assert back.manifest == arrow.manifest


def test_a_store_built_anew_under_an_old_name_is_read_from_its_new_file(tmp_path: Path) -> None:
    old = write_store(tmp_path / "old", RECORDS[:5], backend="lmdb")
    new = write_store(tmp_path / "new", RECORDS[5:10], backend="lmdb")
    rows = np.arange(5)
    reading = old.split("train")
    reading.gather(rows)  # its file stays open
    (new.path / "train").rename(tmp_path / "train")
    (old.path / "train").rename(tmp_path / "moved")
    (tmp_path / "train").rename(old.path / "train")
    (old.path / "manifest.json").write_bytes((new.path / "manifest.json").read_bytes())
    assert open_store(old.path).split("train").ids(rows) == [record.id for record in RECORDS[5:10]]
    assert reading.ids(rows) == [record.id for record in RECORDS[:5]]


def test_a_shard_can_be_closed_twice(tmp_path: Path) -> None:
    store = write_store(tmp_path / "lmdb", RECORDS[:5], backend="lmdb")
    shard = LmdbShard(next((store.path / "train").iterdir()), store.manifest.layout)
    shard.close()
    shard.close()


def test_a_molecule_in_lmdb_costs_little_more_than_in_arrow(tmp_path: Path) -> None:
    records = RECORDS * 8
    sizes = {}
    for backend in ("arrow", "lmdb"):
        store = write_store(tmp_path / backend, records, backend=backend, shard_rows=len(records))
        sizes[backend] = store.manifest.splits["train"].shards[0].bytes
    assert sizes["lmdb"] < 1.15 * sizes["arrow"]


def test_a_bit_flipped_in_any_block_is_found(arrow: Store, tmp_path: Path) -> None:
    store = convert(arrow, "lmdb", tmp_path / "lmdb")
    file = store.path / store.manifest.splits["train"].shards[0].file
    content = file.read_bytes()
    for place in np.linspace(0, len(content) - 1, 7).astype(int).tolist():
        file.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        assert [damage.split(":")[0] for damage in verify(store).damages] == ["train/shard-00000.lmdb"]
    file.write_bytes(content)
    assert not verify(store).damages


def test_a_shard_without_one_of_its_blocks_says_which(arrow: Store, tmp_path: Path) -> None:
    store = convert(arrow, "lmdb", tmp_path / "lmdb")
    file = store.path / store.manifest.splits["train"].shards[0].file
    environment = lmdb.open(str(file), subdir=False, lock=False)
    with contextlib.closing(environment), environment.begin(write=True) as transaction:
        assert transaction.delete(BLOCK_ROWS.to_bytes(8, "big"))
    with contextlib.closing(LmdbShard(file, store.manifest.layout)) as shard:
        assert shard.views(np.array([BLOCK_ROWS - 1]))[1].tolist() == [BLOCK_ROWS - 1]
        with pytest.raises(StoreError, match=r"shard-00000\.lmdb has no key b"):
            shard.views(np.array([BLOCK_ROWS]))
