"""How good predictions are, with scikit-learn's metrics: one number for each target, and their mean.

Where a metric has no value (one class only, constant labels), it is undefined and the reason is given; no number stands
in for it.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from sklearn import metrics as sk

from unimol_scale.downstream.config import MetricName, Task
from unimol_scale.errors import ConfigError, RunError, nearest

Float64 = npt.NDArray[np.float64]

CLASSIFIERS: tuple[Task, ...] = ("classification", "multilabel")
THRESHOLD = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric.

    Attributes:
        tasks: of which it can be asked.
        higher_is_better: which way is up.
        function: (labels [M], predictions [M]) → its value, NaN where these predictions have none.
        problem: labels [M] → why no prediction of them has a value, or "".
    """

    tasks: tuple[Task, ...]
    higher_is_better: bool
    function: Callable[[Float64, Float64], float]
    problem: Callable[[Float64], str]


def _any_labels(labels: Float64) -> str:
    return ""


def _both_classes(labels: Float64) -> str:
    return "" if len(np.unique(labels)) == 2 else f"all {len(labels):,} labels are {labels[0]:g}: one class only"


def _varying(labels: Float64) -> str:
    return "" if np.ptp(labels) > 0.0 else f"all {len(labels):,} labels are {labels[0]:g}"


def _accuracy(labels: Float64, predictions: Float64) -> float:
    return float(sk.accuracy_score(labels, predictions >= THRESHOLD))


def _pearson(labels: Float64, predictions: Float64) -> float:
    return float(np.corrcoef(labels, predictions)[0, 1]) if np.ptp(predictions) > 0.0 else math.nan


def _of_classes(function: Callable[[Float64, Float64], float], problem: Callable[[Float64], str]) -> Metric:
    return Metric(tasks=CLASSIFIERS, higher_is_better=True, function=function, problem=problem)


def _of_numbers(
    function: Callable[[Float64, Float64], float], problem: Callable[[Float64], str], *, higher_is_better: bool
) -> Metric:
    return Metric(tasks=("regression",), higher_is_better=higher_is_better, function=function, problem=problem)


METRICS: Mapping[MetricName, Metric] = {
    "roc_auc": _of_classes(sk.roc_auc_score, _both_classes),
    # As average precision: straight lines between the points of this curve flatter (Davis and Goadrich 2006).
    "pr_auc": _of_classes(sk.average_precision_score, _both_classes),
    "accuracy": _of_classes(_accuracy, _any_labels),
    "rmse": _of_numbers(sk.root_mean_squared_error, _any_labels, higher_is_better=False),
    "mae": _of_numbers(sk.mean_absolute_error, _any_labels, higher_is_better=False),
    "r2": _of_numbers(sk.r2_score, _varying, higher_is_better=True),
    "pearson": _of_numbers(_pearson, _varying, higher_is_better=True),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """A metric of some predictions.

    Attributes:
        value: mean over the targets for which it is defined; None if it is for none.
        per_target: [L] value of each, None where undefined.
        undefined: a reason, with the target's name, for each that is undefined.
    """

    value: float | None
    per_target: tuple[float | None, ...]
    undefined: tuple[str, ...]


def default_metric(task: Task) -> MetricName:
    """Return the field's metric of a task: ROC-AUC, or RMSE of regression."""
    return "roc_auc" if task in CLASSIFIERS else "rmse"


def check_metric(metric: MetricName, task: Task) -> None:
    """Find out whether a metric can be asked of a task.

    Raises:
        ConfigError: it cannot.
    """
    if task not in METRICS[metric].tasks:
        valid = [name for name, known in METRICS.items() if task in known.tasks]
        raise ConfigError(f"metric {metric} is not one of {task}; {nearest(metric, valid)}")


def undefined(metric: MetricName, labels_ML: Float64, targets: Sequence[str]) -> tuple[str, ...]:
    """Return, for each target whose labels leave the metric undefined whatever is predicted, the reason with its name.

    Args:
        metric: name in ``METRICS``.
        labels_ML: NaN where missing.
        targets: [L] names.
    """
    problems = (_problem(metric, labels) for labels in labels_ML.T)
    return tuple(_reason(metric, name, why) for name, why in zip(targets, problems, strict=True) if why)


def score(metric: MetricName, labels_ML: Float64, predictions_ML: Float64, targets: Sequence[str] = ()) -> Score:
    """Compare predictions with labels, target by target.

    Args:
        metric: name in ``METRICS``.
        labels_ML: NaN where missing; those are passed over.
        predictions_ML: same shape; of classifiers, the probability of class 1.
        targets: [L] names for messages; none numbers them from 1.

    Raises:
        RunError: a prediction that has a label is not a finite number.
    """
    assert labels_ML.shape == predictions_ML.shape, "one prediction for each label"
    names = targets or [f"target {at + 1}" for at in range(labels_ML.shape[1])]
    values: list[float | None] = []
    reasons = []
    for name, labels, predictions in zip(names, labels_ML.T, predictions_ML.T, strict=True):
        known = ~np.isnan(labels)
        if wrong := int(np.count_nonzero(~np.isfinite(predictions[known]))):
            raise RunError(
                f"{wrong:,} of {known.sum():,} predictions of {name} are not finite: the model has diverged, try a "
                "lower learning rate"
            )
        why = _problem(metric, labels)
        value = math.nan if why else float(METRICS[metric].function(labels[known], predictions[known]))
        values.append(None if math.isnan(value) else value)
        if math.isnan(value):
            reasons.append(_reason(metric, name, why or "all predictions are the same"))
    defined = [value for value in values if value is not None]
    return Score(value=float(np.mean(defined)) if defined else None, per_target=tuple(values), undefined=tuple(reasons))


def _problem(metric: MetricName, labels: Float64) -> str:
    known = labels[~np.isnan(labels)]
    return METRICS[metric].problem(known) if len(known) else "no label"


def _reason(metric: MetricName, target: str, why: str) -> str:
    return f"{metric} of {target} is undefined: {why}"
