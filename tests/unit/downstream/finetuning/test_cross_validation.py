"""A fine-tuning by cross-validation: one model a fold, every row tested by models that never saw it, and its report."""

import dataclasses
import json
import shutil

import matplotlib.image
import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats

from tests.helpers.tiny_finetuning import AROMATIC, CARBON, MOLECULES, fitting, write_table
from unimol_scale import config as strict
from unimol_scale.api.finetuned_model import FinetunedModel
from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.finetuning import results
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.downstream.finetuning.model.saved_model import read_config
from unimol_scale.downstream.finetuning.predict import predict_file
from unimol_scale.errors import ConfigError

FOLDS, REPEATS = 3, 2
PREDICTING = {"smiles_column": None, "skip_bad": False, "max_pairs": None, "device_name": "cpu"}


@pytest.fixture(scope="module")
def crossed(place):
    """A finished cross-validation, with a row that cannot be used; copy it to change it."""
    smiles = [*MOLECULES, "not a molecule"]
    data = write_table(place / "crossed.csv", smiles=smiles, size=[*(CARBON + AROMATIC), 3])
    config = FinetuneConfig(
        data=data, pretrained=str(place / "pretrained"), targets=("size",), split="scaffold-kfold", folds=FOLDS,
        repeats=REPEATS, skip_bad=True, output=place / "crossed", cache=place / "cache", conformer_workers=1,
        device="cpu", inputs="2d", train=fitting(epochs=2), baselines=False,
    )  # fmt: skip
    return config, finetune(config)


def table(path):
    return {name: np.array(values, dtype=object) for name, values in pq.read_table(path).to_pydict().items()}


def test_every_row_is_tested_once_a_repeat_by_a_model_that_was_not_trained_on_it(crossed):
    config, done = crossed
    assert [(seed.seed, seed.fold.repeat, seed.fold.fold) for seed in done.seeds] == [
        (number, number // FOLDS + 1, number % FOLDS + 1) for number in range(FOLDS * REPEATS)
    ]
    found = table(config.folder / "out_of_fold.parquet")
    splits = table(config.folder / "splits.parquet")
    for repeat in range(1, REPEATS + 1):
        assert sorted(found["row"][found["repeat"] == repeat].tolist()) == list(range(1, 31))
    for seed in done.seeds:
        here = (found["repeat"] == seed.fold.repeat) & (found["fold"] == seed.fold.fold)
        assert set(found["seed"][here].tolist()) == {seed.seed}
        own = table(config.folder / f"predictions-seed-{seed.seed}.parquet")
        test = own["split"] == "test"
        for name in ("row", "smiles", "size", "predicted size"):
            assert found[name][here].tolist() == own[name][test].tolist()
        written = (splits["repeat"] == seed.fold.repeat) & (splits["fold"] == seed.fold.fold)
        used = [part is not None for part in own["split"].tolist()]
        assert splits["part"][written].tolist() == own["split"][used].tolist()
        assert splits["row"][written].tolist() == own["row"][used].tolist()
        error = (found["size"][here] - found["predicted size"][here]).astype(float)
        assert seed.test == pytest.approx(np.sqrt(np.mean(error**2)))
        train = own["size"][own["split"] == "train"].astype(float)
        trivial = np.sqrt(np.mean((found["size"][here].astype(float) - train.mean()) ** 2))
        assert seed.trivial == (pytest.approx(trivial),)


def test_the_interval_of_the_mean_allows_for_training_rows_that_folds_share(crossed):
    _, done = crossed
    scores = [seed.test for seed in done.seeds]
    assert done.mean == pytest.approx(np.mean(scores))
    ratio = np.mean([s.split_sizes["test"] / (s.split_sizes["train"] + s.split_sizes["valid"]) for s in done.seeds])
    assert ratio == pytest.approx(0.5, abs=0.1)
    half = stats.t.ppf(0.975, 5) * np.sqrt((1 / 6 + ratio) * np.var(scores, ddof=1))
    assert (done.interval.low, done.interval.high) == pytest.approx((done.mean - half, done.mean + half))


def test_the_interval_of_the_mean_keeps_to_what_the_metric_can_be(crossed):
    """Few folds that differ much have a wide interval, and no error is below 0."""
    _, done = crossed
    seeds = [dataclasses.replace(seed, test=1.0 if number else 9.0) for number, seed in enumerate(done.seeds)]
    assert dataclasses.replace(done, seeds=tuple(seeds)).interval.low == 0.0
    shares = [dataclasses.replace(seed, test=0.2 if number else 1.0) for number, seed in enumerate(done.seeds)]
    share = dataclasses.replace(done, seeds=tuple(shares), metric="roc_auc", higher_is_better=True)
    assert 0.0 <= share.interval.low < share.mean < share.interval.high <= 1.0
    assert dataclasses.replace(done, seeds=tuple(seeds), metric="own.module:Metric").interval.low < 0.0


def test_the_report_says_what_was_tested(crossed):
    config, done = crossed
    report = (config.folder / "report.md").read_text()
    assert "(3 folds × 2 repeats)" in report.splitlines()[0]
    assert f"**{done.mean:.4g}**, mean of 6 folds, with a 95 % interval of {done.interval.low:.4g} to" in report
    assert "Every row is tested 2 times, once in each repeat, by a model that was not trained on it" in report
    assert "31 rows in the data, 30 used, 1 without a usable molecule" in report
    assert report.count("\n| 2 | ") == FOLDS
    picture = matplotlib.image.imread(config.folder / "parity.png")
    assert (picture[..., :3] < 0.5).any()
    assert results.read(config.folder) == done


def test_prediction_is_the_mean_of_the_models_of_all_folds(crossed, tmp_path):
    config, _ = crossed
    asked = write_table(tmp_path / "asked.csv")
    predict_file(asked, config.folder, tmp_path / "p.parquet", **PREDICTING, cache=config.cache)
    found = table(tmp_path / "p.parquet")
    each = np.stack([
        table(config.folder / f"predictions-seed-{number}.parquet")["predicted size"][:30].astype(float)
        for number in range(6)
    ])  # fmt: skip
    assert found["size"].astype(float) == pytest.approx(each.mean(0), rel=1e-5)
    assert found["size seed_std"].astype(float) == pytest.approx(each.std(0, ddof=1), rel=1e-3, abs=1e-6)


def test_predictions_in_python_are_out_of_fold(crossed):
    config, done = crossed
    model = FinetunedModel(folder=config.folder, result=done)
    columns = model.predictions()
    found = table(config.folder / "out_of_fold.parquet")
    assert columns["row"].tolist() == list(range(1, 31))
    of_row_7 = found["predicted size"][found["row"] == 7].astype(float)
    assert columns["predicted size"][6] == pytest.approx(of_row_7.mean())
    assert columns["size seed_std"][6] == pytest.approx(of_row_7.std(ddof=1))
    with pytest.raises(ConfigError, match="in a cross-validation every row is in each part in turn"):
        model.predictions("train")


def test_after_a_kill_only_the_missing_folds_are_trained(crossed, tmp_path):
    config, done = crossed
    folder = shutil.copytree(config.folder, tmp_path / "again")
    for name in ("results.json", "finetuned.json", "report.md", "out_of_fold.parquet", "seed-4.json", "seed-5.json"):
        (folder / name).unlink()
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("seed-[0-3].*")}
    again = finetune(dataclasses.replace(config, output=folder))
    assert again == done
    assert {name: (folder / name).stat().st_mtime_ns for name in kept} == kept
    assert (folder / "out_of_fold.parquet").read_bytes() == (config.folder / "out_of_fold.parquet").read_bytes()
    assert finetune(dataclasses.replace(config, output=folder)) == done


