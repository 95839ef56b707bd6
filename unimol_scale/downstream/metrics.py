"""Scores of predictions by scikit-learn's metrics: one number for each target, and their mean.

If a metric has no value (only one class, constant labels), it is undefined and the reason is given; no number replaces
it.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import metrics as sk

from unimol_scale.downstream.metric import Metric, of_target
from unimol_scale.errors import RunError

Float64 = npt.NDArray[np.float64]

TWO_CLASSES = ("classification", "multilabel")
CLASSIFIERS = (*TWO_CLASSES, "multiclass")
ORDINAL_TOO = (*CLASSIFIERS, "ordinal")
THRESHOLD = 0.5


def _both_classes(labels: Float64) -> str:
    return "" if len(np.unique(labels)) >= 2 else f"all {len(labels):,} labels are {labels[0]:g}: one class only"


def _varying(labels: Float64) -> str:
    return "" if np.ptp(labels) > 0.0 else f"all {len(labels):,} labels are {labels[0]:g}"


def _predicted_class(predictions: Float64) -> Float64:
    """Return the numbers of the predicted classes, from probabilities of class 1 [M] or of all classes [M, K]."""
    if predictions.ndim == 2:
        code: Float64 = np.argmax(predictions, axis=1).astype(np.float64)
    else:
        code = (predictions >= THRESHOLD).astype(np.float64)
    return code


def _accuracy(labels: Float64, predictions: Float64) -> float:
    return float(sk.accuracy_score(labels, _predicted_class(predictions)))


def _balanced_accuracy(labels: Float64, predictions: Float64) -> float:
    """Return the fraction of correct predictions in each class, as a mean over the classes that occur."""
    correct = _predicted_class(predictions) == labels
    return float(np.mean([correct[labels == name].mean() for name in np.unique(labels)]))


def log_losses(labels: Float64, predictions: Float64) -> Float64:
    """Return the negative log of the probability of each row's class, which is at least the epsilon of float64."""
    if predictions.ndim == 2:
        true = predictions[np.arange(len(labels)), labels.astype(np.int64)]
    else:
        true = np.where(labels == 1.0, predictions, 1.0 - predictions)
    losses: Float64 = -np.log(np.maximum(true, np.finfo(np.float64).eps))
    return losses


def _log_loss(labels: Float64, predictions: Float64) -> float:
    return float(log_losses(labels, predictions).mean())


def _roc_auc(labels: Float64, predictions: Float64) -> float:
    """Return the area; for several classes, the mean over those that occur, each against all others."""
    if predictions.ndim == 1:
        return float(sk.roc_auc_score(labels, predictions))
    each = [sk.roc_auc_score(labels == name, predictions[:, int(name)]) for name in np.unique(labels)]
    return float(np.mean(each))


def predicted_ranks(predictions: Float64) -> Float64:
    """Return the predicted ordered classes, from 0: the medians of probabilities [M, K].

    This is the number of thresholds that the label exceeds with a probability above 0.5 (Cao et al. 2020).
    """
    ranks: Float64 = (np.cumsum(predictions, axis=1)[:, :-1] < THRESHOLD).sum(axis=1).astype(np.float64)
    return ranks


def _rank_mae(labels: Float64, predictions: Float64) -> float:
    return float(np.abs(labels - predicted_ranks(predictions)).mean())


def _rank_accuracy(labels: Float64, predictions: Float64) -> float:
    return float((labels == predicted_ranks(predictions)).mean())


def _quadratic_kappa(labels: Float64, predictions: Float64) -> float:
    """Return Cohen's kappa weighted by squared differences of ranks (Cohen 1968, doi:10.1037/h0026256)."""
    ranks = predicted_ranks(predictions)
    if not np.ptp(np.concatenate([labels, ranks])) > 0.0:
        return math.nan
    known = np.arange(predictions.shape[1], dtype=np.float64)
    return float(sk.cohen_kappa_score(labels, ranks, labels=known, weights="quadratic"))


def _pearson(labels: Float64, predictions: Float64) -> float:
    return float(np.corrcoef(labels, predictions)[0, 1]) if np.ptp(predictions) > 0.0 else math.nan


