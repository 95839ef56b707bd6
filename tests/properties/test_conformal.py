"""Conformal intervals and sets: coverage on exchangeable data, monotone in the level, whatever the order of rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import betabinom

from unimol_scale.downstream.uncertainty.conformal import (
    conformal_intervals,
    conformal_quantile,
    conformal_sets,
    quantile_rank,
    rows_needed,
)
from unimol_scale.downstream.uncertainty.rules import check_coverage
from unimol_scale.errors import ConfigError

COVERAGES = (0.5, 0.8, 0.9, 0.95)


@pytest.mark.parametrize("coverage", COVERAGES)
def test_split_intervals_hold_as_many_labels_as_they_promise(coverage):
    """Of n exchangeable rows the coverage is rank/(n + 1), between 1 − α and 1 − α + 1/(n + 1)."""
    random = np.random.default_rng(0)
    held = []
    for _ in range(400):
        score_N, new_R = random.gamma(2.0, size=37), random.gamma(2.0, size=50)
        low_R, high_R = conformal_intervals(np.zeros((1, 50)), score_N, np.zeros(37, np.int64), coverage)
        np.testing.assert_array_equal(-low_R, high_R)
        held.append((new_R <= high_R).sum())
    expected = quantile_rank(37, coverage) / 38
    assert coverage - 1e-12 <= expected < coverage + 1 / 38
    # Four standard errors of the mean: the count of one draw is beta-binomial.
    rank = quantile_rank(37, coverage)
    error = betabinom(50, rank, 38 - rank).std() / 50 / np.sqrt(400)
    assert np.mean(held) / 50 == pytest.approx(expected, abs=4 * error)


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_cross_validation_intervals_hold_as_many_labels_as_they_promise(coverage):
    """CV+ with fold means as models: about 1 − α, and never below 1 − 2α."""
    random = np.random.default_rng(1)
    held = []
    for _ in range(200):
        label_N, new_R = random.normal(size=60), random.normal(size=40)
        group_N = np.arange(60) % 5
        value_G = np.array([label_N[group_N != group].mean() for group in range(5)])
        score_N = np.abs(label_N - value_G[group_N])
        low_R, high_R = conformal_intervals(np.repeat(value_G[:, None], 40, axis=1), score_N, group_N, coverage)
        held.append(np.mean((low_R <= new_R) & (new_R <= high_R)))
    assert coverage - 0.02 < np.mean(held) < coverage + 0.04


def test_normalised_intervals_are_wide_where_the_scale_is_large():
    random = np.random.default_rng(2)
    scale_R = random.uniform(0.1, 3.0, 20_000)
    score_N = np.abs(random.normal(size=500))  # residuals over their scales
    low_R, high_R = conformal_intervals(np.zeros((1, 20_000)), score_N, np.zeros(500, np.int64), 0.9, scale_R)
    new_R = scale_R * random.normal(size=20_000)
    for part in (scale_R < 1.0, scale_R > 2.0):
        held = (low_R[part] <= new_R[part]) & (new_R[part] <= high_R[part])
        assert held.mean() == pytest.approx(0.9, abs=0.05)
    np.testing.assert_allclose((high_R - low_R) / scale_R, (high_R - low_R)[0] / scale_R[0])


@given(
    scores=st.lists(st.floats(0.0, 10.0), min_size=12, max_size=40),
    folds=st.integers(1, 4),
    seed=st.integers(0, 100),
    levels=st.tuples(st.sampled_from(COVERAGES[:3]), st.sampled_from(COVERAGES[:3])),
)
@settings(max_examples=60)
def test_intervals_grow_with_the_level_and_forget_the_order(scores, folds, seed, levels):
    random = np.random.default_rng(seed)
    score_N, value_GR = np.array(scores), random.normal(size=(folds, 6))
    group_N = random.integers(0, folds, len(scores))
    low_R, high_R = conformal_intervals(value_GR, score_N, group_N, min(levels))
    lower_R, higher_R = conformal_intervals(value_GR, score_N, group_N, max(levels))
    assert (lower_R <= low_R).all()
    assert (high_R <= higher_R).all()
    assert (low_R <= high_R).all()
    order = random.permutation(len(scores))
    again = conformal_intervals(value_GR, score_N[order], group_N[order], min(levels))
    np.testing.assert_array_equal(again, (low_R, high_R))


def test_models_that_agree_give_the_intervals_of_one_split():
    random = np.random.default_rng(3)
    value_R, score_N, group_N = random.normal(size=8), random.gamma(2.0, size=50), random.integers(0, 4, 50)
    one = conformal_intervals(value_R[None], score_N, np.zeros(50, np.int64), 0.9)
    several = conformal_intervals(np.repeat(value_R[None], 4, axis=0), score_N, group_N, 0.9)
    np.testing.assert_allclose(several, one)


@pytest.mark.parametrize(("coverage", "needed"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_there_is_no_interval_with_a_row_too_few(coverage, needed):
    assert rows_needed(coverage) == needed
    assert np.isinf(conformal_quantile(np.ones(needed - 1), coverage))
    assert conformal_quantile(np.ones(needed), coverage) == 1.0
    for groups in (1, 2):
        few_N = np.arange(needed - 1) % groups
        low_R, high_R = conformal_intervals(np.zeros((groups, 3)), np.ones(needed - 1), few_N, coverage)
        assert np.isinf([low_R, high_R]).all()


@pytest.mark.parametrize("coverage", [0.49, 1.0, float("nan"), 90.0])
def test_a_coverage_that_is_none_is_refused(coverage):
    with pytest.raises(ConfigError, match="coverage must be at least"):
        check_coverage(coverage)


def classes(random, rows, positive):
    """Return classes, and probabilities of class 1 of a model that is too sure of itself and biased to class 0."""
    class_N = (random.random(rows) < positive).astype(np.int64)
    logit_N = 2.0 * class_N - 3.0 + 1.5 * random.normal(size=rows)
    return class_N, 1.0 / (1.0 + np.exp(-3.0 * logit_N))


@pytest.mark.parametrize("folds", [1, 3])
def test_sets_hold_the_true_class_of_either_class_as_often_as_promised(folds):
    random = np.random.default_rng(4)
    held = {0: [], 1: []}
    for _ in range(150):
        class_N, positive_N = classes(random, 200, 0.2)
        group_N = random.integers(0, folds, 200)
        class_R, positive_R = classes(random, 200, 0.2)
        score_N = np.where(class_N == 1, 1.0 - positive_N, positive_N)
        probability_RC = np.stack([1.0 - positive_R, positive_R], axis=1)
        in_set_RC = conformal_sets(np.repeat(probability_RC[None], folds, 0), score_N, class_N, group_N, 0.9)
        for label in (0, 1):
            held[label].append(in_set_RC[class_R == label, label].mean())
    for label in (0, 1):
        assert np.mean(held[label]) == pytest.approx(0.9, abs=0.02 + 1 / 40)


@given(seed=st.integers(0, 200), levels=st.tuples(st.sampled_from(COVERAGES), st.sampled_from(COVERAGES)))
@settings(max_examples=40)
def test_sets_grow_with_the_level_and_forget_the_order(seed, levels):
    random = np.random.default_rng(seed)
    class_N, positive_N = classes(random, 80, 0.4)
    group_N, score_N = random.integers(0, 2, 80), np.where(class_N == 1, 1.0 - positive_N, positive_N)
    probability_GRC = random.dirichlet([1.0, 1.0], size=(2, 10))
    few = conformal_sets(probability_GRC, score_N, class_N, group_N, min(levels))
    many = conformal_sets(probability_GRC, score_N, class_N, group_N, max(levels))
    assert (few <= many).all()
    order = random.permutation(80)
    again = conformal_sets(probability_GRC, score_N[order], class_N[order], group_N[order], min(levels))
    np.testing.assert_array_equal(again, few)


def test_a_set_of_one_split_is_cut_at_the_quantile_of_its_class():
    """LAC: class c is credible where 1 − p is at most the conformal quantile of the rows of class c."""
    random = np.random.default_rng(5)
    class_N, positive_N = classes(random, 300, 0.3)
    score_N = np.where(class_N == 1, 1.0 - positive_N, positive_N)
    probability_RC = random.dirichlet([1.0, 1.0], size=40)
    in_set_RC = conformal_sets(probability_RC[None], score_N, class_N, np.zeros(300, np.int64), 0.8)
    for label in (0, 1):
        cut = conformal_quantile(score_N[class_N == label], 0.8)
        np.testing.assert_array_equal(in_set_RC[:, label], 1.0 - probability_RC[:, label] <= cut)


def test_a_class_with_too_few_rows_is_in_every_set():
    score_N, class_N = np.linspace(0.0, 0.1, 30), np.array([0] * 25 + [1] * 5)
    probability_RC = np.array([[1.0, 0.0], [0.0, 1.0]])
    in_set_RC = conformal_sets(probability_RC[None], score_N, class_N, np.zeros(30, np.int64), 0.9)
    assert in_set_RC.tolist() == [[True, True], [False, True]]
