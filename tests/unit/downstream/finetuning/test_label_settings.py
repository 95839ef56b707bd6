"""Fine-tuning on bounds, on ordered classes, with weights, and on logarithms: what is learnt, written and refused."""

import csv
import dataclasses
import re

import numpy as np
import pyarrow.parquet as pq
import pytest

import unimol_scale as us
from tests.helpers.tiny_finetuning import AROMATIC, CARBON, MOLECULES, fitting, write_table
from unimol_scale.downstream.baselines import fitted_baselines
from unimol_scale.downstream.baselines.table_models import TABLE_MODELS
from unimol_scale.downstream.finetuning import results
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.downstream.finetuning.model.saved_model import load_member, read_config
from unimol_scale.downstream.finetuning.predict import predict_file
from unimol_scale.errors import ConfigError, SourceError

SIZE = CARBON + AROMATIC
GRADES = ("low", "medium", "high")
GRADE = np.where(CARBON < 3, "low", np.where(CARBON < 6, "medium", "high"))
HIGH = 5.0  # sizes from here on are only known to be as large


@pytest.fixture(scope="module")
def sets(place):
    write_table(place / "bounds.csv", size=[f">={HIGH:g}" if size > HIGH else f"{size:g}" for size in SIZE], w=SIZE + 1)
    write_table(place / "order.csv", grade=GRADE)
    write_table(place / "positive.csv", size=10.0 ** (SIZE / 3), aromatic=AROMATIC.astype(int), w=SIZE + 1)
    return place


def predictions(config, seed=0):
    return pq.read_table(config.folder / f"predictions-seed-{seed}.parquet").to_pydict()


def test_bounds_are_learnt_and_counted_but_not_judged(sets, settings):
    config = settings(data=sets / "bounds.csv", censored=True, seeds=1, train=fitting(epochs=12))
    done = finetune(config)
    assert (done.task, results.read(config.folder)) == ("regression", done)
    table = predictions(config)
    bound = np.array([text is not None for text in table["size bound"]])
    assert bound.tolist() == (SIZE > HIGH).tolist()
    assert table["size bound"][int(np.argmax(bound))] == ">5"
    assert [label is None for label in table["size"]] == bound.tolist()
    predicted, part = np.array(table["predicted size"]), np.array(table["split"])
    seed = done.seeds[0]
    for name in ("train", "valid", "test"):
        here = bound & (part == name)
        assert (seed.bounds[name], seed.violated_bounds[name]) == (here.sum(), (predicted[here] < HIGH).sum())
    exact = (part == "test") & ~bound
    assert seed.test == pytest.approx(np.sqrt(np.mean((predicted - SIZE)[exact] ** 2)))
    assert predicted[bound & (part == "train")].mean() > predicted[~bound & (part == "train")].mean() + 1.0
    report = (config.folder / "report.md").read_text()
    assert f"of {seed.bounds['train']}" in report.split("all models together violate ")[1].splitlines()[0]
    assert done.row_counts["bounds"] == bound.sum()


def test_what_a_bound_says_beyond_it_is_not_used(sets, settings, tmp_path):
    """Bounds far below all outputs are never violated."""
    low = [">=-1e9" if size > HIGH else f"{size:g}" for size in SIZE]
    none = ["" if size > HIGH else f"{size:g}" for size in SIZE]
    parts = ["test" if row == 0 else "valid" if row in (1, 2) else "train" for row in range(len(SIZE))]
    write_table(tmp_path / "low.csv", size=low, part=parts)
    write_table(tmp_path / "none.csv", size=[text or "nan" for text in none], part=parts)
    split = {"split": "column", "split_column": "part", "seeds": 1, "metric": "mae", "train": fitting(epochs=1)}
    with_bounds = finetune(settings(data=tmp_path / "low.csv", censored=True, output=tmp_path / "a", **split))
    assert with_bounds.seeds[0].violated_bounds["train"] == 0
    with pytest.raises(SourceError, match=r"row \d+ \(.*\): '>=-1e9'.*--censored"):
        finetune(settings(data=tmp_path / "low.csv", output=tmp_path / "b", **split))
    without = finetune(settings(data=tmp_path / "none.csv", censored=True, output=tmp_path / "c", **split))
    assert without.seeds[0].bounds == {}
    assert with_bounds.label_std == without.label_std


