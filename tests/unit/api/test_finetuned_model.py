"""``us.finetune`` and ``us.predict``: a caller's own molecules, in whatever they are."""

import dataclasses
import logging
import os

import numpy as np
import pyarrow as pa
import pytest
import torch

import unimol_scale as us
from tests.helpers import saved_runs
from tests.helpers.flags import flags_in
from tests.helpers.tiny_finetuning import CARBON, MOLECULES, TINY, write_table
from unimol_scale.checkpoints.weights import save_pretrained
from unimol_scale.cli.main import main
from unimol_scale.downstream.finetuning import results
from unimol_scale.model.accounting import Heads
from unimol_scale.model.model_with_heads import HeadedModel

VALUES = CARBON.tolist()
QUICK = {"train.epochs": 3, "train.patience": 3, "train.learning_rate": 1e-2, "baselines": False}


class Frame:
    """What a DataFrame of any library has: names of columns, and columns by name."""

    def __init__(self, columns):
        self._columns = columns
        self.columns = list(columns)

    def __getitem__(self, name):
        return np.array(self._columns[name], dtype=object)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a pretrained model of no size, and a model that was fine-tuned to count carbon atoms."""
    folder = tmp_path_factory.mktemp("place")
    torch.manual_seed(0)
    save_pretrained(HeadedModel(TINY, Heads(token=True)), folder / "pretrained")
    fit(folder, (list(MOLECULES), VALUES), output=folder / "fitted", target="carbons")
    return folder


def fit(place, data, **more):
    call = {"split": "random", "seeds": 2, "inputs": "2d", "cache": place / "cache", "settings": QUICK, **more}
    return us.finetune(place / "pretrained", data, **call)


def predicted(place, molecules, **more):
    return us.predict(place / "fitted", molecules, cache=place / "cache", **more)


def test_the_results_are_those_in_the_folder(place, capfd, caplog):
    caplog.set_level(logging.INFO)
    found = fit(place, (list(MOLECULES), VALUES), output=place / "fitted", target="carbons")
    assert found.result == results.read(place / "fitted")
    assert found.scores == {seed.seed: seed.test for seed in found.result.seeds}
    assert found.score == pytest.approx(np.mean(list(found.scores.values())))
    assert (found.metric, found.report, os.fspath(found)) == (
        "rmse",
        place / "fitted" / "report.md",
        str(place / "fitted"),
    )
    test = found.predictions("test")
    assert len(test["row"]) == found.result.split_sizes["test"]
    error = test["predicted carbons"] - test["carbons"]
    assert np.sqrt((error**2).mean()) <= found.score + 1e-9, "the mean of models is no worse than their mean error"
    assert [VALUES[row - 1] for row in test["row"]] == test["carbons"].tolist()
    assert len(found.predictions(None)["row"]) == len(MOLECULES)
    assert capfd.readouterr() == ("", "")


def test_the_baselines_are_part_of_the_result(place, tmp_path):
    assert fit(place, (list(MOLECULES), VALUES), output=place / "fitted", target="carbons").baselines == {}
    settings = {**QUICK, "baselines": True}
    found = fit(place, (list(MOLECULES), VALUES), output=tmp_path / "ft", target="carbons", seeds=1, settings=settings)
    assert set(found.baselines) == {"ecfp_forest", "ecfp_boosting", "rdkit_forest", "rdkit_boosting", "trivial"}
    assert next(iter(found.baselines)) == found.result.baselines.chosen
    assert found.baselines["trivial"] == pytest.approx(found.result.trivial[0])
    assert found.verdict == found.result.verdict != ""


def test_what_is_not_done_yet_is_done_in_silence_and_logged(place, tmp_path, capfd, caplog):
    caplog.set_level(logging.INFO)
    fit(place, (list(MOLECULES), VALUES), output=tmp_path / "new")
    assert capfd.readouterr() == ("", "")
    assert "seed 1] done after 3 epochs" in caplog.text
    fit(place, (list(MOLECULES), VALUES), output=tmp_path / "shown", progress=True)
    assert "seed 1] done after 3 epochs" in capfd.readouterr().err


@pytest.mark.parametrize("kind", [dict, Frame, pa.table])
def test_a_table_in_memory_is_the_same_table_in_a_file(place, tmp_path, kind):
    columns = {"smiles": list(MOLECULES), "carbons": VALUES, "name": [f"m{at}" for at in range(len(MOLECULES))]}
    path = write_table(tmp_path / "set.csv", carbons=VALUES)
    one = fit(place, path, output=tmp_path / "file", target="carbons")
    two = fit(place, kind(columns), output=tmp_path / "memory", target="carbons")
    assert two.scores == one.scores
    np.testing.assert_array_equal(
        two.predictions(None)["predicted carbons"], one.predictions(None)["predicted carbons"]
    )
    again = fit(place, kind(columns), output=tmp_path / "memory", target="carbons")
    assert again.result == two.result


def test_a_loaded_model_is_fine_tuned_unless_its_weights_were_changed(place, tmp_path):
    model = us.from_pretrained(place / "pretrained")
    call = {"output": tmp_path / "one", "split": "random", "seeds": 1, "inputs": "2d", "settings": QUICK}
    found = us.finetune(model, (list(MOLECULES), VALUES), cache=place / "cache", **call)
    assert found.scores[0] == fit(place, (list(MOLECULES), VALUES), output=tmp_path / "two", seeds=1).scores[0]
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    with pytest.raises(us.ConfigError, match="weights have changed since they were loaded from"):
        us.finetune(model, (list(MOLECULES), VALUES), cache=place / "cache", **call)


def test_a_model_with_the_weights_of_one_step_is_refused_for_what_it_is(place, tmp_path):
    saved_runs.save(tmp_path / "run", 10, mean=True)
    call = {"output": tmp_path / "one", "split": "random", "seeds": 1, "inputs": "2d", "settings": QUICK}
    data = (list(MOLECULES), VALUES)
    averaged = us.from_pretrained(tmp_path / "run")
    assert us.finetune(averaged, data, cache=place / "cache", **call).result.start == "run"
    model = us.from_pretrained(tmp_path / "run", averaged=False)
    with pytest.raises(us.ConfigError, match="run with averaged=False, but fine-tuning uses the averaged weights"):
        us.finetune(model, data, cache=place / "cache", **call)
    save_pretrained(model, tmp_path / "saved")  # as the message says
    again = us.from_pretrained(tmp_path / "saved", averaged=False)
    us.finetune(again, data, cache=place / "cache", **{**call, "output": tmp_path / "two"})
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    with pytest.raises(us.ConfigError, match="weights have changed since they were loaded from"):
        us.finetune(model, data, cache=place / "cache", **call)


def test_random_weights_are_asked_for_as_none(place, tmp_path):
    call = {"split": "random", "seeds": 1, "inputs": "2d", "settings": QUICK, "size": "0.03M"}
    found = [
        us.finetune(none, (list(MOLECULES), VALUES), output=tmp_path / str(at), cache=place / "cache", **call)
        for at, none in enumerate((None, "none", "None"))
    ]
    assert found[0].scores == found[1].scores == found[2].scores
    assert {one.result.start_sha256 for one in found} == {None}


def test_several_columns_of_values_are_several_targets(place, tmp_path):
    values = np.stack([CARBON, np.where(np.arange(len(CARBON)) == 3, np.nan, CARBON**2)], axis=1)
    found = fit(place, (MOLECULES, values), output=tmp_path / "two", seeds=1)
    assert found.result.targets == ("value_1", "value_2")
    assert np.isnan(found.predictions(None)["value_2"][3])
    predictions = us.predict(found, ["CCO", "CCN"], cache=place / "cache")
    assert predictions.values.shape == (2, 2)
    assert np.isnan(predictions.seed_std).all(), "of one seed"


def test_predictions_keep_the_order_and_name_what_cannot_be_used(place, tmp_path, capfd):
    asked = ["CCCC", "nonsense", None, "CCO.Cl", float("nan"), "CCCC"]
    found = predicted(place, asked)
    assert capfd.readouterr() == ("", "")
    assert len(found) == 6
    assert found.smiles.tolist() == ["CCCC", "nonsense", "", "CCO.Cl", "", "CCCC"]
    assert [bool(reason) for reason in found.reasons] == [False, True, True, False, True, False]
    assert found.reasons[1].startswith("not_parsed")
    assert found.reasons[2].startswith("empty")
    assert np.isnan(found.values[:, 0]).tolist() == [False, True, True, False, True, False]
    assert found.values[0, 0] == found.values[5, 0]
    assert found.smiles_used.tolist() == ["CCCC", None, None, "CCO", None, "CCCC"]
    assert found.changes[3] == "largest fragment kept: CCO; left out: Cl"
    assert predicted(place, ["CCO.Cl"], fragments="reject").reasons[0].startswith("several_fragments")
    np.testing.assert_array_equal(np.asarray(found), found.values)
    table = found.to_table()
    assert table.column_names == [
        "smiles", "carbons", "carbons seed_std", "nearest_training_smiles", "nearest_training_label", "similarity",
        "vector_similarity", "in_domain", "reason", "smiles_used", "changes",
    ]  # fmt: skip
    assert table["carbons"].null_count == 3
    nothing = predicted(place, ["nonsense"])
    assert np.isnan(nothing.values).all()
    assert predicted(place, []).values.shape == (0, 1)


def test_predictions_of_equal_content_are_equal(place):
    one, two, other = (predicted(place, ["CCO", "nonsense", last]) for last in ("CCN", "CCN", "CCC"))
    assert one == two
    assert one != other
    assert len({one, two, other}) == 2
    assert one != "predictions"
    assert dataclasses.replace(one, values=one.values + 1) != one


def test_predictions_are_those_of_the_command_whatever_the_molecules_come_in(place, tmp_path):
    path = write_table(tmp_path / "new.csv", smiles=MOLECULES[:5], other=range(5))
    output = tmp_path / "predicted.csv"
    command = ["predict", str(path), "--from", str(place / "fitted"), "--output", str(output), "--cache"]
    assert main([*command, str(place / "cache")]) == 0
    lines = [line.split(",") for line in output.read_text().replace('"', "").splitlines()]
    expected = [float(line[lines[0].index("carbons")]) for line in lines[1:]]
    for molecules in (
        path,
        str(path),
        list(MOLECULES[:5]),
        MOLECULES[:5],
        np.array(MOLECULES[:5]),
        {"SMILES": MOLECULES[:5]},
        Frame({"id": range(5), "smiles": MOLECULES[:5]}),
        pa.table({"smiles": MOLECULES[:5]}),
        pa.array(MOLECULES[:5]),
    ):
        assert predicted(place, molecules).values[:, 0].tolist() == pytest.approx(expected)
    assert predicted(place, {"mine": MOLECULES[:5]}, smiles_column="mine").values[:, 0].tolist() == pytest.approx(
        expected
    )
    assert predicted(place, MOLECULES[0]).values[0, 0] == pytest.approx(expected[0])


def test_a_smiles_that_is_longer_than_a_files_name_can_be_is_a_smiles(place):
    assert predicted(place, "C" * 300).reasons[0].startswith("too_many_atoms")


@pytest.mark.parametrize("name", ["nowhere.csv.gz", "nowhere.txt", "NOWHERE.CSV", "nowhere.tsv.zst", "a/nowhere.mol"])
def test_a_text_with_the_name_of_a_table_is_no_smiles(place, name):
    with pytest.raises(us.SourceError, match=f"^{name} does not exist"):
        predicted(place, name)


@pytest.mark.parametrize("smiles", ["CCO.Cl", "F/C=C/F", "C.C.O"])
def test_a_smiles_with_points_and_slashes_is_no_name(place, smiles):
    assert np.isfinite(predicted(place, smiles).values).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda place: fit(place, (MOLECULES, VALUES[:-1])), us.SourceError, "^data: 30 SMILES and 29 rows of values"),
        (
            lambda place: fit(place, (MOLECULES, ["a"] * 30)),
            us.SourceError,
            "30 labels of the target 'value' are not numbers: row 1 .CCO.: 'a'",
        ),
        (lambda place: fit(place, 7), us.SourceError, "^data: expected a path, a table or .*got int"),
        (lambda place: fit(place, {"smiles": ["C"], "y": []}), us.SourceError, "^data: its columns have different"),
        (lambda place: fit(place, "nowhere.csv", target="y"), us.SourceError, "nowhere.csv does not exist"),
        (lambda place: fit(place, {"smiles": MOLECULES, "y": VALUES}), us.ConfigError, "label columns with target"),
        (lambda place: fit(place, (MOLECULES, VALUES), sede=1), us.ConfigError, "'sede'; did you mean 'seed'"),
        (
            lambda place: fit(place, ([*MOLECULES, "nonsense"], [*VALUES, 1.0])),
            us.SourceError,
            "leave them out with skip_bad=True",
        ),
        (
            lambda place: fit(place, (MOLECULES, VALUES), output=place / "fitted", target="carbons", metric="mae"),
            us.ConfigError,
            r"(?s)other settings .*metric: none → mae.*another output",
        ),
        (
            lambda place: us.finetune(None, (MOLECULES, VALUES)),
            us.ConfigError,
            "or model=None with size=NAME$",
        ),
        (
            lambda place: us.finetune(3, (MOLECULES, VALUES)),
            us.ConfigError,
            "^model: expected a path, .*got int",
        ),
        (lambda place: us.predict(None, "C"), us.ConfigError, "^model: expected the folder of .*, got NoneType"),
        (lambda place: us.from_pretrained(None), us.ConfigError, "^path: expected a path, .*, got NoneType"),
        (lambda place: fit(place, "set.csv", tagret="y"), us.ConfigError, "'tagret'; did you mean 'target'"),
        (lambda place: fit(place, (MOLECULES, VALUES), tagret="y"), us.ConfigError, "'tagret'; did you mean 'target'"),
        (
            lambda place: fit(place, (MOLECULES, VALUES), target={"y"}),
            us.ConfigError,
            "^target: expected a list",
        ),
        (lambda place: fit(place, (MOLECULES, {1.0})), us.ConfigError, "^data: expected a list, got a set"),
        (lambda place: fit(place, {"smiles": {"C"}}, target="y"), us.ConfigError, "^column smiles: expected a list"),
        (lambda place: fit(place, (MOLECULES, VALUES), fractions={0.8, 0.1}), us.ConfigError, "^fractions: expected a"),
        (lambda place: us.predict(place / "pretrained", "C"), us.CheckpointError, "is not a fine-tuned model"),
        (lambda place: predicted(place, {1, 2}), us.SourceError, "predict expects a SMILES or a list of SMILES"),
        (
            lambda place: predicted(place, "CCO.Cl", fragments="x"),
            us.ConfigError,
            "unknown fragments 'x'",
        ),
        (
            lambda place: us.from_pretrained(place / "pretrained").embed({"smiles": ["CCO"]}),
            us.SourceError,
            "embed expects a SMILES or a list of SMILES, got a table; give its column",
        ),
        (lambda place: predicted(place, "nowhere.csv"), us.SourceError, "nowhere.csv does not exist"),
        (lambda place: predicted(place, "C", device="tpu"), us.ConfigError, "^device: unknown value 'tpu'"),
        (lambda place: predicted(place, "CCCCO", max_pairs=4), us.ConfigError, "more than max_pairs 4"),
    ],
)
def test_what_is_wrong_with_a_call_is_said_by_the_names_of_its_arguments(
    place, tmp_path, monkeypatch, call, error, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message) as raised:
        call(place)
    assert not flags_in(raised.value)
