"""Other tools get the folds as CSV, and what they predict is read as a cross-validation of the same rows."""

import csv

import numpy as np
import pytest

from benchmarks.downstream import chemprop_folds
from benchmarks.downstream.folds.other_tools import read_external, write_folds
from unimol_scale.downstream.comparison.fold_results import check_alike
from unimol_scale.errors import ConfigError


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def perfect(calls):
    """Return what "trains" by looking the labels up, and notes the tables that it was given."""

    def fit(table, output, targets, task, seed):
        lines = read(table)
        calls.append((lines, task, seed))
        output.mkdir()
        path = output / "predictions.csv"
        test = [line for line in lines if line["part"] == "test"]
        text = [",".join([line["smiles"], *(line[name] or "0.25" for name in targets)]) for line in test]
        path.write_text("\n".join([",".join(["smiles", *targets]), *text]) + "\n")
        return path

    return fit


def test_a_tool_gets_the_rows_of_each_fold_and_its_predictions_come_back(set_rows, labels_of, tmp_path):
    data = set_rows("classes").at(0.5)
    path = write_folds(tmp_path / "folds", data)
    assert path.name == "set-0.5.csv"
    calls = []
    chemprop_folds.cross_validate(path, tmp_path / "out", perfect(calls))
    assert [(task, seed) for _, task, seed in calls] == [("classification", at) for at in range(6)]
    smiles = data.rows.molecules.smiles
    for (lines, *_), (_, split) in zip(calls, data.folds, strict=True):
        for part, word in (("train", "train"), ("valid", "val"), ("test", "test")):
            expected = [smiles[row] for row in getattr(split, part)]
            assert [line["smiles"] for line in lines if line["part"] == word] == expected
    found = read_external("tool", tmp_path / "out", data)
    assert found.scores_J.tolist() == [1.0] * 6
    check_alike((found, data.result("own", tmp_path, labels_of(data), start="x")))
    assert read_external("tool", tmp_path / "nowhere", data) is None


def test_finished_folds_are_kept(set_rows, tmp_path):
    path = write_folds(tmp_path / "folds", set_rows().at(1.0))
    calls = []
    first = chemprop_folds.cross_validate(path, tmp_path / "out", perfect(calls)).read_text()
    (tmp_path / "out" / "set-1" / "repeat-2-fold-1.csv").unlink()
    assert chemprop_folds.cross_validate(path, tmp_path / "out", perfect(calls)).read_text() == first
    assert [seed for *_, seed in calls] == [0, 1, 2, 3, 4, 5, 3]
    assert calls[0][1] == "regression"


def test_predictions_of_other_molecules_are_refused(set_rows, tmp_path):
    path = write_folds(tmp_path / "folds", set_rows().at(1.0))

    def mixed(*given):
        found = perfect([])(*given)
        head, *lines = found.read_text().splitlines()
        found.write_text("\n".join([head, *reversed(lines)]) + "\n")
        return found

    with pytest.raises(SystemExit, match="repeat 1 fold 1: the predictions are of other molecules"):
        chemprop_folds.cross_validate(path, tmp_path / "out", mixed)


def test_what_lacks_or_does_not_belong_is_named(set_rows, tmp_path):
    data = set_rows().at(1.0)
    path = write_folds(tmp_path / "folds", data)
    done = chemprop_folds.cross_validate(path, tmp_path / "out", perfect([]))
    whole = done.read_text()
    lines = whole.splitlines()
    done.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(ConfigError, match="tool, set, repeat 2, fold 3: 1 labels of test rows have no prediction"):
        read_external("tool", tmp_path / "out", data)
    trained = int(data.folds[0][1].train[0]) + 1
    done.write_text(f"{whole}{trained},1,1,0.5\n")
    with pytest.raises(ConfigError, match=rf"line 62: row {trained} is not a test row of repeat 1, fold 1"):
        read_external("tool", tmp_path / "out", data)
    done.write_text(whole.replace("row,repeat", "rows,repeat", 1))
    with pytest.raises(ConfigError, match="lacks the columns row"):
        read_external("tool", tmp_path / "out", data)
    done.write_text(f"{lines[0]}\n1,1,1,much\n")
    with pytest.raises(ConfigError, match="line 2: could not convert"):
        read_external("tool", tmp_path / "out", data)


def test_labels_are_written_to_the_last_bit(set_rows, tmp_path):
    data = set_rows("classes").at(1.0)
    data.rows.labels_ML[0] = [0.1 + 0.2, np.nan]
    first = read(write_folds(tmp_path, data))[0]
    assert float(first["y"]) == 0.1 + 0.2
    assert first["z"] == ""