def test_ordered_classes_come_back_by_name_and_are_judged_by_rank(sets, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(fitted_baselines, "TABLE_MODELS", TABLE_MODELS[:1])
    monkeypatch.setattr(fitted_baselines.fit_baselines, "__defaults__", (5,))
    config = settings(data=sets / "order.csv", targets=("grade",), task="ordinal", order=GRADES, baselines=True)
    done = finetune(config)
    assert (done.metric, done.classes, done.prefers_high) == ("rank_mae", {"grade": GRADES}, False)
    table = predictions(config)
    probability = np.array([table[f"predicted grade p({name})"] for name in GRADES]).T
    assert (probability >= 0.0).all()
    np.testing.assert_allclose(probability.sum(1), 1.0)
    rank = (probability.cumsum(1)[:, :-1] < 0.5).sum(1)
    assert table["predicted grade"] == [GRADES[at] for at in rank]
    test = np.array(table["split"]) == "test"
    truth = np.array([GRADES.index(name) for name in table["grade"]])
    assert done.seeds[0].test == pytest.approx(np.abs(rank - truth)[test].mean())
    saved = read_config(config.folder)
    bias = load_member(config.folder, saved, saved.members[0]).out.bias
    assert bias.shape == (2,)
    write_table(tmp_path / "new.csv", smiles=[*MOLECULES[:4], "bad", "CCO.Cl"], n=range(6))
    said = predict_file(tmp_path / "new.csv", config.folder, tmp_path / "out.csv", smiles_column=None, skip_bad=True,
                        cache=sets / "cache", max_pairs=None, device_name="cpu")  # fmt: skip
    assert said.splitlines()[-1] == "of 6 rows: 1 skipped (not_parsed), 1 reduced to the largest fragment"
    with (tmp_path / "out.csv").open() as file:
        assert {row["grade"] for row in csv.DictReader(file)} <= {*GRADES, ""}
    report = (config.folder / "report.md").read_text()
    assert "| predicted low | predicted medium | predicted high |" in report


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({}, ConfigError, "whose order is unknown; give --order with high, low, medium"),
        (
            {"order": ("low", "high")},
            SourceError,
            r"labels of the target 'grade' are not in --order: row \d+ .*'medium'",
        ),
        ({"order": ("low", "low")}, ConfigError, "two or more different classes"),
        ({"task": "multiclass", "order": GRADES}, ConfigError, "order applies to task ordinal"),
    ],
)
def test_an_order_that_does_not_fit_is_refused(sets, settings, changes, error, message):
    with pytest.raises(error, match=message):
        finetune(settings(**{"data": sets / "order.csv", "targets": ("grade",), "task": "ordinal", **changes}))


def test_weights_change_what_is_learnt_and_equal_ones_do_not(sets, settings, tmp_path):
    config = settings(data=sets / "positive.csv", targets=("size",), seeds=1)
    plain = finetune(config)
    weighted = finetune(dataclasses.replace(config, weight_column="w", output=tmp_path / "w"))
    assert weighted.seeds[0].losses != plain.seeds[0].losses
    assert any("by the column 'w', divided by its mean" in note for note in weighted.notes)
    rows = (MOLECULES, 10.0 ** (SIZE / 3))
    common = {"target": "size", "split": "random", "seeds": 1, "baselines": False, "cache": sets / "cache",
              "device": "cpu", "train": dataclasses.asdict(config.train)}  # fmt: skip
    for weights in (None, np.full(len(SIZE), 7.0)):
        found = us.finetune(str(sets / "pretrained"), (list(rows[0]), rows[1]), weights=weights,
                            output=tmp_path / str(weights is None), **common)  # fmt: skip
        np.testing.assert_allclose(found.result.seeds[0].losses, plain.seeds[0].losses, rtol=1e-4)


