"""Metrics: their values, missing labels, and what is undefined rather than a number."""

import numpy as np
import pytest
from sklearn import metrics as sk

from unimol_scale.downstream.metric import TASKS, Metric
from unimol_scale.downstream.metrics import default_metric, score, undefined
from unimol_scale.downstream.registry import METRICS, check_metric
from unimol_scale.errors import ConfigError, RunError

NAN = np.nan


def column(*values):
    return np.array(values, np.float64)[:, None]


@pytest.mark.parametrize(
    ("metric", "value"),
    [("rmse", np.sqrt(5 / 3)), ("mae", 1.0), ("r2", 1 - 5 / 2), ("pearson", 3 / np.sqrt(84))],
)
def test_regression_metrics_have_their_textbook_values(metric, value):
    assert score(METRICS[metric], column(1, 2, 3), column(1, 4, 2)).value == pytest.approx(value)


@pytest.mark.parametrize(
    # By probability: 1 0 1 0. Three of four pairs are in order; precision is 1 at the first hit, 2/3 at the second.
    ("metric", "value"),
    [("roc_auc", 3 / 4), ("pr_auc", (1 + 2 / 3) / 2), ("accuracy", 3 / 4)],
)
def test_classification_metrics_have_their_textbook_values(metric, value):
    assert score(METRICS[metric], column(1, 0, 1, 0), column(0.9, 0.6, 0.5, 0.1)).value == pytest.approx(value)


def test_missing_labels_are_passed_over_target_by_target():
    labels = np.array([[1, NAN], [2, 10], [NAN, 20]])
    predictions = np.array([[2, NAN], [2, 13], [NAN, 21]])
    result = score(METRICS["mae"], labels, predictions)
    assert result.per_target == (0.5, 2.0)
    assert result.value == 1.25
    assert result.undefined == ()


def test_a_target_with_one_class_is_undefined_and_named_and_not_in_the_mean():
    labels = np.array([[0, 1, NAN], [1, 1, NAN], [0, NAN, NAN]])
    predictions = np.array([[0.2, 0.7, 0.1], [0.9, 0.6, 0.1], [0.4, 0.5, 0.1]])
    result = score(METRICS["roc_auc"], labels, predictions, ("a", "b", "c"))
    assert result.per_target == (1.0, None, None)
    assert result.value == 1.0
    assert "roc_auc of b is undefined: all 2 labels are 1: one class only" in result.undefined
    assert "roc_auc of c is undefined: no label" in result.undefined
    assert undefined(METRICS["roc_auc"], labels, ("a", "b", "c")) == result.undefined


def test_nothing_stands_in_for_a_mean_over_no_targets():
    result = score(METRICS["pr_auc"], column(0, 0), column(0.1, 0.2))
    assert result.value is None
    assert result.undefined == ("pr_auc of target 1 is undefined: all 2 labels are 0: one class only",)


@pytest.mark.parametrize("metric", ["r2", "pearson"])
def test_metrics_of_variation_are_undefined_where_labels_do_not_vary(metric):
    assert score(METRICS[metric], column(2, 2, 2), column(1, 2, 3)).value is None


def test_correlation_with_a_constant_prediction_is_undefined_though_the_labels_are_fine():
    result = score(METRICS["pearson"], column(1, 2, 3), column(0.1, 0.1, 0.1))  # their mean is not 0.1
    assert result.value is None
    assert "all predictions are the same" in result.undefined[0]
    assert undefined(METRICS["pearson"], column(1, 2, 3), ("y",)) == ()


def test_predictions_that_are_not_finite_are_an_error_where_there_is_a_label():
    with pytest.raises(RunError, match="1 of 2 predictions of y are not finite"):
        score(METRICS["mae"], column(1, 2, NAN), column(NAN, 2, NAN), ("y",))


@pytest.mark.parametrize(("value", "shown"), [("a", "'a'"), (None, "None"), (np.zeros(3), r"an array of shape \(3,\)")])
def test_a_metric_that_returns_no_number_is_told(value, shown):
    mine = Metric(name="mine", tasks=TASKS, higher_is_better=True, function=lambda labels, predictions: value)
    with pytest.raises(RunError, match=f"the function of the metric mine must return a number, not {shown}"):
        score(mine, np.zeros((3, 1)), np.zeros((3, 1)))


def test_which_way_is_up():
    assert {name for name, metric in METRICS.items() if not metric.higher_is_better} == {
        "rmse", "mae", "log_loss", "rank_mae",
    }  # fmt: skip


def test_metrics_belong_to_tasks():
    assert (default_metric("regression"), default_metric("multilabel")) == (METRICS["rmse"], METRICS["roc_auc"])
    for task in TASKS:
        check_metric(default_metric(task), task)
    with pytest.raises(
        ConfigError, match=r"rmse does not apply to classification; .*valid: accuracy, balanced_accuracy, log_loss"
    ):
        check_metric(METRICS["rmse"], "classification")


def test_metrics_of_several_classes_are_those_of_scikit_learn():
    labels = np.array([0, 2, 1, 1, 2, 0, 2.0])
    random = np.random.default_rng(0).random((7, 3))
    probability = random / random.sum(1, keepdims=True)
    best = probability.argmax(1)
    expected = {
        "accuracy": sk.accuracy_score(labels, best),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, best),
        "log_loss": sk.log_loss(labels, probability),
        "roc_auc": sk.roc_auc_score(labels, probability, multi_class="ovr", average="macro"),
    }
    rank = (probability.cumsum(1)[:, :2] < 0.5).sum(1)
    expected |= {
        "rank_mae": np.abs(rank - labels).mean(),
        "rank_accuracy": (rank == labels).mean(),
        "quadratic_kappa": sk.cohen_kappa_score(labels, rank, weights="quadratic"),
    }
    for name, value in expected.items():
        assert score(METRICS[name], labels[:, None], probability).value == pytest.approx(value), name
