"""The benchmark by cross-validation: all starts on the same folds, rates by each fold's validation, raw predictions."""

import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.downstream import gains
from benchmarks.downstream.fold_report import ComparedStarts, best_by_validation, write_fold_report
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
    write_fold_report(tmp_path / "folds.md", "command", [ComparedStarts.of("ESOL", 0.25, starts)])
    report = (tmp_path / "folds.md").read_text()
    assert "## ESOL, 25% of the training labels\n\ndenoise is better than scratch (denoise), and that is sure" in report
    assert "| **denoise − scratch (denoise)** | -" in report
    assert (tmp_path / "folds" / "ESOL-0.25.png").is_file()
    table = pq.read_table(tmp_path / "folds" / "out_of_fold.parquet").to_pydict()
    assert len(table["row"]) == 2 * 2 * 90
    assert set(table["start"]) == {"denoise", "scratch (denoise)"}
    (one,) = json.loads((tmp_path / "folds" / "results.json").read_text())["sets"]
    error = np.array(table["label"]) - np.array(table["prediction"])
    for start, scores in one["fold_scores"].items():
        here = (np.array(table["start"]) == start) & (np.array(table["repeat"]) == 2) & (np.array(table["fold"]) == 3)
        assert np.sqrt((error[here] ** 2).mean()) == pytest.approx(scores[5])
    assert str(tmp_path) not in (tmp_path / "folds" / "results.json").read_text()


def test_folds_are_settings_of_every_start_and_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(gains, "twin", lambda model: model[0])
    given = ["--moleculenet", "m", "--qm9", "q", "--start", "a=a1", "--start", "b=a2", "--start", "c=c1"]
    single = gains.build_parser().parse_args(given)
    crossed = gains.build_parser().parse_args([*given, "--split", "scaffold-kfold", "--repeats", "3"])
    made = [gains.settings(options, "ESOL", "a1", 1.0, reinitialise=False) for options in (single, crossed)]
    assert [(one.split, one.with_counts.folds, one.repeats, one.num_seeds) for one in made] == [
        ("scaffold", None, 1, 3), ("scaffold-kfold", 5, 3, 1),
    ]  # fmt: skip
    assert made[0].folder != made[1].folder
    starts = dict(text.split("=") for text in crossed.start)
    assert gains.with_scratch(starts, wanted=True) == [
        ("a", "a1", False), ("b", "a2", False), ("c", "c1", False), ("scratch (a)", "a1", True),
        ("scratch (c)", "c1", True),
    ]  # fmt: skip
    assert len(gains.with_scratch(starts, wanted=False)) == 3
