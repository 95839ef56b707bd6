"""The baselines see what the models see and no more: no test label, no label that is missing, no row that is unused."""

import dataclasses
import sys
import warnings

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.helpers.terminal import Terminal
from tests.unit.downstream.baselines.conftest import ROWS, SPLIT, TREES, rows_of
from unimol_scale.common.command_output import shown_on_stderr
from unimol_scale.downstream.baselines import fitted_baselines, table_models
from unimol_scale.downstream.baselines.baseline_results import TRIVIAL
from unimol_scale.downstream.baselines.fitted_baselines import baseline_columns, fit_baselines, kept_baselines
from unimol_scale.downstream.baselines.table_models import TABLE_MODELS
from unimol_scale.errors import ConfigError

NAMES = [model.name for model in TABLE_MODELS]


def test_test_labels_change_neither_a_fit_nor_the_choice(fitted, labels):
    member, predictions = fitted(labels)
    changed = labels.copy()
    changed[SPLIT.test] = -7.0 * changed[SPLIT.test][::-1]
    other, same = fitted(changed)
    for name in (*NAMES, TRIVIAL):
        np.testing.assert_array_equal(same[name], predictions[name])
    assert other.chosen == member.chosen
    assert other.of(TRIVIAL).valid_by_target == member.of(TRIVIAL).valid_by_target
    assert other.of(TRIVIAL).test_by_target != member.of(TRIVIAL).test_by_target


@pytest.mark.parametrize("best", NAMES)
def test_the_choice_is_of_the_validation_rows_and_validation_labels_are_for_nothing_else(fitted, labels, best):
    _, predictions = fitted(labels)
    changed = labels.copy()
    changed[SPLIT.valid] = predictions[best][SPLIT.valid]
    changed[SPLIT.test] = predictions[next(name for name in NAMES if name != best)][SPLIT.test]
    member, same = fitted(changed)
    assert member.chosen == best
    assert member.of(best).valid_by_target == (pytest.approx(0.0, abs=1e-12),)
    assert member.of(best).test_by_target[0] > 0.0
    for name in NAMES:
        np.testing.assert_array_equal(same[name], predictions[name])