def test_more_repeats_go_on_and_other_folds_are_refused(crossed, tmp_path):
    config, done = crossed
    folder = shutil.copytree(config.folder, tmp_path / "first")
    for name in ("results.json", "finetuned.json", "seed-3.json", "seed-4.json", "seed-5.json"):
        (folder / name).unlink()
    recorded = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(recorded.replace("\nrepeats: 2\n", "\nrepeats: 1\n"))
    kept = (folder / "seed-1.json").stat().st_mtime_ns
    assert finetune(dataclasses.replace(config, output=folder)) == done
    assert (folder / "seed-1.json").stat().st_mtime_ns == kept
    for change in ({"folds": 4}, {"repeats": 1}, {"seeds": 2}, {"split": "random-kfold"}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            finetune(dataclasses.replace(config, output=folder, **change))


def test_what_was_not_given_is_recorded(crossed):
    config, _ = crossed
    recorded = strict.build(FinetuneConfig, *strict.read_yaml(config.folder / "config.yaml"))
    assert (recorded.seeds, recorded.folds, recorded.repeats) == (1, FOLDS, REPEATS)
    assert (
        FinetuneConfig(data=config.data, size="0.03M", targets=("size",), split="random-kfold").with_choices.folds == 5
    )
    assert FinetuneConfig(data=config.data, size="0.03M", targets=("size",)).num_seeds == 3


def test_labels_of_test_rows_touch_nothing_that_predicts_them(place, settings, tmp_path):
    # Total energies: references of the elements, scaling and training must be of each fold's training rows alone.
    random = np.random.default_rng(0)
    energy = -38.0 * CARBON - 0.5 * np.array([len(text) for text in MOLECULES]) + random.normal(size=30)
    given = {
        "targets": ("energy",), "split": "random-kfold", "folds": 3, "atom_references": ("energy",), "inputs": "2d",
        "train": fitting(epochs=2), "seeds": None,
    }  # fmt: skip
    smiles = [text for text in MOLECULES if not set("SsBF") & set(text) and "Cl" not in text]
    energy = energy[: len(smiles)]
    config = settings(data=write_table(place / "e1.csv", smiles=smiles, energy=energy), **given)
    finetune(config)
    before = table(config.folder / "predictions-seed-1.parquet")
    test = before["split"] == "test"
    assert 5 < test.sum() < 12
    changed = np.where(test, energy + random.normal(0, 100, len(smiles)), energy)
    data = write_table(place / "e2.csv", smiles=smiles, energy=changed)
    other = dataclasses.replace(config, data=data, output=tmp_path / "other")
    finetune(other)
    after = table(other.folder / "predictions-seed-1.parquet")
    assert after["energy"].tolist() != before["energy"].tolist()
    assert after["split"].tolist() == before["split"].tolist()
    assert after["predicted energy"].tolist() == before["predicted energy"].tolist()
    first = [table(one.folder / "predictions-seed-0.parquet")["predicted energy"].tolist() for one in (config, other)]
    assert first[0] != first[1], "the other folds learn from them"
    members = read_config(config.folder).members
    assert len({json.dumps(member.references) for member in members}) == 3
    # A new molecule gets the references of each model.
    asked = write_table(tmp_path / "asked.csv", smiles=smiles)
    predict_file(asked, config.folder, tmp_path / "p.parquet", **PREDICTING, cache=config.cache)
    each = [table(config.folder / f"predictions-seed-{n}.parquet")["predicted energy"].astype(float) for n in range(3)]
    found = table(tmp_path / "p.parquet")["energy"].astype(float)
    assert found == pytest.approx(np.mean(each, axis=0), rel=1e-6)


def test_several_seeds_of_a_fold_are_averaged_in_its_score(settings):
    done = finetune(settings(split="random-kfold", folds=2, seeds=2, inputs="2d", train=fitting(epochs=1)))
    assert [(seed.seed, seed.fold.fold) for seed in done.seeds] == [(0, 1), (1, 1), (2, 2), (3, 2)]
    scores = [seed.test for seed in done.seeds]
    assert done.fold_scores == pytest.approx((np.mean(scores[:2]), np.mean(scores[2:])))
    assert scores[0] != scores[1]
    found = table(settings().output / "out_of_fold.parquet")
    assert len(found["row"]) == 60


def test_baselines_are_fitted_in_every_fold_and_compared_over_all(settings):
    done = finetune(
        settings(split="random-kfold", folds=2, seeds=2, inputs="2d", train=fitting(epochs=1), baselines=True)
    )
    assert [member.seeds for member in done.baselines.members] == [(0, 1), (2, 3)]
    assert done.baselines.test_molecules == 30
    assert done.verdict in (settings().output / "report.md").read_text().replace("**", "")


def test_folds_of_a_column_and_classes(place, settings):
    data = write_table(place / "folds.csv", aromatic=AROMATIC.astype(int), part=[1 + at % 3 for at in range(30)])
    given = {"data": data, "targets": ("aromatic",), "inputs": "2d", "seeds": None, "train": fitting(epochs=1)}
    given["fractions"] = (0.5, 0.4, 0.1)  # both classes in every validation
    done = finetune(settings(**given, split="column-kfold", split_column="part"))
    assert (done.metric, len(done.folds)) == ("roc_auc", 3)
    found = table(settings().output / "out_of_fold.parquet")
    assert all((row - 1) % 3 + 1 == fold for row, fold in zip(found["row"], found["fold"], strict=True))
    assert (settings().output / "roc.png").is_file()
    one_class = write_table(place / "one.csv", aromatic=AROMATIC.astype(int), part=1 + AROMATIC.astype(int))
    config = settings(**{**given, "data": one_class}, split="column-kfold", split_column="part", output=place / "one")
    with pytest.raises(
        ConfigError, match=r"repeat 1, fold 1 of the cross-validation: .* 'aromatic' has only the label 1"
    ):
        finetune(config)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"folds": 5}, "folds applies to split=scaffold-kfold, random-kfold, cluster-kfold, not to split=random"),
        ({"repeats": 2}, "repeats applies to split=scaffold-kfold"),
        ({"split": "random-kfold", "folds": 1}, "folds must be at least 2"),
        ({"split": "random-kfold", "repeats": 0}, "repeats must be at least 1"),
        ({"split": "random-kfold", "split_sizes": (10, 10, None)}, "split_sizes applies to a split that is computed"),
        ({"split": "random-kfold", "split_column": "x"}, "need each other"),
        ({"split": "column-kfold"}, "need each other"),
        ({"split": "column-kfold", "split_column": "x", "folds": 3}, "folds applies to split=scaffold-kfold"),
        ({"split": "time"}, "need each other"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, given, said):
    with pytest.raises(ConfigError, match=said):
        settings(**given)
