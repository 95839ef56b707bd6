"""Intervals and tests over folds: against textbook formulas, and against simulated folds that share their luck."""

import math

import numpy as np
import pytest
from scipy import stats

from unimol_scale.downstream.fold_statistics import compare_methods, corrected_interval

RATIO = 0.25  # of five folds


def scores(seed=0, methods=3, blocks=10):
    random = np.random.default_rng(seed)
    return random.normal(size=(methods, 1)) + random.normal(size=blocks) + 0.3 * random.normal(size=(methods, blocks))


def test_of_two_methods_the_interval_is_that_of_the_corrected_t_test():
    scores_AJ = scores(methods=2)
    (pair,) = compare_methods(scores_AJ, RATIO).pairs
    each_J = scores_AJ[0] - scores_AJ[1]
    error = math.sqrt((1 / 10 + RATIO) * each_J.var(ddof=1))
    half = stats.t.ppf(0.975, 9) * error
    assert pair.value == pytest.approx(each_J.mean())
    assert (pair.interval.low, pair.interval.high) == pytest.approx((each_J.mean() - half, each_J.mean() + half))
    assert pair.p == pytest.approx(2 * stats.t.sf(abs(each_J.mean()) / error, 9), rel=1e-6)
    assert pair.effect == pytest.approx(each_J.mean() / each_J.std(ddof=1))
    assert (pair.blocks_higher, pair.blocks_lower) == ((each_J > 0).sum(), (each_J < 0).sum())
    plain = stats.ttest_rel(*scores_AJ)
    assert pair.uncorrected_p == pytest.approx(plain.pvalue, rel=1e-6)
    assert (pair.uncorrected.low, pair.uncorrected.high) == pytest.approx(tuple(plain.confidence_interval()))


def test_of_several_methods_they_are_the_repeated_measures_analysis_and_tukeys_intervals():
    scores_AJ = scores(methods=4, blocks=6)
    found = compare_methods(scores_AJ, RATIO)
    method, block = np.indices(scores_AJ.shape).reshape(2, -1)
    columns = [np.ones(24), *(method == at for at in range(1, 4)), *(block == at for at in range(1, 6))]
    full, without = np.stack(columns, 1).astype(float), np.stack([columns[0], *columns[4:]], 1).astype(float)

    def left(design):
        values = scores_AJ.ravel()
        return float(((values - design @ np.linalg.lstsq(design, values)[0]) ** 2).sum())

    residual = left(full) / 15
    f = (left(without) - left(full)) / 3 / residual
    assert found.uncorrected_f == pytest.approx(f)
    assert found.uncorrected_p == pytest.approx(stats.f.sf(f, 3, 15))
    assert found.f == pytest.approx(f * (1 / 6) / (1 / 6 + RATIO))
    critical = stats.studentized_range.ppf(0.95, 4, 15)
    assert [(pair.first, pair.second) for pair in found.pairs] == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    for pair in found.pairs:
        value = scores_AJ[pair.first].mean() - scores_AJ[pair.second].mean()
        plain, corrected = critical * math.sqrt(residual / 6), critical * math.sqrt(residual * (1 / 6 + RATIO))
        assert (pair.uncorrected.low, pair.uncorrected.high) == pytest.approx((value - plain, value + plain))
        assert (pair.interval.low, pair.interval.high) == pytest.approx((value - corrected, value + corrected))
        assert (pair.p < 0.05) is not pair.interval.holds(0.0)


def test_the_corrected_interval_covers_where_folds_share_their_luck_and_the_plain_one_does_not():
    # What Nadeau and Bengio assume: scores with the correlation n_test / (n_test + n_train).
    random = np.random.default_rng(0)
    shared = RATIO / (1 + RATIO)
    draws = math.sqrt(shared) * random.normal(size=(2000, 1)) + math.sqrt(1 - shared) * random.normal(size=(2000, 25))
    covered = np.mean([corrected_interval(each, RATIO).holds(0.0) for each in draws])
    plain = np.mean([corrected_interval(each, 0.0).holds(0.0) for each in draws])
    assert 0.935 < covered < 0.965
    assert plain < 0.7


def test_what_is_the_same_in_all_blocks_differs_in_none():
    same = np.tile(np.random.default_rng(0).normal(size=10), (2, 1))
    found = compare_methods(same, RATIO)
    assert (found.f, found.p, found.pairs[0].p) == (0.0, 1.0, 1.0)
    assert found.pairs[0].interval.holds(0.0)
    assert math.isnan(found.pairs[0].effect)
    (always,) = compare_methods(same + np.array([[0.0], [0.5]]), RATIO).pairs
    assert (always.p, always.interval.holds(0.0), always.value) == (0.0, False, pytest.approx(-0.5))


def test_a_single_fold_has_no_interval():
    assert math.isnan(corrected_interval([1.0], RATIO).low)
