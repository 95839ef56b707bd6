"""Fine-tuning on classes: names go in and come back, probabilities add up to one, and the report counts confusions."""

import csv
import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest

import unimol_scale as us
from tests.helpers.tiny_finetuning import AROMATIC, CARBON, MOLECULES, write_table
from unimol_scale.downstream.baselines import fitted_baselines
from unimol_scale.downstream.baselines.table_models import TABLE_MODELS
from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.finetuning import results
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.downstream.finetuning.model.saved_model import read_config
from unimol_scale.downstream.finetuning.predict import predict_file
from unimol_scale.errors import ConfigError, SourceError

KIND = np.where(AROMATIC == 1, "ring", np.where(CARBON > 2, "long", "short"))
CLASSES = ("long", "ring", "short")


@pytest.fixture(scope="module")
def sets(place):
    """Tables with three classes by name, by number, and two by name."""
    kinds = KIND.astype(object)
    kinds[3] = ""
    write_table(place / "kinds.csv", kind=kinds)
    write_table(place / "grades.csv", grade=[10 * (1 + CLASSES.index(name)) for name in KIND])
    write_table(place / "two.csv", toxic=np.where(AROMATIC == 1, "active", "inactive"))
    return place


@pytest.fixture
def predicted(sets, tmp_path):
    """Return a function that predicts with a folder, as a table of strings."""

    def made(folder):
        output = tmp_path / "predictions.csv"
        options = {"smiles_column": None, "skip_bad": True, "cache": sets / "cache", "max_pairs": None}
        predict_file(write_table(tmp_path / "new.csv", smiles=[*MOLECULES[:5], "bad"], n=range(6)), folder, output,
                     device_name="cpu", **options)  # fmt: skip
        with output.open() as file:
            return list(csv.DictReader(file))

    return made


def test_names_of_classes_come_back_with_a_probability_for_each(sets, settings, predicted, monkeypatch):
    monkeypatch.setattr(fitted_baselines, "TABLE_MODELS", TABLE_MODELS[:1])
    monkeypatch.setattr(fitted_baselines.fit_baselines, "__defaults__", (5,))
    config = settings(data=sets / "kinds.csv", targets=("kind",), baselines=True)
    done = finetune(config)
    assert (done.task, done.metric, done.classes) == ("multiclass", "roc_auc", {"kind": CLASSES})
    assert results.read(config.output) == done
    table = pq.read_table(config.output / "predictions-seed-0.parquet").to_pydict()
    assert table["kind"][:5] == [None if at == 3 else KIND[at] for at in range(5)]
    probability = np.array([table[f"predicted kind p({name})"] for name in CLASSES])
    usable = np.arange(len(KIND)) != 3
    np.testing.assert_allclose(probability[:, usable].astype(float).sum(0), 1.0)
    best = np.array(CLASSES)[probability[:, usable].astype(float).argmax(0)]
    assert np.array(table["predicted kind"])[usable].tolist() == best.tolist()
    rows = predicted(config.output)
    each = [us.predict(config.output, MOLECULES[:5], device="cpu", cache=sets / "cache")]
    for at, row in enumerate(rows[:5]):
        values = [float(row[f"kind p({name})"]) for name in CLASSES]
        assert row["kind"] == CLASSES[int(np.argmax(values))]
        np.testing.assert_allclose(values, each[0].values[at])
    assert rows[5]["kind"] == rows[5]["kind p(ring)"] == ""
    assert each[0].predicted_classes["kind"].tolist() == [row["kind"] for row in rows[:5]]
    assert each[0].to_dict()["kind p(ring) seed_std"].shape == (5,)
    report = (config.output / "report.md").read_text()
    assert "| predicted long | predicted ring | predicted short |" in report
    matrix = report.split("## Confusion matrix")[1].split("\n## ")[0]
    counts = [line.split("|")[2:5] for line in matrix.splitlines() if "%" in line]
    assert np.array(counts, int).sum() == done.split_sizes["test"]
    assert "classes of 'kind': long (" in report
    assert "the shares of the classes" in report
    assert (config.output / "confusion.png").is_file()
    assert done.baselines is not None
    assert done.baselines.members[0].of("trivial").test_by_target == pytest.approx((0.5,))


def test_an_ensemble_averages_probabilities(sets, settings):
    config = settings(data=sets / "kinds.csv", targets=("kind",))
    finetune(config)
    found = us.predict(config.output, MOLECULES[5:9], device="cpu", cache=sets / "cache")
    tables = [pq.read_table(config.output / f"predictions-seed-{seed}.parquet").to_pydict() for seed in range(2)]
    each = [[table[f"predicted kind p({name})"][5:9] for name in CLASSES] for table in tables]
    np.testing.assert_allclose(found.values, np.mean(each, axis=0).T, rtol=1e-5)
    np.testing.assert_allclose(found.seed_std, np.std(each, axis=0, ddof=1).T, atol=1e-6)


