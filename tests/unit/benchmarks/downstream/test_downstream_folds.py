"""The benchmark by cross-validation: all starts on the same folds, rates by each fold's validation, raw predictions."""

import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.downstream import gains
from benchmarks.downstream.folds import run_folds
from benchmarks.downstream.folds.fold_report import write_fold_report
from benchmarks.downstream.folds.results_of_set import SetResults, best_by_validation
from benchmarks.downstream.sets import SETS, settings
from tests.helpers.fold_folders import write_folds
from unimol_scale.downstream.comparison.fold_results import read_fold_result
from unimol_scale.downstream.data.splitting.parts import Fold

LABELS = np.random.default_rng(1).normal(size=90)


def with_valid(result, scores):
    """Return a result whose folds have these scores of the validation rows."""
    seeds = [dataclasses.replace(seed, valid=valid) for seed, valid in zip(result.outcome.seeds, scores, strict=True)]
    return dataclasses.replace(result, outcome=dataclasses.replace(result.outcome, seeds=tuple(seeds)))


def test_each_fold_takes_the_rate_that_is_best_on_its_validation_rows(tmp_path):
    fast, slow = (read_fold_result("x", write_folds(tmp_path / str(at), LABELS, 0.5, chance=at)) for at in (0, 1))
    fast, slow = with_valid(fast, [1, 2, 1, 2, 1, 2]), with_valid(slow, [2, 1, 2, 1, 2, 1])
    chosen = best_by_validation("start", {5e-4: fast, 1e-4: slow})
    assert list(chosen.rates.values()) == [5e-4, 1e-4, 5e-4, 1e-4, 5e-4, 1e-4]
    assert list(chosen.rates) == [Fold(repeat=r, fold=f) for r in (1, 2) for f in (1, 2, 3)]
    expected = [(fast if at % 2 == 0 else slow).outcome.seeds[at] for at in range(6)]
    assert chosen.result.outcome.seeds == tuple(expected)
    rows = chosen.result.rows
    for at, seed in enumerate(expected):
        source = (fast if at % 2 == 0 else slow).rows
        here, there = ((each.repeat_T == seed.fold.repeat) & (each.fold_T == seed.fold.fold) for each in (rows, source))
        assert rows.prediction_TL[here].tolist() == source.prediction_TL[there].tolist()
        error = rows.prediction_TL[here] - rows.labels_TL[here]
        assert np.sqrt((error**2).mean()) == pytest.approx(seed.test)


def test_the_report_has_the_comparison_and_the_raw_predictions(tmp_path):
    starts = [
        best_by_validation(name, {5e-4: read_fold_result(name, write_folds(tmp_path / name, LABELS, noise, chance=at))})
        for at, (name, noise) in enumerate((("denoise", 0.2), ("scratch (denoise)", 1.0)))
    ]
    write_fold_report(tmp_path / "folds.md", "command", [SetResults(set="ESOL", fraction=0.25, starts=tuple(starts))])
    report = (tmp_path / "folds.md").read_text()
    assert "## ESOL, 25% of the training labels\n\ndenoise is significantly better than scratch (denoise)" in report
    assert "| **denoise − scratch (denoise)** | -" in report
    assert (tmp_path / "folds" / "ESOL-0.25.png").is_file()
    table = pq.read_table(tmp_path / "folds" / "out_of_fold.parquet").to_pydict()
    assert len(table["row"]) == 2 * 90
    (one,) = json.loads((tmp_path / "folds" / "results.json").read_text())["sets"]
    assert set(one["fold_scores"]) == {"denoise", "scratch (denoise)"}
    here = (np.array(table["repeat"]) == 2) & (np.array(table["fold"]) == 3)
    for start, scores in one["fold_scores"].items():
        error = np.array(table["label"]) - np.array(table[start])
        assert np.sqrt((error[here] ** 2).mean()) == pytest.approx(scores[5], rel=3e-3)
    assert str(tmp_path) not in (tmp_path / "folds" / "results.json").read_text()


def options_of(*more):
    """Return the options of a command line with three starts, two of which have the same dimensions."""
    given = ["--moleculenet", "m", "--qm9", "q", "--start", "a=a1", "--start", "b=a2", "--start", "c=c1"]
    return gains.build_parser().parse_args([*given, *more])


def test_folds_are_settings_of_every_start_and_have_folders_of_their_own(monkeypatch):
    single, crossed = options_of(), options_of("--split", "scaffold-kfold", "--repeats", "3")
    made = [settings(options, "ESOL", "a1", 1.0, reinitialise=False) for options in (single, crossed)]
    assert [(one.split, one.with_choices.folds, one.repeats, one.num_seeds) for one in made] == [
        ("scaffold", None, 1, 3), ("scaffold-kfold", 5, 3, 1),
    ]  # fmt: skip
    assert made[0].folder != made[1].folder


def test_starts_of_the_same_dimensions_share_their_scratch(monkeypatch):
    monkeypatch.setattr(run_folds, "twin", lambda model: model[0])
    starts = dict(text.split("=") for text in options_of().start)
    found = run_folds.with_scratch(starts, wanted=True)
    assert [(one.name, one.model, one.reinitialise, one.scratch) for one in found] == [
        ("a", "a1", False, "scratch (a)"), ("b", "a2", False, "scratch (a)"), ("c", "c1", False, "scratch (c)"),
        ("scratch (a)", "a1", True, ""), ("scratch (c)", "c1", True, ""),
    ]  # fmt: skip
    assert [one.scratch for one in run_folds.with_scratch(starts, wanted=False)] == ["", "", ""]


def test_small_sets_are_dealt_to_folds_twice_unless_an_option_says_otherwise():
    crossed = options_of("--split", "scaffold-kfold", "--pcqm4mv2", "p")
    repeats = {name: settings(crossed, name, "a1", 1.0, reinitialise=False).repeats for name in SETS}
    assert repeats == {
        "ESOL": 2, "FreeSolv": 2, "Lipophilicity": 1, "BACE": 2, "BBBP": 2, "Tox21": 1, "QM9 gap": 1, "PCQM4Mv2 gap": 2,
    }  # fmt: skip
    more = options_of("--split", "scaffold-kfold", "--repeats", "4")
    assert settings(more, "Tox21", "a1", 1.0, reinitialise=False).repeats == 4


def test_sets_without_data_are_left_out_unless_they_are_named(capsys):
    assert "PCQM4Mv2 gap" not in gains.chosen_sets(options_of())
    assert len(gains.chosen_sets(options_of("--pcqm4mv2", "p"))) == 8
    given = ["--moleculenet", "m", "--start", "a=a1", "--set", "QM9 gap"]
    assert gains.main(given) == 2
    assert "--set 'QM9 gap' needs its data: give --qm9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "--start NAME=MODEL is needed"),
        (["--split", "scaffold-kfold"], "--start NAME=MODEL is needed: starts and probes need models"),
        (["--start", "runs/x"], "--start runs/x: give NAME=MODEL"),
        (["--start", "a=b", "--splits", "x"], "need a cross-validation"),
        (["--split", "scaffold-kfold", "--start", "a=b", "--no-scratch", "--external", "x"], "give NAME=DIR"),
    ],
)
def test_what_does_not_fit_together_is_named(given, message, capsys):
    assert gains.main(["--moleculenet", "m", *given]) == 2
    assert message in capsys.readouterr().err
