"""What the report shows of molecules: the worst predictions with their nearest neighbours, and activity cliffs."""

import base64
import re
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.helpers.tiny_finetuning import AROMATIC, CARBON, MOLECULES, fitting, write_table
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.downstream.finetuning.reporting.activity_cliffs import find_cliffs
from unimol_scale.downstream.finetuning.reporting.learning_curve import CURVE_FOLDER


def section(text, title):
    """Return the lines of the table of a section, without its header."""
    lines = text.split(f"\n## {title}\n")[1].split("\n## ")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")][2:]


def test_the_worst_test_rows_come_first_with_the_nearest_training_molecule(finished):
    config, done = finished
    folder = config.output
    rows = section((folder / "report.md").read_text(), "Worst predictions")
    tables = [pq.read_table(folder / f"predictions-seed-{seed.seed}.parquet") for seed in done.seeds]
    first = tables[0].to_pydict()
    predicted = np.mean([table["predicted size"].to_numpy(zero_copy_only=False) for table in tables], axis=0)
    errors = {at + 1: abs(predicted[at] - first["size"][at]) for at in range(33) if first["split"][at] == "test"}
    assert [int(row[1]) for row in rows] == sorted(errors, key=lambda row: -errors[row])
    train = {first["smiles"][at]: first["size"][at] for at in range(33) if first["split"][at] == "train"}
    for molecule, number, measured, _, near, label, similarity, domain in rows:
        at = int(number) - 1
        assert f"`{first['smiles'][at]}`" in molecule
        assert measured == f"{first['size'][at]:.4g} atoms"
        nearest = near.split("`")[1]
        assert label == f"{train[nearest]:.4g} atoms" or nearest == "CCO"  # which two rows have
        assert 0.0 <= float(similarity) <= 1.0
        assert domain in ("yes", "no")
        assert (folder / re.search(r"\((molecules/[\w-]+\.svg)\)", molecule)[1]).is_file()


def test_the_page_holds_the_report_and_its_pictures(finished):
    folder = finished[0].output
    page = (folder / "report.html").read_text()
    assert "Worst predictions" in page
    pictures = (folder / "report.md").read_text().count("![](")
    assert page.count('src="data:image/') == page.count("<img") == pictures
    assert base64.b64encode((folder / "parity.png").read_bytes()).decode() in page
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_similar_molecules_with_different_labels_are_cliffs_and_long_chains_are_not():
    smiles = ["Oc1ccc(CCNC)cc1F", "Oc1ccc(CCNC)cc1Cl", "C" * 8, "C" * 20, "c1ccncc1"]
    labels_NL = np.array([[9.0], [5.0], [0.0], [12.0], [7.0]])
    found = find_cliffs(smiles, labels_NL, np.array([2.0]))
    assert found.pairs == 0 or found.shown[0].similarity >= 0.7
    close = ["CC(=O)Nc1ccc(OCCCCCC)cc1", "CC(=O)Nc1ccc(OCCCCC)cc1", *smiles]
    found = find_cliffs(close, np.concatenate([[[3.0], [9.0]], labels_NL]), np.array([2.0]))
    (cliff,) = [one for one in found.shown if {one.first, one.second} == {0, 1}]
    assert (cliff.first, cliff.second, cliff.difference) == (1, 0, 3.0)
    assert not [one for one in found.shown if {one.first, one.second} & {4, 5}]
    mirror = ["C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O"]
    assert find_cliffs(mirror, np.array([[1.0], [np.nan]]), np.ones(1)).pairs == 0


def test_cliffs_of_the_data_are_in_the_report(place, settings):
    labels = np.where(np.array(MOLECULES) == "CCCCCC", 90.0, CARBON)
    data = write_table(place / "cliff.csv", value=labels)
    done = finetune(settings(data=data, targets=("value",), seeds=1, train=fitting(epochs=1)))
    folder = settings().output
    (row,) = section((folder / "report.md").read_text(), "Activity cliffs")
    assert {row[1].split("`")[1], row[3].split("`")[1]} == {"CCCCCC", "CCCCCCCC"}
    assert row[2].startswith("90")
    assert done.task == "regression"


def test_classes_are_shown_by_name_with_the_probability_of_the_true_one(place, settings):
    data = write_table(place / "named.csv", ring=np.where(AROMATIC > 0, "flat", "other"))
    finetune(settings(data=data, targets=("ring",), seeds=1, metric="accuracy", train=fitting(epochs=1)))
    for row in section((settings().output / "report.md").read_text(), "Worst predictions"):
        assert row[2] in ("flat", "other")
        assert re.fullmatch(rf"((flat|other): \d+%; )?{row[2]}: \d+%", row[3])
        assert row[3].count(row[2]) == 1  # not "other: 65%; other: 65%"


def test_a_learning_curve_is_measured_on_the_same_test_rows_and_can_be_asked_for_later(finished, tmp_path):
    config, done = finished
    folder = tmp_path / "later"
    shutil.copytree(config.output, folder)
    asked = replace(config, output=folder, learning_curve=True)
    finetune(asked)
    rows = section((folder / "report.md").read_text(), "Learning curve")
    assert [row[0] for row in rows] == ["0.125", "0.25", "0.5", "1"]
    used = [int(row[1]) for row in rows]
    assert used == sorted(used)
    assert used[-1] == done.split_sizes["train"]
    assert rows[-1][2].startswith(f"{done.mean:.4g}")
    half = pq.read_table(folder / CURVE_FOLDER / "labels-0.5" / "predictions-seed-0.parquet")["split"].to_pylist()
    whole = pq.read_table(folder / "predictions-seed-0.parquet")["split"].to_pylist()
    assert [at for at, part in enumerate(half) if part == "test"] == [
        at for at, part in enumerate(whole) if part == "test"
    ]
    before = (folder / "learning-curve.csv").stat().st_mtime_ns
    finetune(asked)
    assert (folder / "learning-curve.csv").stat().st_mtime_ns == before
    assert "learning-curve.png" in (folder / "report.md").read_text()


@pytest.mark.parametrize("split", ["random-kfold"])
def test_a_cross_validation_has_its_worst_rows_too(settings, split):
    finetune(settings(split=split, folds=2, seeds=1, train=fitting(epochs=1)))
    rows = section((settings().output / "report.md").read_text(), "Worst predictions")
    assert len(rows) == 8
    assert all(row[0] != row[4] for row in rows), "a row is not its own neighbour"
