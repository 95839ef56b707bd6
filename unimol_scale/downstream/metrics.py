"""How good predictions are, with scikit-learn's metrics: one number for each target, and their mean.

Where a metric has no value (one class only, constant labels), it is undefined and the reason is given; no number stands
in for it.
"""

import dataclasses
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
        function: (labels [M], predictions [M]) → its value.
        needs: what labels and predictions must show for it to be defined: a check that returns what is wrong, or "".
    """

    tasks: tuple[Task, ...]
    higher_is_better: bool
    function: Callable[[Float64, Float64], float]
    needs: Callable[[Float64, Float64], str]


def _anything(labels: Float64, predictions: Float64) -> str:
    return ""


def _both_classes(labels: Float64, predictions: Float64) -> str:
    return "" if len(np.unique(labels)) == 2 else f"all {len(labels):,} labels are {labels[0]:g}: one class only"


def _varying_labels(labels: Float64, predictions: Float64) -> str:
    return "" if np.ptp(labels) > 0.0 else f"all {len(labels):,} labels are {labels[0]:g}"


def _both_varying(labels: Float64, predictions: Float64) -> str:
    return _varying_labels(labels, predictions) or ("" if np.ptp(predictions) > 0.0 else "all predictions are the same")


def _accuracy(labels: Float64, predictions: Float64) -> float:
    return float(sk.accuracy_score(labels, predictions >= THRESHOLD))


def _pearson(labels: Float64, predictions: Float64) -> float:
    return float(np.corrcoef(labels, predictions)[0, 1])


def _of(
    function: Callable[[Float64, Float64], float],
    needs: Callable[[Float64, Float64], str] = _anything,
    *,
    tasks: tuple[Task, ...] = ("regression",),
    up: bool = False,
) -> Metric:
    return Metric(tasks=tasks, higher_is_better=up, function=function, needs=needs)


METRICS: Mapping[MetricName, Metric] = {
    "roc_auc": _of(sk.roc_auc_score, _both_classes, tasks=CLASSIFIERS, up=True),
    # Davis and Goadrich (2006): a straight line between points of this curve would flatter; average precision is a sum.
    "pr_auc": _of(sk.average_precision_score, _both_classes, tasks=CLASSIFIERS, up=True),
    "accuracy": _of(_accuracy, tasks=CLASSIFIERS, up=True),
    "rmse": _of(sk.root_mean_squared_error),
    "mae": _of(sk.mean_absolute_error),
    "r2": _of(sk.r2_score, _varying_labels, up=True),
    "pearson": _of(_pearson, _both_varying, up=True),
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
        ConfigError: it can not.
    """
    if task not in METRICS[metric].tasks:
        valid = [name for name, known in METRICS.items() if task in known.tasks]
        raise ConfigError(f"metric {metric} is not one of {task}; {nearest(metric, valid)}")


def score(
    metric: MetricName, labels_ML: Float64, predictions_ML: Float64, targets: Sequence[str] | None = None
) -> Score:
    """Compare predictions with labels, target by target.

    Args:
        metric: name in ``METRICS``.
        labels_ML: NaN where missing; those are passed over.
        predictions_ML: same shape; of classifiers, the probability of class 1.
        targets: [L] names for messages; None numbers them from 1.

    Raises:
        RunError: a prediction that has a label is not a finite number.
    """
    assert labels_ML.shape == predictions_ML.shape, "one prediction for each label"
    names = [f"target {at + 1}" for at in range(labels_ML.shape[1])] if targets is None else list(targets)
    values: list[float | None] = []
    undefined = []
    for name, labels, predictions in zip(names, labels_ML.T, predictions_ML.T, strict=True):
        known = ~np.isnan(labels)
        labels, predictions = labels[known], predictions[known]
        if wrong := int(np.count_nonzero(~np.isfinite(predictions))):
            raise RunError(
                f"{wrong:,} of {len(predictions):,} predictions of {name} are not finite: the model has diverged, "
                "try a lower learning rate"
            )
        reason = METRICS[metric].needs(labels, predictions) if len(labels) else "no labels"
        values.append(None if reason else float(METRICS[metric].function(labels, predictions)))
        undefined += [f"{metric} of {name} is undefined: {reason}"] if reason else []
    defined = [value for value in values if value is not None]
    return Score(
        value=float(np.mean(defined)) if defined else None, per_target=tuple(values), undefined=tuple(undefined)
    )
