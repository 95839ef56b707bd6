"""Cross-validations of the same folds are compared in the right direction; others are refused, and it is said why."""

import dataclasses
import shutil

import matplotlib.image
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import unimol_scale as us
from tests.helpers.fold_folders import write_folds
from unimol_scale.cli.main import main
from unimol_scale.downstream.comparison.compare import compare_folds
from unimol_scale.downstream.finetuning import results
from unimol_scale.errors import ConfigError, SourceError

LABELS = np.random.default_rng(1).normal(size=90)
CLASSES = (LABELS > 0).astype(float)


def test_the_model_with_the_smaller_error_is_surely_better_and_a_tie_is_told(tmp_path):
    folders = [
        write_folds(tmp_path / name, LABELS, noise, chance=at, repeats=3)
        for at, (name, noise) in enumerate((("bad", 1.0), ("good", 0.3), ("alike", 0.3)))
    ]
    found = compare_folds(folders)
    assert set(found.ranking[:2]) == {1, 2}
    assert found.ranking[2] == 0
    for pair in found.pairs:
        assert pair.difference == pytest.approx(found.means[pair.better] - found.means[pair.worse])
        assert pair.difference <= 0.0, "a lower rmse is better"
        assert pair.interval.low < pair.difference < pair.interval.high
        assert pair.uncorrected.high - pair.uncorrected.low < pair.interval.high - pair.interval.low
        assert pair.rows.low < pair.difference < pair.rows.high
        assert pair.is_sure is (pair.worse == 0)
        assert (pair.folds_better == 9) is (pair.worse == 0)
    assert [pair.worse for pair in found.pairs].count(0) == 2
    first, second = (found.names[at] for at in found.ranking[:2])
    assert found.headline() == (
        f"{first} has the best mean, but is not significantly better than {second}; it is significantly better than bad"
    )
    two = compare_folds(folders[:2])
    assert two.headline() == "good is significantly better than bad (95 %)"
    assert str(two).count("\n| ") == 7


def test_of_classes_the_higher_score_is_better(tmp_path):
    folders = [
        write_folds(tmp_path / str(noise), CLASSES, noise, metric="roc_auc", seeds=2, chance=at)
        for at, noise in enumerate((3.0, 0.5))
    ]
    (pair,) = compare_folds(folders).pairs
    assert (pair.better, pair.worse, pair.folds_better) == (1, 0, 6)
    assert 0.0 < pair.interval.low < pair.difference
    assert 0.0 < pair.rows.low < pair.difference < pair.rows.high


def test_the_same_predictions_are_no_better(tmp_path):
    one = write_folds(tmp_path / "one", LABELS, 0.5)
    found = compare_folds([one, shutil.copytree(one, tmp_path / "two")])
    (pair,) = found.pairs
    assert (pair.difference, pair.p, pair.is_sure, pair.folds_better) == (0.0, 1.0, False, 0)
    assert (pair.rows.low, pair.rows.high) == (0.0, 0.0)
    assert "not significantly better" in found.headline()


def test_rows_of_one_molecule_are_no_independent_evidence(tmp_path):
    folders = {}
    for copies in (1, 10):
        labels = np.repeat(LABELS, copies)
        smiles = [f"mol{row}" for row in np.repeat(np.arange(90), copies).tolist()]
        made = []
        for at, noise in enumerate((0.5, 0.6)):
            folder = write_folds(tmp_path / f"{copies}-{at}", labels, noise, smiles=smiles)
            table = pq.read_table(folder / "out_of_fold.parquet").to_pydict()
            error = noise * np.random.default_rng(at).normal(size=90)  # the same of all rows of a molecule
            table["predicted y"] = [
                y + error[int(text[3:])] for y, text in zip(table["y"], table["smiles"], strict=True)
            ]
            pq.write_table(pa.table(table), folder / "out_of_fold.parquet")
            made.append(folder)
        folders[copies] = compare_folds(made).pairs[0].rows
    widths = {copies: rows.high - rows.low for copies, rows in folders.items()}
    assert widths[10] > 0.7 * widths[1]


def test_what_is_not_alike_is_refused(tmp_path):
    one = write_folds(tmp_path / "one", LABELS, 0.5)

    def refused(match, folder, error=ConfigError):
        with pytest.raises(error, match=match):
            compare_folds([one, folder])

    refused("one is given twice", one)
    refused(
        "tested in different folds; give both the same --split and --seed",
        write_folds(tmp_path / "d", LABELS, 1, dealt=1),
    )
    refused("labels differ", write_folds(tmp_path / "l", LABELS + 0.1, 1))
    refused("different metric, rmse and mae", write_folds(tmp_path / "m", LABELS, 1, metric="mae"))
    refused("3 folds × 2 repeats, the other 3 folds × 3 repeats", write_folds(tmp_path / "r", LABELS, 1, repeats=3))
    refused("3 rows are tested in only one of them, the first is row 88", write_folds(tmp_path / "s", LABELS[:87], 1))
    smiles = ["other", *(f"mol{row}" for row in range(1, 90))]
    refused(
        "1 rows have different molecules, the first is row 1", write_folds(tmp_path / "o", LABELS, 1, smiles=smiles)
    )
    refused("no finished fine-tuning", tmp_path)
    single = shutil.copytree(one, tmp_path / "single")
    outcome = results.read(one)
    results.write(single, dataclasses.replace(outcome, seeds=(dataclasses.replace(outcome.seeds[0], fold=None),)))
    refused("a single split, whose test set is too small", single)
    damaged = shutil.copytree(one, tmp_path / "damaged")
    (damaged / "out_of_fold.parquet").unlink()
    refused("out_of_fold.parquet, with the predictions of a cross-validation, cannot be read", damaged, SourceError)
    with pytest.raises(ConfigError, match="at least two fine-tunings"):
        compare_folds([one])


def test_the_command_prints_a_table_and_writes_a_report_with_a_picture(tmp_path, capsys):
    folders = [write_folds(tmp_path / name, LABELS, noise) for name, noise in (("bad", 1.0), ("good", 0.3))]
    assert main(["compare", *map(str, folders), "--output", str(tmp_path / "r" / "cmp.md")]) == 0
    printed = capsys.readouterr().out
    assert "good is significantly better than bad" in printed.splitlines()[0]
    report = (tmp_path / "r" / "cmp.md").read_text()
    assert report.startswith("# set: good is significantly better than bad (95 %)")
    assert "![](cmp.png)" in report
    assert "(1/6 + 0.333) times that of one fold" in report
    assert (matplotlib.image.imread(tmp_path / "r" / "cmp.png")[..., :3] < 0.5).any()
    for arguments, said in (
        ([str(folders[0])], "at least two fine-tunings"),
        ([*map(str, folders), "--output", "cmp.txt"], "must end in .md"),
    ):
        assert main(["compare", *arguments]) == 2
        assert said in capsys.readouterr().err


def test_in_python_folders_or_models_are_compared(tmp_path):
    folders = [write_folds(tmp_path / name, LABELS, noise) for name, noise in (("bad", 1.0), ("good", 0.3))]
    model = us.FinetunedModel(folder=folders[0], result=results.read(folders[0]))
    found = us.compare(model, folders[1], output=tmp_path / "cmp.md")
    assert found == compare_folds(folders)
    assert (tmp_path / "cmp.png").is_file()
    with pytest.raises(ConfigError, match=r"output cmp\.txt: the name must end in \.md"):
        us.compare(*folders, output="cmp.txt")