ROC_AUC = Metric(
    name="roc_auc",
    tasks=CLASSIFIERS,
    higher_is_better=True,
    function=_roc_auc,
    problem=_both_classes,
    least=0.0,
    most=1.0,
)
# As average precision: straight lines between the points of this curve flatter (Davis and Goadrich 2006).
PR_AUC = Metric(
    name="pr_auc",
    tasks=TWO_CLASSES,
    higher_is_better=True,
    function=sk.average_precision_score,
    problem=_both_classes,
    least=0.0,
    most=1.0,
)
ACCURACY = Metric(name="accuracy", tasks=CLASSIFIERS, higher_is_better=True, function=_accuracy, least=0.0, most=1.0)
BALANCED_ACCURACY = Metric(
    name="balanced_accuracy", tasks=CLASSIFIERS, higher_is_better=True, function=_balanced_accuracy, least=0.0, most=1.0
)
LOG_LOSS = Metric(name="log_loss", tasks=ORDINAL_TOO, higher_is_better=False, function=_log_loss, least=0.0)
RANK_MAE = Metric(name="rank_mae", tasks=("ordinal",), higher_is_better=False, function=_rank_mae, least=0.0)
RANK_ACCURACY = Metric(
    name="rank_accuracy", tasks=("ordinal",), higher_is_better=True, function=_rank_accuracy, least=0.0, most=1.0
)
QUADRATIC_KAPPA = Metric(
    name="quadratic_kappa",
    tasks=("ordinal",),
    higher_is_better=True,
    function=_quadratic_kappa,
    problem=_both_classes,
    least=-1.0,
    most=1.0,
)
RMSE = Metric(
    name="rmse",
    tasks=("regression",),
    higher_is_better=False,
    function=sk.root_mean_squared_error,
    in_label_units=True,
    least=0.0,
)
MAE = Metric(
    name="mae",
    tasks=("regression",),
    higher_is_better=False,
    function=sk.mean_absolute_error,
    in_label_units=True,
    least=0.0,
)
R2 = Metric(name="r2", tasks=("regression",), higher_is_better=True, function=sk.r2_score, problem=_varying, most=1.0)
PEARSON = Metric(
    name="pearson",
    tasks=("regression",),
    higher_is_better=True,
    function=_pearson,
    problem=_varying,
    least=-1.0,
    most=1.0,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """The value of a metric for some predictions.

    Attributes:
        value: mean over the targets for which the metric is defined; None if there are none.
        per_target: [L] value for each target, None where undefined.
        undefined: for each target without a value, the reason with the target's name.
    """

    value: float | None
    per_target: tuple[float | None, ...]
    undefined: tuple[str, ...]


def default_metric(task: str) -> Metric:
    """Return the usual metric of a task: RMSE, ROC-AUC, or for ordered classes the mean absolute error of the rank."""
    if task == "ordinal":
        return RANK_MAE
    return ROC_AUC if task in CLASSIFIERS else RMSE


def undefined(metric: Metric, labels_ML: Float64, targets: Sequence[str]) -> tuple[str, ...]:
    """Return the reasons, with the target's name, for targets whose metric is undefined for any predictions.

    Args:
        metric: the metric.
        labels_ML: labels, NaN where missing.
        targets: [L] names.
    """
    problems = (_problem(metric, labels) for labels in labels_ML.T)
    return tuple(_reason(metric, name, why) for name, why in zip(targets, problems, strict=True) if why)


def score(metric: Metric, labels_ML: Float64, predictions_ML: Float64, targets: Sequence[str] = ()) -> Score:
    """Compare predictions with labels, target by target.

    Args:
        metric: the metric.
        labels_ML: labels, NaN where missing; missing labels are ignored.
        predictions_ML: predictions of the same shape; probabilities of class 1 for classifiers. For tasks multiclass
            and ordinal, probabilities [M, K] of the classes of the only target.
        targets: [L] names for messages; if empty, targets are numbered from 1.

    Raises:
        RunError: the prediction for a label is not a finite number, or the metric does not return a number.
    """
    L = labels_ML.shape[1]
    assert labels_ML.shape == predictions_ML.shape or (L == 1 and len(predictions_ML) == len(labels_ML)), "one each"
    names = targets or [f"target {at + 1}" for at in range(labels_ML.shape[1])]
    values: list[float | None] = []
    reasons = []
    for at, (name, labels) in enumerate(zip(names, labels_ML.T, strict=True)):
        predictions = of_target(predictions_ML, at, L)
        known = ~np.isnan(labels)
        wrong_M = ~np.isfinite(predictions[:, None] if predictions.ndim == 1 else predictions)
        if wrong := int(np.count_nonzero(known & np.any(wrong_M, axis=1))):
            raise RunError(
                f"{wrong:,} of {known.sum():,} predictions of {name} are not finite: the model has diverged; try a "
                "lower learning rate"
            )
        why = _problem(metric, labels)
        value = math.nan if why else _number(metric, metric.function(labels[known], predictions[known]))
        values.append(None if math.isnan(value) else value)
        if math.isnan(value):
            reasons.append(_reason(metric, name, why or "all predictions are the same"))
    defined = [value for value in values if value is not None]
    return Score(value=float(np.mean(defined)) if defined else None, per_target=tuple(values), undefined=tuple(reasons))


def _number(metric: Metric, value: Any) -> float:  # noqa: ANN401 - returned by a user's function
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        what = f"an array of shape {value.shape}" if isinstance(value, np.ndarray) else repr(value)
        raise RunError(f"the function of the metric {metric.name} must return a number, not {what}") from error


def _problem(metric: Metric, labels: Float64) -> str:
    known = labels[~np.isnan(labels)]
    return metric.problem(known) if len(known) else "no label"


def _reason(metric: Metric, target: str, why: str) -> str:
    return f"{metric.name} of {target} is undefined: {why}"
