"""The baselines of the cross-validation: fitted once on the folds of the starts, chosen on validation, and kept."""

import functools

import numpy as np
import pytest

from benchmarks.downstream.folds.fold_baselines import BEST, fit_fold_baselines, kept_fold_baselines
from unimol_scale.downstream.baselines import fitted_baselines
from unimol_scale.downstream.comparison.fold_results import check_alike


@pytest.fixture
def fits(monkeypatch):
    """Fit small forests, and return the list of fits."""
    calls = []
    few = functools.partial(fitted_baselines.fit_baselines, trees=10)
    monkeypatch.setattr(fitted_baselines, "fit_baselines", lambda rows, *a: calls.append(rows) or few(rows, *a))
    return calls


def test_the_best_of_each_fold_is_chosen_by_its_validation_rows(set_rows, tmp_path, fits):
    rows = set_rows("chance")
    best, *each = fit_fold_baselines(tmp_path / "b", rows.at(1.0), lambda: rows.features)
    assert best.name == BEST
    assert len(each) == 4
    for at, seed in enumerate(best.outcome.seeds):
        chosen = min(each, key=lambda one: one.outcome.seeds[at].valid)
        assert (seed.valid, seed.test) == (chosen.outcome.seeds[at].valid, chosen.outcome.seeds[at].test)
    assert len(fits) == 6


def test_what_is_finished_is_not_fitted_again_and_a_share_of_the_labels_is_fitted_anew(set_rows, tmp_path, fits):
    rows = set_rows()
    first = fit_fold_baselines(tmp_path / "b", rows.at(1.0), lambda: rows.features)
    (tmp_path / "b" / "best" / "results.json").unlink()
    (tmp_path / "b" / "baselines-seed-5.json").unlink()
    assert kept_fold_baselines(tmp_path / "b", folds=6) is None
    again = fit_fold_baselines(tmp_path / "b", rows.at(1.0), lambda: rows.features)
    assert len(fits) == 7
    kept = kept_fold_baselines(tmp_path / "b", folds=6)
    for one, other, read in zip(first, again, kept, strict=True):
        np.testing.assert_array_equal(one.rows.prediction_TL, other.rows.prediction_TL)
        np.testing.assert_array_equal(one.rows.prediction_TL, read.rows.prediction_TL)
        assert one.scores_J.tolist() == read.scores_J.tolist()
    assert kept_fold_baselines(tmp_path / "b", folds=9) is None
    fit_fold_baselines(tmp_path / "half", rows.at(0.5), lambda: rows.features)
    small, whole = fits[7:], fits[:6]
    for half, full in zip(small, whole, strict=True):
        assert set(half.split.train) < set(full.split.train)
        assert len(half.split.train) == round(len(full.split.train) / 2)
        np.testing.assert_array_equal(half.split.test, full.split.test)


def test_several_targets_with_missing_labels_are_judged_by_their_mean(set_rows, tmp_path, fits):
    rows = set_rows("classes")
    best, *each = fit_fold_baselines(tmp_path / "b", rows.at(1.0), lambda: rows.features)
    check_alike((best, *each))
    seed = best.outcome.seeds[0]
    assert seed.test == pytest.approx(np.mean([score for score in seed.test_by_target if score is not None]))
    assert best.outcome.task == "multilabel"