def test_a_row_without_weight_teaches_nothing(settings, tmp_path):
    """Its label may be anything: the weights that are learnt are the same."""
    parts = ["test" if row == 0 else "valid" if row in (1, 2) else "train" for row in range(len(SIZE))]
    weight = [0.0 if row >= 25 else 1.0 for row in range(len(SIZE))]
    found = []
    for place in (0, 1):
        toxic = [int(AROMATIC[row] != (place if weight[row] == 0.0 else 0)) for row in range(len(SIZE))]
        write_table(tmp_path / f"{place}.csv", toxic=toxic, part=parts, w=weight)
        config = settings(data=tmp_path / f"{place}.csv", targets=("toxic",), split="column", split_column="part",
                          weight_column="w", metric="accuracy", seeds=1, output=tmp_path / str(place))  # fmt: skip
        found.append(finetune(config).seeds[0].losses)
    np.testing.assert_allclose(*found, rtol=1e-5)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (lambda at: -1.0 if at == 4 else 1.0, r"1 weights in the column 'w' .* row 5 \(Oc1ccccc1\): '-1.0'"),
        (lambda at: "nan" if at == 6 else 1.0, r"missing, negative, or no numbers: row 7"),
        (lambda at: 0.0, "all weights in the column 'w' are 0, from row 1 on"),
    ],
)
def test_weights_that_are_none_are_refused(settings, tmp_path, weight, message):
    write_table(tmp_path / "w.csv", size=SIZE, w=[weight(at) for at in range(len(SIZE))])
    with pytest.raises(SourceError, match=message):
        finetune(settings(data=tmp_path / "w.csv", weight_column="w"))


def test_logarithms_are_learnt_and_the_label_itself_is_told(sets, settings):
    config = settings(data=sets / "positive.csv", targets=("size",), transform="log10", units={"size": "nM"})
    done = finetune(config)
    assert (done.unit, read_config(config.folder).transforms) == ("nM", {"size": "log10"})
    table = predictions(config)
    predicted, test = np.array(table["predicted size"]), np.array(table["split"]) == "test"
    assert (predicted > 0.0).all()
    np.testing.assert_allclose(table["size"], 10.0 ** (SIZE / 3), rtol=1e-6)
    error = (predicted - 10.0 ** (SIZE / 3))[test]
    assert done.seeds[0].test == pytest.approx(np.sqrt(np.mean(error**2)))
    assert done.label_std == pytest.approx((10.0 ** (SIZE / 3))[np.array(table["split"]) == "train"].std())
    member = read_config(config.folder).members[0]
    train = np.array(table["split"]) == "train"
    assert member.mean_L == pytest.approx(((SIZE / 3)[train].mean(),))
    again = us.predict(config.folder, list(MOLECULES), device="cpu", cache=sets / "cache")
    both = [predictions(config, seed)["predicted size"] for seed in (0, 1)]
    np.testing.assert_allclose(again.values[:, 0], np.mean(both, axis=0), rtol=1e-4)
    assert any("log10 of 'size'" in note for note in done.notes)


def test_a_label_without_logarithm_is_named(sets, settings, tmp_path):
    write_table(tmp_path / "zero.csv", size=np.where(np.arange(len(SIZE)) == 2, 0.0, 1.0 + SIZE))
    with pytest.raises(SourceError, match=r"1 labels of the target 'size' are not positive and have no log: row 3 "):
        finetune(settings(data=tmp_path / "zero.csv", transform="log"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transforms": {"sise": "log"}}, "'sise' is not a target"),
        ({"transform": "log", "atom_references": ("size",)}, "is also in atom_references"),
        ({"transform": "log", "task": "classification"}, "transform applies to regression"),
        ({"censored": True, "task": "multiclass"}, "censored applies to regression"),
        ({"weight_column": "size"}, "'size' is a target"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_at_once(settings, changes, message):
    with pytest.raises(ConfigError, match=message):
        settings(**changes)


def test_the_report_says_what_became_of_every_row(sets, settings, tmp_path):
    smiles = [*MOLECULES, "not a molecule", "CCO", "CCN.Cl", "C" * 200, "CC"]
    path = write_table(tmp_path / "rows.csv", smiles=smiles, size=[*SIZE, 3, 7, 2, 200, ""])
    config = settings(data=path, skip_bad=True, seeds=1)
    done = finetune(config)
    assert done.row_counts == {
        "rows": 35, "skipped not_parsed": 1, "skipped too_many_atoms": 1, "unlabelled": 1, "unused": 0, "used": 32,
        "reduced_to_fragment": 1, "isotopes_removed": 0, "repeated_molecule": 2, "bounds": 0,
    }  # fmt: skip
    report = (config.folder / "report.md").read_text()
    table = dict(re.findall(r"^\| (.*?) +\| (\d+) +\|$", report.split("## Rows")[1], re.MULTILINE))
    assert table["used, reduced to the largest fragment"] == "1"
    assert table["without a usable molecule: too_many_atoms"] == "1"
