"""Benchmarks of TDC and Polaris become tables whose split column is the official one, and which finetune reads."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unimol_scale.cli.main import main
from unimol_scale.downstream.data.benchmarks.benchmark_table import read_benchmark
from unimol_scale.downstream.data.labelled_tables import read_table
from unimol_scale.errors import SourceError

SMILES = ["CCO", "CCN", "c1ccccc1", "CC(C)O", "CCCC", "CCS"]


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def tdc(tmp_path):
    folder = tmp_path / "admet_group" / "caco2_wang"
    folder.mkdir(parents=True)
    for name, rows in (("train_val", range(4)), ("test", range(4, 6))):
        lines = ["Drug_ID,Drug,Y", *(f"d{at},{SMILES[at]},{at}.5" for at in rows)]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return folder


def write_polaris(folder, split, camel=False, table="table.parquet", **more):
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"mol": SMILES, "a": list(range(6)), "b": [None, *range(5)], "note": ["x"] * 6}), folder / "table.parquet")
    (folder / "dataset.json").write_text(json.dumps({"name": "d", "table": table}))
    keys = ("inputCols", "targetCols") if camel else ("input_cols", "target_cols")
    tree = {"dataset": "/elsewhere/dataset.json", keys[0]: ["mol"], keys[1]: ["a", "b"], "split": split, **more}
    (folder / "benchmark.json").write_text(json.dumps(tree))
    return folder


def test_a_benchmark_of_tdc_has_its_split_and_its_name(tdc, tmp_path, capsys):
    assert main(["benchmark", str(tdc), "--output", str(tmp_path / "caco.csv")]) == 0
    said = capsys.readouterr().out
    assert "TDC benchmark, 4 training rows and 2 test rows, 1 target" in said
    assert "--target caco2_wang --split column --split-column split valid_rows=1" in said
    rows = rows_of(tmp_path / "caco.csv")
    assert [row["split"] for row in rows] == ["train"] * 4 + ["test"] * 2
    assert [(row["Drug_ID"], row["smiles"], float(row["caco2_wang"])) for row in rows][4] == ("d4", "CCCC", 4.5)
    table = read_table(tmp_path / "caco.csv", smiles_column=None, targets=("caco2_wang",), split_column="split")
    assert table.splits == ("train",) * 4 + ("test",) * 2
    (tdc / "test.csv").write_text("Drug1_ID,Drug1,Y\na,CC,1\n")
    with pytest.raises(SourceError, match="no column 'Drug'"):
        read_benchmark(tdc)


@pytest.mark.parametrize("camel", [False, True])
def test_a_benchmark_of_polaris_is_found_beside_its_file(tmp_path, camel):
    folder = write_polaris(tmp_path / "p", [[0, 2, 3], [5, 1]], camel)
    for path in (folder, folder / "benchmark.json"):
        found = read_benchmark(path)
        assert (found.kind, found.smiles, found.targets) == ("Polaris", "mol", ("a", "b"))
        assert found.columns["split"].to_pylist() == ["train", "test", "train", "train", "unused", "test"]
        assert found.columns["b"].to_pylist()[0] is None
        assert found.columns.column_names == ["mol", "a", "b", "split"]


def test_a_folder_of_polaris_that_was_moved_is_read(tmp_path):
    """Polaris 0.13 names the dataset's file after the dataset, with the path where it was written."""
    folder = write_polaris(tmp_path / "p", [[0, 2, 3], [5, 1]], dataset="/elsewhere/solubility.json")
    (folder / "dataset.json").rename(folder / "solubility.json")
    assert read_benchmark(folder).columns["split"].to_pylist().count("test") == 2


def test_several_test_sets_of_polaris_keep_their_names(tmp_path):
    found = read_benchmark(write_polaris(tmp_path / "p", [[0, 1, 2], {"near": [3], "far": [4, 5]}]))
    assert found.columns["split"].to_pylist() == ["train"] * 3 + ["test"] * 3
    assert found.columns["test_set"].to_pylist() == [None, None, None, "near", "far", "far"]


def test_what_is_no_benchmark_or_cannot_be_used_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"is not a benchmark: a TDC benchmark is a folder with train_val\.csv"):
        read_benchmark(tmp_path)
    with pytest.raises(SourceError, match="names rows that the table of 6 rows does not have"):
        read_benchmark(write_polaris(tmp_path / "a", [[0, 9], [1]]))
    with pytest.raises(SourceError, match="its split is not a pair"):
        read_benchmark(write_polaris(tmp_path / "b", {"training": "binary"}))
    with pytest.raises(SourceError, match="one column of SMILES"):
        read_benchmark(write_polaris(tmp_path / "c", [[0], [1]], input_cols=["mol", "note"]))
    folder = write_polaris(tmp_path / "d", [[0], [1]])
    (folder / "table.parquet").unlink()
    with pytest.raises(SourceError, match=r"there is no table\.parquet next to the file"):
        read_benchmark(folder)