def test_a_terminal_sees_how_many_of_them_are_fitted(fitted, labels, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with shown_on_stderr():
        fitted(labels)
    last = terminal.getvalue().rstrip("\x1b[?25h\n").splitlines()[-1]
    assert "fitting the baselines" in last
    assert "4/4" in last


def test_threads_of_a_fit_that_lose_the_filters_of_warnings_cost_nobody_a_warning(fitted, labels, monkeypatch, recwarn):
    """scikit-learn's threads race for them: now and then a fit leaves none, and each tree of the next one warns."""
    fit = table_models.RandomForestRegressor.fit

    def losing(self, *args, **options):
        fit(self, *args, **options)
        warnings.resetwarnings()

    monkeypatch.setattr(table_models.RandomForestRegressor, "fit", losing)
    before = list(warnings.filters)
    fitted(labels)
    assert warnings.filters == before
    assert not recwarn.list


def test_scores_are_those_of_the_predictions(fitted, labels):
    member, predictions = fitted(labels)
    for name in (*NAMES, TRIVIAL):
        for part in ("valid", "test"):
            rows = getattr(SPLIT, part)
            error = np.sqrt(np.mean((predictions[name] - labels)[rows] ** 2))
            assert getattr(member.of(name), f"{part}_by_target") == (pytest.approx(error),)
    assert np.isnan(predictions["rdkit_forest"][SPLIT.train]).all()
    assert predictions[TRIVIAL][SPLIT.test] == pytest.approx(labels[SPLIT.train].mean())
    assert member.of("rdkit_boosting").test_by_target[0] < 0.7 * member.of(TRIVIAL).test_by_target[0]


@pytest.mark.parametrize(("task", "metric"), [("regression", "rmse"), ("multilabel", "roc_auc")])
def test_each_target_is_fitted_to_the_rows_that_have_it(fitted, labels, task, metric):
    one = labels if task == "regression" else (labels > 5.0).astype(np.float64)
    both = np.concatenate([one, one[::-1]], axis=1)
    both[::3, 0] = np.nan
    _, predictions = fitted(both, task, metric)
    known = np.setdiff1d(SPLIT.train, np.arange(0, ROWS, 3))
    alone = dataclasses.replace(SPLIT, train=known)
    _, expected = fitted(np.nan_to_num(both[:, :1]), task, metric, split=alone)
    for name in (*NAMES, TRIVIAL):
        np.testing.assert_array_equal(predictions[name][:, :1], expected[name], err_msg=name)
    if task == "multilabel":
        judged = predictions["ecfp_forest"][SPLIT.test]
        assert ((judged >= 0.0) & (judged <= 1.0)).all()


def test_a_class_that_training_does_not_have_is_never_predicted(fitted, labels):
    classes = np.concatenate([(labels > 5.0), np.zeros_like(labels)], axis=1).astype(np.float64)
    classes[SPLIT.test[:5], 1] = 1.0
    member, predictions = fitted(classes, "multilabel", "roc_auc")
    assert (predictions["ecfp_boosting"][SPLIT.test, 1] == 0.0).all()
    assert member.of("ecfp_boosting").test_by_target[1] == 0.5
    assert member.of("ecfp_boosting").valid_by_target[1] is None


def test_errors_of_several_targets_count_alike_in_the_choice_whatever_their_units(fitted, labels):
    _, predictions = fitted(labels)
    valid = SPLIT.valid
    both = np.concatenate([labels, labels[::-1] * 1000.0], axis=1)
    both[valid, 0] = predictions["ecfp_forest"][valid, 0]
    member, _ = fitted(both)
    small = np.concatenate([labels, labels[::-1] / 1000.0], axis=1)
    small[valid, 0] = predictions["ecfp_forest"][valid, 0]
    assert fitted(small)[0].chosen == member.chosen


def test_descriptors_that_are_not_known_are_no_numbers_to_a_model(features, fitted, labels):
    rdkit = features.rdkit.copy()
    rdkit[::4, 1] = np.nan  # of some rows
    rdkit[:, 2] = np.nan  # of none
    rdkit[SPLIT.train, 3] = np.nan  # of test rows alone
    rdkit[:, 4] = 1.0
    member, predictions = fitted(labels, features=dataclasses.replace(features, rdkit=rdkit))
    for name in NAMES:
        assert np.isfinite(predictions[name][SPLIT.test]).all()
    assert member.of("rdkit_forest").test_by_target[0] < 0.7 * member.of(TRIVIAL).test_by_target[0]
    rdkit[:] = np.nan
    _, predictions = fitted(labels, features=dataclasses.replace(features, rdkit=rdkit))
    assert predictions["rdkit_forest"][SPLIT.test] == pytest.approx(labels[SPLIT.train].mean())


def test_rows_that_rdkit_cannot_read_are_left_out_and_counted(features, fitted, labels):
    readable = np.ones(ROWS, bool)
    readable[[3, 80, 100]] = False
    changed = labels.copy()
    changed[[3, 80, 100]] = 1e6
    member, predictions = fitted(changed, features=dataclasses.replace(features, readable=readable))
    assert member.unreadable == 3
    assert np.isnan(predictions["rdkit_forest"][100]).all()
    assert np.isnan(predictions[TRIVIAL][100]).all()
    assert member.of(TRIVIAL).test_by_target[0] < 100.0
    assert predictions[TRIVIAL][101, 0] < 100.0


def test_beyond_a_limit_of_rows_a_model_sees_a_choice_of_them_which_is_recorded(fitted, labels, monkeypatch):
    limited = tuple(dataclasses.replace(model, most_rows=100 if model.forest else 69) for model in TABLE_MODELS)
    seen = {}
    fit = fitted_baselines.fit_and_predict

    def watched(model, task, train, *more):
        seen[model.name] = len(train[1])
        return fit(model, task, train, *more)

    monkeypatch.setattr(fitted_baselines, "TABLE_MODELS", limited)
    monkeypatch.setattr(table_models, "_LEAST_ROWS", 10)
    monkeypatch.setattr(fitted_baselines, "fit_and_predict", watched)
    member, _ = fitted(labels)
    assert seen == {"ecfp_forest": 70, "ecfp_boosting": 69, "rdkit_forest": 70, "rdkit_boosting": 69}
    assert member.limits == {"ecfp_boosting": 69, "rdkit_boosting": 69}
    assert member.train_rows == 70
    assert limited[0].rows_for(24) == 50, "of many targets, each gets fewer"


def test_the_cores_do_not_change_a_bit(features, labels, monkeypatch):
    found = []
    for cores in (1, 2):
        monkeypatch.setattr(table_models, "cores", lambda cores=cores: cores)
        found.append(fit_baselines(rows_of(labels), features, (0,), TREES)[1])
    for name in NAMES:
        np.testing.assert_array_equal(found[0][name], found[1][name])


def test_predictions_are_kept_in_the_units_of_the_data_and_read_again(features, labels, tmp_path, few_trees):
    reference = np.linspace(-400.0, -300.0, ROWS)[:, None]
    reference[0] = np.nan  # of a row in no part
    split = dataclasses.replace(SPLIT, train=SPLIT.train[1:])
    rows = rows_of(labels, reference_ML=reference, split=split)
    calls = []
    member, predictions = kept_baselines(tmp_path, rows, lambda: calls.append(1) or features, (3, 4))
    table = pq.read_table(tmp_path / "baselines-seed-3.parquet")
    assert table.column_names == ["row", "smiles", "split", "t0", *baseline_columns(["t0"])]
    assert table["row"].to_pylist() == [*range(71, ROWS + 1)]
    assert table["split"].to_pylist() == ["valid"] * 25 + ["test"] * 25
    np.testing.assert_allclose(table["t0"].to_numpy(), (labels + reference)[70:, 0])
    found = table["rdkit_forest predicted t0"].to_numpy()
    np.testing.assert_allclose(found, (predictions["rdkit_forest"] + reference)[70:, 0])
    again, same = kept_baselines(tmp_path, rows, lambda: calls.append(1) or features, (3, 4, 5))
    assert calls == [1]
    assert again == dataclasses.replace(member, seeds=(3, 4, 5))
    for name in (*NAMES, TRIVIAL):
        np.testing.assert_allclose(same[name], predictions[name], rtol=1e-9)


@pytest.mark.parametrize("change", ["labels", "rows", "metric"])
def test_what_was_fitted_to_other_rows_is_not_taken(features, labels, tmp_path, few_trees, change):
    kept_baselines(tmp_path, rows_of(labels), lambda: features, (0,))
    other = {
        "labels": rows_of(labels + 1.0),
        "rows": rows_of(labels, split=dataclasses.replace(SPLIT, train=SPLIT.train[:-1])),
        "metric": rows_of(labels, metric="mae"),
    }[change]
    asked = []
    kept_baselines(tmp_path, other, lambda: asked.append(1) or features, (0,))
    assert asked == [1]


def test_a_damaged_file_is_named(features, labels, tmp_path, few_trees):
    kept_baselines(tmp_path, rows_of(labels), lambda: features, (0,))
    (tmp_path / "baselines-seed-0.json").write_text("{")
    with pytest.raises(ConfigError, match=r"baselines-seed-0.json is damaged: it .*; remove it"):
        kept_baselines(tmp_path, rows_of(labels), lambda: features, (0,))
