"""Split files: every row gets the part that the file gives to its id, and nothing in the file is run."""

import gzip
import os
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from unimol_scale.downstream.data.split_files import read_split_file
from unimol_scale.errors import SourceError

IDS = ("m3", "m1", "m2", "m9")


def read(path, ids=IDS, column=None, *, counts_rows=True):
    return read_split_file(path, ids, len(ids or ()) or 4, column, counts_rows=counts_rows)


def write(path, text):
    path.write_text(text)
    return path


def test_a_table_gives_each_id_its_part(tmp_path):
    text = "id,split\nm1,train\nm2,test\nm3,valid\nm4,test\n"
    assert read(write(tmp_path / "a.csv", text)) == ("valid", "train", "test", "")
    assert read(write(tmp_path / "a.tsv", text.replace(",", "\t"))) == ("valid", "train", "test", "")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    assert read(tmp_path / "a.csv.gz") == ("valid", "train", "test", "")
    table = pa.table({"idx": [1, 2, 3], "part": ["train", None, "val"], "split": ["x", "y", "z"]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", ids=("3", "2", "1"), column="part") == ("val", "", "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,part\nm1,train\n", "no column 'split'"),
        ("smiles,split\nC,train\n", "has no column of ids .* but smiles, split"),
        ("id,split\nm1,train\nm1,test\n", "the id 'm1' is 'train' in one row and 'test' in another"),
        ("id,split\nm1,train,3\n", "line 2 has 3 fields, the header has 2"),
        ("", "has no column of ids"),
    ],
)
def test_a_table_that_can_not_be_followed_is_refused(tmp_path, text, message):
    with pytest.raises(SourceError, match=message):
        read(write(tmp_path / "a.csv", text))


def test_other_files_and_data_without_ids_are_refused(tmp_path):
    with pytest.raises(SourceError, match=r"must end in \.csv, \.tsv, \.parquet, \.pt"):
        read(write(tmp_path / "a.json", "{}"))
    with pytest.raises(SourceError, match="the data has no column of ids"):
        read(write(tmp_path / "a.csv", "id,split\nm1,train\n"), ids=None)


def official(folder):
    """Return a file as PCQM4Mv2's split_dict.pt is: a dict of NumPy arrays, saved by torch."""
    parts = {"train": np.array([0, 5]), "valid": np.array([7]), "test-dev": np.array([2]), "test-challenge": np.array([3])}
    torch.save(parts, folder / "split_dict.pt")
    return folder / "split_dict.pt"


@pytest.mark.parametrize("old_format", [False, True])
def test_indices_of_torch_and_numpy_are_those_of_the_ids(tmp_path, old_format):
    expected = ("valid", "train", "test-dev", "", "")
    ids = ("7", "5", "2", "1", "900")
    assert read(official(tmp_path), ids=ids) == expected
    arrays = {"train": np.array([0, 5], np.int32), "valid": np.array([7]), "test-dev": np.array([2])}
    np.savez(tmp_path / "a.npz", **arrays)
    assert read(tmp_path / "a.npz", ids=ids) == expected
    tensors = {part: torch.from_numpy(array) for part, array in arrays.items()}
    torch.save(tensors, tmp_path / "t.pt", _use_new_zipfile_serialization=not old_format)
    assert read(tmp_path / "t.pt", ids=ids) == expected


def test_a_file_that_was_saved_with_numpy_1_is_read(tmp_path):
    with zipfile.ZipFile(official(tmp_path)) as new, zipfile.ZipFile(tmp_path / "old.pt", "w") as old:
        for name in new.namelist():
            old.writestr(name, new.read(name).replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert b"cnumpy.core.multiarray\n_reconstruct" in (tmp_path / "old.pt").read_bytes()
    assert read(tmp_path / "old.pt", ids=("7", "5", "2")) == ("valid", "train", "test-dev")


def test_indices_of_a_table_without_numbers_as_ids_count_its_rows_from_0(tmp_path):
    np.savez(tmp_path / "a.npz", train=[0, 3], test=[1])
    assert read(tmp_path / "a.npz", ids=None) == ("train", "test", "", "train")
    assert read(tmp_path / "a.npz", ids=IDS) == ("train", "test", "", "train")
    with pytest.raises(SourceError, match="such as 'm3', are not whole numbers"):
        read(tmp_path / "a.npz", ids=IDS, counts_rows=False)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"train": [0, 1], "test": [1]}, "an index of 'test' occurs twice"),
        ({"train": [0, 0]}, "an index of 'train' occurs twice"),
        ({"train": [-1]}, "'train' must be a list of indices from 0"),
        ({"train": [0.5]}, "'train' must be a list of indices from 0, got float64"),
    ],
)
def test_arrays_that_are_no_split_are_refused(tmp_path, parts, message):
    np.savez(tmp_path / "a.npz", **parts)
    with pytest.raises(SourceError, match=message):
        read(tmp_path / "a.npz", ids=None)


class Hostile:
    """What runs a command where a pickle is loaded without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_file_that_would_run_something_is_refused_and_runs_nothing(tmp_path):
    torch.save({"train": Hostile(tmp_path / "ran")}, tmp_path / "a.pt")
    np.savez(tmp_path / "a.npz", train=np.array([Hostile(tmp_path / "ran")]))
    for name in ("a.pt", "a.npz"):
        with pytest.raises(SourceError, match="cannot be loaded: it is damaged, or holds something other than arrays"):
            read(tmp_path / name)
    assert not (tmp_path / "ran").exists()
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(SourceError, match="must hold arrays of indices by part, not list"):
        read(tmp_path / "list.pt")
