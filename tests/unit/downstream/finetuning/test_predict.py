"""Predictions of a file: of every row its own, and of a row that cannot be used none."""

import csv
import json
import logging
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rdkit import Chem

from tests.helpers.tiny_finetuning import AROMATIC, CARBON, MOLECULES, TINY, fitting
from unimol_scale.checkpoints.weights import load_pretrained, save_pretrained
from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.finetuning import predict as predict_module
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.downstream.finetuning.model.saved_model import load_member, read_config, save_member
from unimol_scale.downstream.finetuning.predict import predict_file
from unimol_scale.errors import CheckpointError, ConfigError, RunError, SourceError
from unimol_scale.model.accounting import DENOISE_HEADS
from unimol_scale.model.model_with_heads import HeadedModel

SEEDS = 3
TARGETS = ("size", "other")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A fine-tuned model of two targets and three seeds, with the cache of its conformers."""
    folder = tmp_path_factory.mktemp("predict")
    lines = [f"{s},{c},{-400 + a}" for s, c, a in zip(MOLECULES, CARBON, AROMATIC, strict=True)]
    (folder / "set.csv").write_text("\n".join(["smiles,size,other", *lines]) + "\n")
    torch.manual_seed(1)
    save_pretrained(HeadedModel(TINY, DENOISE_HEADS), folder / "pretrained")
    finetune(
        FinetuneConfig(
            data=folder / "set.csv", pretrained=str(folder / "pretrained"), targets=TARGETS, split="random",
            seeds=SEEDS, output=folder / "model", cache=folder / "cache", conformer_workers=1, device="cpu",
            train=fitting(epochs=3, dropout=0.1), baselines=False,
        )
    )  # fmt: skip
    return folder


@pytest.fixture
def predicted(place, tmp_path):
    """Predict a file of SMILES lines; return the line that is printed and the columns of the table."""

    def run(smiles, *, folder=None, skip_bad=False, output="p.parquet", max_pairs=10_000, file=None, **more):
        path = file or tmp_path / "asked.csv"
        if file is None:
            path.write_text("\n".join(["id,SMILES", *(f"m{at},{text}" for at, text in enumerate(smiles))]) + "\n")
        line = predict_file(
            path, folder or place / "model", tmp_path / output, smiles_column=None, skip_bad=skip_bad,
            cache=place / "cache", max_pairs=max_pairs, device_name="cpu", **more,
        )  # fmt: skip
        return line, pq.read_table(tmp_path / output).to_pydict() if output.endswith("parquet") else None

    return run


def seeds_of(place, column):
    tables = [pq.read_table(place / "model" / f"predictions-seed-{seed}.parquet") for seed in range(SEEDS)]
    return np.array([table[column].to_pylist() for table in tables])


@pytest.mark.parametrize("max_pairs", [144, 10_000])
def test_a_prediction_is_the_mean_of_the_seeds_with_their_spread(place, predicted, max_pairs):
    line, table = predicted(MOLECULES, max_pairs=max_pairs)
    assert line.startswith("30 of 30 rows predicted")
    assert list(table) == [
        "row",
        "id",
        "SMILES",
        "smiles_used",
        "changes",
        "size",
        "size seed_std",
        "other",
        "other seed_std",
        "nearest_training_smiles",
        "size nearest_training_label",
        "other nearest_training_label",
        "similarity",
        "vector_similarity",
        "in_domain",
    ]
    assert "no intervals for size, other: a coverage of 0.9 needs 9 calibration rows, but this model has 3" in line
    for target in TARGETS:
        seeds = seeds_of(place, f"predicted {target}")
        assert table[target] == pytest.approx(seeds.mean(0), rel=1e-5)
        assert table[f"{target} seed_std"] == pytest.approx(seeds.std(0, ddof=1), rel=1e-3, abs=1e-6)
        assert seeds.std(0).min() > 0


def test_rows_stay_in_their_order_and_those_of_one_molecule_agree(place, predicted):
    order = [29, 0, 6, 0, 13]
    _, table = predicted([MOLECULES[at] for at in order] + ["OCC"])
    expected = seeds_of(place, "predicted size").mean(0)
    assert table["row"] == [1, 2, 3, 4, 5, 6]
    assert table["SMILES"][-1] == "OCC"
    assert table["size"] == pytest.approx(expected[[*order, 0]], rel=1e-5)


def test_rows_without_a_molecule_are_empty_and_listed_and_never_zero(place, predicted, tmp_path):
    line, table = predicted(["C1CC", "CCO", "", "CCN"], skip_bad=True)
    expected = seeds_of(place, "predicted size").mean(0)
    assert table["size"][0] is table["size"][2] is table["size seed_std"][0] is table["other"][2] is None
    assert [table["size"][1], table["size"][3]] == pytest.approx(expected[:2], rel=1e-5)
    assert table["SMILES"] == ["C1CC", "CCO", "", "CCN"]
    assert line.startswith("2 of 4 rows predicted")
    with (tmp_path / "p.skipped.csv").open() as file:
        assert [(row["row"], row["reason"]) for row in csv.DictReader(file)] == [("1", "not_parsed"), ("3", "empty")]
    predicted(["C1CC", "CCO"], skip_bad=True, output="p.csv")
    assert (tmp_path / "p.csv").read_text().splitlines()[1] == '1,"m0","C1CC",,,,,,,,,,,,'


def test_rows_without_a_molecule_are_an_error_unless_they_may_be_skipped(predicted, tmp_path):
    with pytest.raises(SourceError, match=r"1 of 2 rows have no usable molecule: row 1 'C1CC'.*--skip-bad"):
        predicted(["C1CC", "CCO"])
    with pytest.raises(SourceError, match="no row has a usable molecule"):
        predicted(["C1CC"], skip_bad=True)
    assert not (tmp_path / "p.parquet").exists()


def test_a_list_of_skipped_rows_does_not_outlive_the_predictions_it_is_of(predicted, tmp_path):
    predicted(["C1CC", "CCO"], skip_bad=True)
    predicted(["CCN", "CCO"], skip_bad=True)
    assert not (tmp_path / "p.skipped.csv").exists()


def test_the_file_that_is_read_is_not_written_over(predicted, tmp_path):
    with pytest.raises(ConfigError, match="would overwrite the input"):
        predicted(["CCO"], output="asked.csv")
    assert "CCO" in (tmp_path / "asked.csv").read_text()
    mended = tmp_path / "p.skipped.csv"  # what an earlier prediction left, with its rows mended
    mended.write_text("row,smiles\n1,CCO\n")
    with pytest.raises(ConfigError, match="table of skipped rows"):
        predicted([], file=mended)
    assert "CCO" in mended.read_text()


def test_an_output_that_can_not_be_written_is_told_before_anything_is_computed(predicted, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.csv").mkdir()
    monkeypatch.setattr(predict_module, "prepare", None)
    with pytest.raises(ConfigError, match="is a file, not a folder"):
        predicted(["CCO"], output="file/p.csv")
    with pytest.raises(ConfigError, match="is a folder"):
        predicted(["CCO"], output="folder.csv")


def test_no_molecule_fits_into_a_budget_of_nothing(predicted):
    with pytest.raises(ConfigError, match="max_pairs must be at least 1, got 0"):
        predicted(["CCO"], max_pairs=0)


@pytest.mark.parametrize("output", ["p.txt", "p"])
def test_a_table_is_csv_or_parquet(predicted, output):
    with pytest.raises(ConfigError, match=r"must end in \.csv or \.parquet"):
        predicted(["CCO"], output=output)


def test_a_file_that_is_not_there_and_a_folder_that_is_no_model_are_named(predicted, place, tmp_path):
    with pytest.raises(SourceError, match=r"lost\.csv does not exist"):
        predicted([], file=tmp_path / "lost.csv")
    with pytest.raises(CheckpointError, match=r"pretrained is not a fine-tuned model.*unimol-scale finetune"):
        predicted(["CCO"], folder=place / "pretrained")


def test_a_model_that_predicts_no_numbers_is_an_error_and_no_empty_cells(predicted, place, tmp_path):
    config = read_config(place / "model")
    broken = load_member(place / "model", config, config.members[0])
    torch.nn.init.constant_(broken.out.bias, float("inf"))
    sha256 = save_member(tmp_path / "broken", "seed-0.safetensors", broken)
    tree = json.loads((place / "model" / "finetuned.json").read_text())
    tree["members"] = [{**tree["members"][0], "sha256": sha256}]
    (tmp_path / "broken" / "finetuned.json").write_text(json.dumps(tree))
    with pytest.raises(RunError, match="1 of 1 predictions are not finite"):
        predicted(["CCO"], folder=tmp_path / "broken")


def test_a_model_of_one_seed_has_no_spread(predicted, place, tmp_path):
    one = tmp_path / "one"
    one.mkdir()
    tree = json.loads((place / "model" / "finetuned.json").read_text())
    tree["members"] = tree["members"][1:2]
    (one / "finetuned.json").write_text(json.dumps(tree))
    (one / "seed-1.safetensors").write_bytes((place / "model" / "seed-1.safetensors").read_bytes())
    _, table = predicted(MOLECULES[:3], folder=one)
    assert list(table) == ["row", "id", "SMILES", "smiles_used", "changes", "size", "other"]
    assert table["other"] == pytest.approx(seeds_of(place, "predicted other")[1][:3], rel=1e-6)


def with_dropout(folder, tmp_path, dropout):
    """A copy of a fine-tuned model that says that its heads were trained with dropout."""
    shutil.copytree(folder, tmp_path / "dropped")
    path = tmp_path / "dropped" / "finetuned.json"
    tree = json.loads(path.read_text())
    for member in tree["members"]:
        member["dropout"] = dropout
    path.write_text(json.dumps(tree))
    return tmp_path / "dropped"


def test_draws_of_dropout_have_a_spread_that_no_other_molecule_changes(place, predicted, tmp_path):
    folder = with_dropout(place / "model", tmp_path, 0.5)
    asked = {"folder": folder, "dropout_samples": 8, "skip_bad": True}
    _, alone = predicted(["CCO"], **asked)
    _, together = predicted(["c1ccccc1", "no molecule", "CCO", "CCCCC"], max_pairs=200, **asked)
    _, plain = predicted(["CCO"])
    for target in TARGETS:
        assert alone[target] == plain[target], "the prediction itself has no dropout"
        assert f"{target} dropout_std" not in plain
        spread = together[f"{target} dropout_std"]
        assert spread[1] is None
        assert spread[0] > 0
        assert spread[2] == pytest.approx(alone[f"{target} dropout_std"][0], rel=1e-4)


@pytest.mark.parametrize(("dropout", "draws", "message"), [(0.0, 8, "trained without dropout"), (0.1, 1, "2 or more")])
def test_draws_that_would_tell_nothing_are_refused(place, predicted, tmp_path, dropout, draws, message):
    with pytest.raises(ConfigError, match=message):
        predicted(["CCO"], folder=with_dropout(place / "model", tmp_path, dropout), dropout_samples=draws)


def test_the_dropout_of_training_is_recorded(place):
    assert {member.dropout for member in read_config(place / "model").members} == {0.1}


def test_every_column_of_the_user_is_kept_and_what_was_done_to_a_molecule_is_said(predicted, tmp_path):
    (tmp_path / "mine.csv").write_text(
        'code,pKa,SMILES,note\n007,0.50,CCN,"a, b"\n,1e3,CCN.Cl,\nX,,[Na+].CC(=O)[O-],last\n'
    )
    line, table = predicted([], file=tmp_path / "mine.csv")
    assert list(table)[:7] == ["row", "code", "pKa", "SMILES", "note", "smiles_used", "changes"]
    assert table["row"] == [1, 2, 3]
    assert (table["code"], table["pKa"]) == (["007", "", "X"], ["0.50", "1e3", ""])
    assert table["note"] == ["a, b", "", "last"]
    assert table["smiles_used"] == ["CCN", "CCN", "CC(=O)[O-]"]
    assert table["changes"] == [
        "",
        "largest fragment kept: CCN; left out: Cl",
        "largest fragment kept: CC(=O)[O-] (charge -1); left out: [Na+]",
    ]
    assert table["size"][0] == table["size"][1]
    assert (
        "2 of 3 rows have several fragments and were reduced to the largest (row 2 without Cl; row 3 without [Na+])"
        in line
    )
    assert "set fragments to reject to refuse such rows" in line
    predicted([], file=tmp_path / "mine.csv", output="p.csv")
    with (tmp_path / "p.csv").open() as file:
        assert [(row["code"], row["pKa"], row["note"]) for row in csv.DictReader(file)] == [
            ("007", "0.50", "a, b"), ("", "1e3", ""), ("X", "", "last")
        ]  # fmt: skip
    with pytest.raises(SourceError, match=r"2 of 3 rows have no usable molecule: row 2 'CCN.Cl': several_fragments"):
        predicted([], file=tmp_path / "mine.csv", fragments="reject")


def test_a_column_of_the_user_is_not_written_over(place, predicted, tmp_path):
    (tmp_path / "mine.csv").write_text("row,smiles,size,changes,changes_2\n9,CCO,3.5,none,x\n")
    line, table = predicted([], file=tmp_path / "mine.csv")
    assert list(table) == [
        "row_2", "row", "smiles", "size", "changes", "changes_2", "smiles_used", "changes_3", "predicted size",
        "predicted size seed_std", "other", "other seed_std", "nearest_training_smiles", "size nearest_training_label",
        "other nearest_training_label", "similarity", "vector_similarity", "in_domain",
    ]  # fmt: skip
    assert (table["row"], table["size"], table["changes"]) == (["9"], ["3.5"], ["none"])
    assert table["predicted size"] == pytest.approx(seeds_of(place, "predicted size").mean(0)[:1], rel=1e-5)
    assert "'predicted size' instead of 'size'" in line
    again = predicted([], file=tmp_path / "p.parquet", output="q.parquet")[1]  # what was predicted is predicted again
    assert again["predicted size"] == table["predicted size"]
    assert again["size_2"] == table["predicted size"]


def test_sdf_is_predicted_with_its_title_and_fields(place, predicted, tmp_path):
    def record(smiles, title, **fields):
        block = Chem.MolToMolBlock(Chem.MolFromSmiles(smiles)).split("\n", 1)[1]
        data = "".join(f">  <{name}>\n{value}\n\n" for name, value in fields.items())
        return f"{title}\n{block}{data}$$$$\n"

    broken = "bad\n  x\n\n  1  0  0  0  0  0  0  0  0  0999 V2000\n$$$$\n"
    text = record("CCO", "first", code="007", note="two\nlines") + broken + record("CCN", "", pKa="10.60")
    (tmp_path / "mine.sdf").write_text(text)
    _, table = predicted([], file=tmp_path / "mine.sdf", skip_bad=True)
    assert list(table)[:7] == ["row", "title", "code", "note", "pKa", "smiles_used", "changes"]
    assert (table["title"], table["code"]) == (["first", "bad", ""], ["007", "", ""])
    assert (table["note"], table["pKa"]) == (["two\nlines", "", ""], ["", "", "10.60"])
    assert table["smiles_used"] == ["CCO", None, "CCN"]
    expected = seeds_of(place, "predicted size").mean(0)
    assert [table["size"][0], table["size"][2]] == pytest.approx(expected[:2], rel=1e-5)
    with pytest.raises(SourceError, match=r"1 of 3 rows have no usable molecule: row 2 .*M  END"):
        predicted([], file=tmp_path / "mine.sdf")


def test_a_store_is_predicted_with_its_own_geometry(place, predicted, tmp_path):
    # Other tests leave stores of fewer molecules in the cache.
    stores = (place / "cache").glob("*/store")
    store = max(stores, key=lambda path: sum(shard.stat().st_size for shard in path.rglob("*.arrow")))
    line, table = predicted([], file=store)
    rows = [table["smiles"].index(text) for text in MOLECULES[:3]]
    assert line.startswith(f"{len(table['row'])} of {len(table['row'])} rows predicted")
    expected = seeds_of(place, "predicted size").mean(0)
    assert [table["size"][row] for row in rows] == pytest.approx(expected[:3], rel=1e-5)
    assert table["smiles_used"] == table["smiles"]


def test_a_place_without_molecules_says_what_is_there(place, predicted, tmp_path):
    for folder, message in (
        (place / "model", "it is a fine-tuned model: use it with `unimol-scale predict FILE --from"),
        (tmp_path, "name one file in it, or build a store"),
        (tmp_path / "lost", "lost does not exist; give a table"),
    ):
        with pytest.raises(SourceError, match=message):
            predicted([], file=folder)
    with pytest.raises(CheckpointError, match=r"it holds a pretrained model, .*unimol-scale finetune --from"):
        predicted(["CCO"], folder=place / "pretrained")
    with pytest.raises(
        CheckpointError,
        match=r"model is a fine-tuned model, not a pretrained one. To predict with it: .*: .*pretrained$",
    ):
        load_pretrained(place / "model")
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"is a conformer store, not a model; give the run"):
        load_pretrained(tmp_path)


def test_the_progress_counts_molecules_once_however_many_models_see_them(predicted, caplog):
    caplog.set_level(logging.INFO)
    predicted(MOLECULES[:7])
    assert "predicting: 7 of 7 molecules" in caplog.text
