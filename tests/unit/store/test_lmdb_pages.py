"""The reader of LMDB's pages gives what the library gives, and says what is wrong with a damaged file."""

from pathlib import Path

import lmdb
import numpy as np
import pytest

from unimol_scale.errors import StoreError
from unimol_scale.store.lmdb_files.lmdb_pages import LmdbPages

MOST = 1 << 20


def read(path: Path) -> dict[bytes, bytes]:
    with LmdbPages(path) as pages:
        return {key: pages.value(place, MOST) for key, place in pages.places()}


def write(path: Path, count: int) -> dict[bytes, bytes]:
    """Write and delete by the library, in several transactions, and return what it has then."""
    random, environment = np.random.default_rng(count), lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 26)
    for start in range(0, count, 500):
        with environment.begin(write=True) as transaction:
            for at in range(start, min(start + 500, count)):
                transaction.put(f"{at * 7919 % count}".encode(), random.bytes(int(random.choice([0, 9, 500, 9_000]))))
            for at in range(0, start, 3):
                transaction.delete(f"{at}".encode())
    with environment.begin() as transaction:
        items = dict(transaction.cursor())
    environment.close()
    return items


@pytest.mark.parametrize("count", [0, 1, 50, 4_000])
def test_keys_and_values_are_those_of_the_library(tmp_path: Path, count: int) -> None:
    expected = write(tmp_path / "a.lmdb", count)
    found = read(tmp_path / "a.lmdb")
    assert found == expected
    assert list(found) == list(expected)


def test_a_file_that_is_cut_off_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.lmdb", 200)
    whole = (tmp_path / "a.lmdb").read_bytes()
    for text, message in [
        (whole[: len(whole) // 2], "cut off|beyond the end"),
        (whole[:20], "cut off"),
        (whole[:9_000], "cut off"),
        (bytes(20_000), "not an LMDB file"),
        (b"", "cut off"),
    ]:
        (tmp_path / "a.lmdb").write_bytes(text)
        with pytest.raises((StoreError, ValueError), match=message):
            read(tmp_path / "a.lmdb")


def test_damaged_pages_are_a_message_and_never_end_the_process(tmp_path: Path) -> None:
    write(tmp_path / "whole.lmdb", 300)
    data, random, refused = (tmp_path / "whole.lmdb").read_bytes(), np.random.default_rng(0), 0
    for _ in range(300):
        content = np.frombuffer(data, np.uint8).copy()
        places = random.integers(0, len(content) // 4096, 8) * 4096 + random.integers(0, 64, 8)  # heads of pages
        content[places] = random.integers(0, 256, 8)
        (tmp_path / "a.lmdb").write_bytes(content.tobytes())
        try:
            read(tmp_path / "a.lmdb")
        except (StoreError, ValueError):
            refused += 1
    assert 0 < refused < 300
