"""What stands beside a score: how few molecules it is of, whether the mean would do as well, whether seeds can tell."""

import re

import numpy as np
import pytest
from scipy.stats import spearmanr

from unimol_scale.downstream.finetuning.cautions import (
    FEW_MOLECULES,
    cautions,
    count_labelled_molecules,
    describe_spread,
    trivial_scores,
)
from unimol_scale.downstream.registry import METRICS

NAN = float("nan")
MANY = (FEW_MOLECULES,)


@pytest.mark.parametrize(
    ("number", "noun"), [(1, "1 test molecule:"), (2, "2 test molecules:"), (19, "19 test molecules:")]
)
def test_few_molecules_are_told(number, noun):
    (said,) = cautions("rmse", ("y",), (0.5,), (1.0,), (number,), higher_is_better=False)
    assert said.startswith(f"only {noun}")


@pytest.mark.parametrize(
    ("metric", "value", "trivial", "worse"),
    [
        ("rmse", 1.1, 1.0, True), ("rmse", 1.0, 1.0, True), ("mae", 0.9, 1.0, False), ("r2", -0.1, 0.0, True),
        ("r2", 0.3, -0.1, False), ("roc_auc", 0.48, 0.5, True), ("roc_auc", 0.7, 0.5, False),
        ("rmse", None, 1.0, False), ("pearson", 0.1, None, False),
    ],
)  # fmt: skip
def test_worse_than_the_mean_is_told(metric, value, trivial, worse):
    said = cautions(metric, ("y",), (value,), (trivial,), MANY, higher_is_better=METRICS[metric].higher_is_better)
    assert len(said) == worse
    assert not worse or said[0].startswith("no better than predicting the mean of the training labels (")


def test_of_several_targets_those_concerned_are_named():
    said = cautions("rmse", ("a", "b", "c"), (1.0, 1.0, 1.0), (2.0, 0.5, 2.0), (50, 50, 3), higher_is_better=False)
    assert said[0].startswith("only 3 test molecules for c:")
    assert "training labels for b (rmse 0.5)" in said[1]


def test_the_trivial_predictor_knows_the_training_labels_only():
    train, test = np.array([[1.0, 1.0], [3.0, NAN], [NAN, NAN]]), np.array([[4.0, 0.0], [0.0, NAN]])
    assert trivial_scores(METRICS["mae"], train, test) == pytest.approx((2.0, 1.0))
    assert trivial_scores(METRICS["roc_auc"], np.array([[0.0], [1.0]]), np.array([[0.0], [1.0]])) == (0.5,)
    assert trivial_scores(METRICS["pearson"], train, test)[0] is None


def test_molecules_are_counted_once_and_only_where_they_have_a_label():
    labels = np.array([[1.0, NAN], [2.0, NAN], [3.0, 4.0]])
    assert count_labelled_molecules(np.array([7, 7, 9]), labels) == (2, 1)


RANDOM = np.random.default_rng(0)
SPREAD = RANDOM.random((200, 1)) + 0.1


@pytest.mark.parametrize(
    ("error_RL", "said"),
    [
        (SPREAD * (1.0 + 0.9 * RANDOM.random((200, 1))), r"follows the error \(Spearman's correlation 0.9\d"),
        (SPREAD + 2.0 * RANDOM.random((200, 1)), r"follows the error only weakly \(Spearman's correlation 0.[234]"),
        (RANDOM.random((200, 1)), r"^do not trust the spread of the seeds .* as an uncertainty: .*does not follow"),
        (1.0 / SPREAD, "^do not trust"),
    ],
)
def test_the_spread_of_seeds_is_trusted_as_far_as_it_follows_the_error(error_RL, said):
    assert re.search(said, describe_spread(SPREAD, error_RL))


def test_the_interval_of_the_correlation_is_told():
    error_RL = RANDOM.random((200, 1))
    value = spearmanr(SPREAD[:, 0], error_RL[:, 0]).statistic
    half = 1.96 * np.sqrt(1.06 / 197)
    low, high = np.tanh(np.arctanh(value) + np.array([-half, half]))
    assert f"correlation {value:.2f}, 95 % interval {low:.2f} to {high:.2f}" in describe_spread(SPREAD, error_RL)


def test_of_few_labels_or_equal_seeds_the_spread_tells_nothing():
    few = np.where(np.arange(200)[:, None] < 19, SPREAD, np.nan)
    assert "these test rows cannot show whether" in describe_spread(SPREAD, few)
    assert "cannot show" in describe_spread(np.zeros_like(SPREAD), SPREAD)
