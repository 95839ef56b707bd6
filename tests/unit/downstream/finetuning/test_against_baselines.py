"""A fine-tuning beside what needs no pretraining: what its report says first, and that nothing is fitted twice."""

import dataclasses
import functools
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from tests.helpers.tiny_finetuning import write_table
from unimol_scale.downstream.baselines import fitted_baselines
from unimol_scale.downstream.baselines.verdict_words import short_verdict
from unimol_scale.downstream.config import FinetuneConfig, FinetuneTrainConfig
from unimol_scale.downstream.finetuning import one_seed, results
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.errors import ConfigError

SMILES = [f"{'C' * length}{end}" for length in range(1, 16) for end in ("O", "N", "F", "Cl", "S")]
CARBONS = np.array([text.count("C") - text.count("Cl") for text in SMILES], np.float64)
STILL = FinetuneTrainConfig(learning_rate=1e-12, epochs=1, weight_decay=0.0, dropout=0.0)  # learns nothing


@pytest.fixture(scope="module", autouse=True)
def few_trees():
    """Fit forests of 25 trees in place of 500: nothing here depends on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitted_baselines, "fit_baselines", functools.partial(fitted_baselines.fit_baselines, trees=25))
        yield


@pytest.fixture(scope="module")
def lost(place):
    """A finished fine-tuning of a model that has learnt nothing, of labels that descriptors tell."""
    classes = (CARBONS > 7.0).astype(int)
    columns = {"size": CARBONS, "long": classes, "heavy": 1000.0 * CARBONS[::-1], "energy": CARBONS**2 - 40.0 * CARBONS}
    path = write_table(place / "chains.csv", smiles=SMILES, **columns)
    config = FinetuneConfig(
        data=path, pretrained=str(place / "pretrained"), targets=("size",), units={"size": "atoms"}, split="random",
        fractions=(0.5, 0.2, 0.3), seeds=2, inputs="2d", output=place / "lost", cache=place / "cache",
        conformer_workers=1, device="cpu", train=STILL,
    )  # fmt: skip
    return config, finetune(config)


@pytest.fixture
def copied(lost, tmp_path):
    """Copy the finished fine-tuning; return its settings there, what it was, and a list of what is fitted from now."""
    config, done = lost
    shutil.copytree(config.output, tmp_path / "ft")
    return dataclasses.replace(config, output=tmp_path / "ft"), done


@pytest.fixture
def fits(monkeypatch):
    """Watch what is fitted: "model" or "baselines"."""
    found = []
    fit, fit_baselines = one_seed.fit, fitted_baselines.fit_baselines
    monkeypatch.setattr(one_seed, "fit", lambda *a, **k: found.append("model") or fit(*a, **k))
    monkeypatch.setattr(
        fitted_baselines, "fit_baselines", lambda *a, **k: found.append("baselines") or fit_baselines(*a, **k)
    )
    return found


def test_the_report_leads_with_a_baseline_that_is_better(lost):
    config, done = lost
    lines = (config.output / "report.md").read_text().splitlines()
    found = done.baselines
    assert found.best.verdict == "worse"
    assert lines[3].startswith(f"- **Against what:** {done.verdict} The best baseline (")
    assert "The model is significantly worse than the best baseline" in lines[3]
    assert "not even significantly better than predicting the mean of the training labels" in lines[3]
    assert (
        f"has RMSE {found.mean(None):.4g}, predicting the mean of the training labels {done.trivial[0]:.4g}."
        in lines[3]
    )
    table = [line for line in lines if line.startswith("| ")][:8]
    assert table[0] == (
        "| predictor | valid rmse (atoms) | test rmse (atoms) | model's RMSE ÷ this RMSE, 95 % interval |"
    )
    assert f"| {done.mean:.4g} ± " in table[2]
    assert f"| {found.mean(None):.4g} | {found.best.value:.3g} (" in table[3]
    assert table[3].endswith(": model significantly worse |")
    assert len({line.split("|")[1] for line in table[2:]}) == 6
    assert found.best.value == pytest.approx(done.mean / found.mean(None))
    assert found.mean("trivial") == pytest.approx(done.trivial[0])
    assert results.read(config.output) == done


def test_the_predictions_of_the_baselines_are_beside_those_of_the_models(lost):
    config, done = lost
    own = pq.read_table(config.output / "predictions-seed-0.parquet").to_pydict()
    theirs = pq.read_table(config.output / "baselines-seed-0.parquet").to_pydict()
    at = [row - 1 for row in theirs["row"]]
    for name in ("smiles", "split", "size"):
        assert theirs[name] == [own[name][row] for row in at]
    test = np.array(theirs["split"]) == "test"
    for name in ("ecfp_forest", "ecfp_boosting", "rdkit_forest", "rdkit_boosting", "trivial"):
        error = np.array(theirs[f"{name} predicted size"])[test] - np.array(theirs["size"])[test]
        assert done.baselines.mean(name) == pytest.approx(np.sqrt(np.mean(error**2)))
    assert (test.sum(), len(test)) == (done.split_sizes["test"], done.split_sizes["test"] + done.split_sizes["valid"])


def test_a_finished_one_is_read_and_after_a_kill_nothing_is_fitted_again(copied, fits):
    config, done = copied
    assert finetune(config) == done
    (config.output / "results.json").unlink()
    (config.output / "report.md").unlink()
    assert finetune(config) == done
    assert fits == []
    (config.output / "results.json").unlink()
    (config.output / "baselines-seed-0.json").unlink()
    assert finetune(config) == done
    assert fits == ["baselines"]


def test_another_seed_shares_the_baselines_of_its_rows(copied, fits):
    config, done = copied
    more = finetune(dataclasses.replace(config, seeds=3))
    assert fits == ["model"]
    (member,) = more.baselines.members
    assert member.seeds == (0, 1, 2)
    assert member.scores == done.baselines.members[0].scores


def test_turned_off_there_are_none_and_they_can_be_added(copied, fits, tmp_path):
    config, done = copied
    for name in ("results.json", "baselines-seed-0.json", "baselines-seed-0.parquet"):
        (config.output / name).unlink()
    without = finetune(dataclasses.replace(config, baselines=False))
    assert (without.baselines, without.verdict, fits) == (None, "", [])
    assert not list(config.output.glob("baselines*"))
    assert "baseline" not in (config.output / "report.md").read_text()
    assert finetune(config) == done
    assert fits == ["baselines"]
    assert finetune(dataclasses.replace(config, baselines=False)) == done, "what is there is read"


def test_a_folder_of_before_is_read_as_it_is_and_an_unfinished_one_goes_on(copied, fits):
    config, done = copied
    for path in config.output.glob("baselines*"):
        path.unlink()
    tree = json.loads((config.output / "results.json").read_text())
    del tree["baselines"]
    (config.output / "results.json").write_text(json.dumps(tree))
    settings = yaml.safe_load((config.output / "config.yaml").read_text())
    del settings["baselines"]
    (config.output / "config.yaml").write_text(yaml.safe_dump(settings))
    assert finetune(config) == dataclasses.replace(done, baselines=None)
    assert fits == []
    (config.output / "results.json").unlink()
    assert finetune(config) == done
    assert fits == ["baselines"]


def test_several_targets_in_different_units_are_judged_one_by_one_and_together(lost, tmp_path):
    config, _ = lost
    done = finetune(
        dataclasses.replace(
            config, targets=("size", "heavy"), units={"size": "atoms", "heavy": "g/mol"}, output=tmp_path / "ft",
            label_fraction=0.8,
        )
    )  # fmt: skip
    found = done.baselines
    assert not done.has_mean
    assert found.members[0].train_rows == done.split_sizes["train"], "no more rows than the model"
    own = np.mean([done.standardised(seed) for seed in done.seeds])
    assert found.best.value == pytest.approx(own / found.mean(None, standardised=True))
    report = (tmp_path / "ft" / "report.md").read_text()
    assert f"Target by target, against the best baseline: {2} significantly worse." in report
    assert f"| this model | {np.mean([s.valid_scores[s.best_epoch - 1] for s in done.seeds]):.4g} ± " in report
    assert f"| heavy | g/mol | {done.target_mean(1):.4g} ± " in report
    assert f" | {found.target_mean(1):.4g} | model significantly worse | " in report


def test_classes_are_compared_by_their_metric(lost, tmp_path):
    config, _ = lost
    done = finetune(dataclasses.replace(config, targets=("long",), units={}, seeds=1, output=tmp_path / "ft"))
    found = done.baselines
    assert not found.best.is_ratio
    assert found.best.value == pytest.approx(done.mean - found.mean(None))
    assert "ROC-AUC difference" in done.verdict
    assert "the share of ones" in done.verdict or found.trivial.verdict == "better"


def test_energies_of_the_elements_are_taken_off_for_both_and_put_back(lost, tmp_path):
    config, _ = lost
    energies = {"targets": ("energy",), "units": {}, "atom_references": ("energy",)}
    done = finetune(dataclasses.replace(config, **energies, seeds=1, output=tmp_path / "ft"))
    table = pq.read_table(tmp_path / "ft" / "baselines-seed-0.parquet").to_pydict()
    test = np.array(table["split"]) == "test"
    error = (np.array(table["rdkit_forest predicted energy"]) - np.array(table["energy"]))[test]
    assert done.baselines.mean("rdkit_forest") == pytest.approx(np.sqrt(np.mean(error**2)))
    assert done.baselines.mean("rdkit_forest") < 0.5 * done.trivial[0] < 0.1 * np.std(table["energy"])
    assert done.baselines.best.value == pytest.approx(done.mean / done.baselines.mean(None))


def test_a_target_may_not_be_named_as_a_column_of_their_predictions(place, settings):
    data = write_table(place / "named.csv", **{"y": range(30), "ecfp_forest predicted y": range(30)})
    named = {"data": data, "targets": ("y", "ecfp_forest predicted y")}
    with pytest.raises(ConfigError, match="the target 'ecfp_forest predicted y' has the name of a column"):
        finetune(settings(**named, baselines=True))


def test_the_terminal_gets_one_short_line(lost):
    _, done = lost
    line = short_verdict(done.baselines, done.metric)
    assert line.startswith("the model is significantly worse than the best baseline, ")
    assert len(line) < 140