def test_whole_numbers_are_classes_only_when_asked_and_a_note_says_so(sets, settings):
    done = finetune(settings(data=sets / "grades.csv", targets=("grade",), seeds=1, output=sets / "number"))
    assert done.task == "regression"
    assert any("--task multiclass" in note for note in done.notes)
    config = settings(data=sets / "grades.csv", targets=("grade",), task="multiclass", seeds=1, metric="log_loss")
    done = finetune(config)
    assert done.classes == {"grade": ("10", "20", "30")}
    assert read_config(config.output).outputs.names == ("grade p(10)", "grade p(20)", "grade p(30)")


def test_a_cross_validation_of_classes_leaves_out_of_fold_probabilities(sets, settings):
    config = settings(data=sets / "kinds.csv", targets=("kind",), split="random-kfold", folds=2, seeds=1,
                      metric="balanced_accuracy", class_weights="balanced")  # fmt: skip
    done = finetune(config)
    assert len(done.seeds) == 2
    table = pq.read_table(config.output / "out_of_fold.parquet").to_pydict()
    total = sum(np.array(table[f"predicted kind p({name})"]) for name in CLASSES)
    np.testing.assert_allclose(total, 1.0)
    columns = us.api.finetuned_model.FinetunedModel(folder=config.output, result=done).predictions("test")
    assert set(columns["predicted kind"]) <= set(CLASSES)
    assert columns["kind"].tolist() == [name for at, name in enumerate(KIND) if at != 3]


@pytest.mark.parametrize(("positive", "name"), [(None, "inactive"), ("active", "active")])
def test_two_named_classes_have_a_positive_one_that_is_told(sets, settings, predicted, positive, name):
    config = settings(data=sets / "two.csv", targets=("toxic",), seeds=1, metric="accuracy", positive=positive)
    done = finetune(config)
    assert (done.task, done.classes["toxic"][1]) == ("classification", name)
    assert any(f"{name} is the positive class" in note for note in done.notes)
    for row in predicted(config.output)[:5]:
        probability = float(row[f"toxic p({name})"])
        assert row["toxic"] == (name if probability >= 0.5 else ({"active", "inactive"} - {name}).pop())


def test_a_score_that_is_no_better_than_the_share_of_a_class_names_that_class(sets, settings):
    done = finetune(settings(data=sets / "two.csv", targets=("toxic",), seeds=1, metric="accuracy", baselines=False))
    worse = dataclasses.replace(done, seeds=tuple(dataclasses.replace(one, test=0.0) for one in done.seeds))
    assert "no better than predicting the share of 'inactive' (accuracy " in worse.describe()


def test_the_positive_class_is_the_one_with_label_1(sets, settings):
    found = {}
    for positive in ("active", "inactive"):
        config = settings(data=sets / "two.csv", targets=("toxic",), seeds=1, metric="accuracy", positive=positive,
                          output=settings().output / positive)  # fmt: skip
        finetune(config)
        table = pq.read_table(config.output / "predictions-seed-0.parquet").to_pydict()
        found[positive] = np.array(table[f"predicted toxic p({positive})"])
    np.testing.assert_allclose(found["active"], 1.0 - found["inactive"], atol=1e-5)


@pytest.mark.parametrize(
    ("error", "message", "changes"),
    [
        (ConfigError, "no class 'toxic'; ", {"positive": "toxic"}),
        (ConfigError, "class_weights applies to classes",
         {"data": "set.csv", "targets": ("size",), "class_weights": "balanced"}),
        (ConfigError, "metric rmse does not apply to multiclass", {"task": "multiclass", "metric": "rmse"}),
        (ConfigError, "positive applies to two classes, but the target 'kind' .* has 3: long, ring, short",
         {"data": "kinds.csv", "targets": ("kind",), "positive": "ring"}),
        (SourceError, "'kind' has 3 classes, long, ring, short; task classification needs two",
         {"data": "kinds.csv", "targets": ("kind",), "task": "classification"}),
        (SourceError, "'size' have .* different values, which are too many",
         {"data": "numbers.csv", "targets": ("size",), "task": "multiclass"}),
    ],
)  # fmt: skip
def test_what_does_not_fit_classes_is_refused(sets, settings, error, message, changes):
    write_table(sets / "numbers.csv", size=range(len(MOLECULES)))
    changed = {"data": "two.csv", "targets": ("toxic",), **changes}
    with pytest.raises(error, match=message):
        finetune(settings(**{**changed, "data": sets / changed["data"]}))


def test_class_names_in_memory(sets, tmp_path):
    train = {"epochs": 1, "learning_rate": 1e-3}
    fitted = us.finetune(str(sets / "pretrained"), (list(MOLECULES), KIND), target="kind", output=tmp_path / "ft",
                         split="random", seeds=1, inputs="2d", baselines=False, cache=sets / "cache", train=train,
                         device="cpu")  # fmt: skip
    assert fitted.result.classes == {"kind": CLASSES}


def test_a_setting_is_checked_before_anything_is_read():
    with pytest.raises(ConfigError, match="positive applies to two classes, but the task is multiclass"):
        FinetuneConfig(data="x", targets=("y",), size="84M", task="multiclass", positive="a")  # type: ignore[arg-type]
