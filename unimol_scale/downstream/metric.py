"""The class of metrics. Quick to import; the built-in metrics are in ``downstream.metrics``."""

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from unimol_scale.errors import ConfigError, nearest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Float64: TypeAlias = npt.NDArray[np.float64]

TASKS = ("regression", "classification", "multilabel", "multiclass", "ordinal")


def of_target(value_RW: "Float64", target: int, num_targets: int) -> "Float64":
    """Return the predictions of a target: numbers [R], or probabilities [R, K] if each class has an output.

    Args:
        value_RW: outputs of a model: one for each target, or one for each class of the only target.
        target: index of the target.
        num_targets: number of targets.
    """
    return value_RW[..., target] if value_RW.shape[-1] == num_targets else value_RW


def any_labels(labels: "Float64") -> str:
    """Return "": the metric is defined for any labels."""
    return ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric of one target. ``finetune --metric package.module:NAME`` accepts a metric of your own.

    A metric must not depend on the order of the molecules. Its function receives labels without missing ones, and
    finite predictions: numbers in the unit of the labels, or probabilities of class 1. For tasks multiclass and
    ordinal, labels are class numbers from 0, and predictions [M, K] are the probabilities of all classes. Its score on
    the validation rows chooses the best epoch; for a regression of several targets, labels and predictions are then
    divided by the standard deviation of the training labels.

    Attributes:
        name: name in reports.
        tasks: members of ``TASKS`` for which the metric is defined.
        higher_is_better: whether a higher value is better.
        function: (labels [M], predictions [M]) → its value; NaN if it is undefined for these predictions.
        problem: labels [M] → why it is undefined whatever is predicted; "" if it is not.
        in_label_units: whether its value is in the unit of the labels, as an absolute error is.
        least: smallest value that it can have; an interval of its mean does not go below.
        most: greatest value that it can have.
    """

    name: str
    tasks: tuple[str, ...]
    higher_is_better: bool
    function: Callable[["Float64", "Float64"], float]
    problem: Callable[["Float64"], str] = any_labels
    in_label_units: bool = False
    least: float = -math.inf
    most: float = math.inf

    def __post_init__(self) -> None:
        if not self.name or not callable(self.function):
            raise ConfigError(f"a metric needs a name and a function, got {self.name!r} and {self.function!r}")
        for task in self.tasks:
            if task not in TASKS:
                raise ConfigError(f"tasks of {self.name}: unknown task {task!r}; {nearest(task, TASKS)}")

    def is_better(self, value: float, than: float) -> bool:
        """Return whether ``value`` is better than ``than``."""
        return value > than if self.higher_is_better else value < than
