"""The registry of metrics: names and the places of their definitions; accepts users' functions. Quick to import."""

from typing import Any

from unimol_scale.common.plugins import Registry, accepts, is_reference
from unimol_scale.downstream.metric import TASKS, Metric
from unimol_scale.errors import ConfigError, nearest

_OURS, _METRIC = "unimol_scale.downstream.metrics", "unimol_scale.downstream.metric.Metric"
# Endings of scikit-learn's names for functions whose higher, or lower, values are better.
HIGHER, LOWER = ("_score",), ("_error", "_loss")


def _adopt(found: Any, name: str) -> Metric:  # noqa: ANN401
    if isinstance(found, Metric):
        metric = found
    elif callable(found) and not isinstance(found, type):
        own = getattr(found, "__name__", "")
        if not own.endswith(HIGHER + LOWER):
            raise ConfigError(
                f"it is unknown whether higher or lower values of {own!r} are better: name it *_score (higher), "
                f"*_error or *_loss (lower), or define {_METRIC}(name=..., higher_is_better=..., ...)"
            )
        metric = Metric(name=own, tasks=TASKS, higher_is_better=own.endswith(HIGHER), function=found)
    else:
        raise ConfigError(f"it must be a {_METRIC}, or a function (labels, predictions) → number, not {found!r}")
    if is_reference(name) and not accepts(metric.function, (), ()):
        raise ConfigError("its function is called with (labels, predictions), but does not accept these arguments")
    if is_reference(name) and metric.name in METRICS:
        raise ConfigError(f"its name {metric.name!r} is that of a built-in metric: give it another name")
    return metric


METRICS = Registry(
    "metric",
    {
        "roc_auc": f"{_OURS}:ROC_AUC",
        "pr_auc": f"{_OURS}:PR_AUC",
        "accuracy": f"{_OURS}:ACCURACY",
        "balanced_accuracy": f"{_OURS}:BALANCED_ACCURACY",
        "log_loss": f"{_OURS}:LOG_LOSS",
        "rank_mae": f"{_OURS}:RANK_MAE",
        "rank_accuracy": f"{_OURS}:RANK_ACCURACY",
        "quadratic_kappa": f"{_OURS}:QUADRATIC_KAPPA",
        "rmse": f"{_OURS}:RMSE",
        "mae": f"{_OURS}:MAE",
        "r2": f"{_OURS}:R2",
        "pearson": f"{_OURS}:PEARSON",
    },
    _adopt,
)


def check_metric(metric: Metric, task: str) -> None:
    """Check that a metric is defined for a task.

    Raises:
        ConfigError: it is not.
    """
    if task not in metric.tasks:
        valid = [name for name, known in METRICS.items() if task in known.tasks]
        raise ConfigError(f"metric {metric.name} does not apply to {task}; {nearest(metric.name, valid)}")
