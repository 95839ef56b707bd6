"""What a metric is: one frozen entry. Light to import; the entries of ours are in ``downstream.metrics``."""

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
    """Return what is predicted of a target: numbers [R], or, where outputs are by class, probabilities [R, K].

    Args:
        value_RW: outputs of a model: one for each of the targets, or for each class of the only one.
        target: its place.
        num_targets: number of targets.
    """
    return value_RW[..., target] if value_RW.shape[-1] == num_targets else value_RW


def any_labels(labels: "Float64") -> str:
    """Return "": a metric is defined whatever the labels are."""
    return ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric, of one target at a time. ``finetune --metric package.module:NAME`` takes anybody's.

    A metric must not depend on the order of the molecules. It gets the labels that are not missing, and finite
    predictions: numbers in the unit of the label, or probabilities of class 1. Of tasks multiclass and ordinal, labels
    are the numbers of classes, from 0, and predictions [M, K] the probabilities of all of them. Of the validation rows
    it chooses the best epoch; for a regression of several targets that is done with labels and predictions divided by
    the standard deviation of the training labels.

    Attributes:
        name: in reports.
        tasks: for which it is defined, of ``TASKS``.
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
            raise ConfigError(f"a metric has a name and a function, got {self.name!r} and {self.function!r}")
        for task in self.tasks:
            if task not in TASKS:
                raise ConfigError(f"tasks of {self.name}: unknown task {task!r}; {nearest(task, TASKS)}")

    def is_better(self, value: float, than: float) -> bool:
        """Return whether a value is better than another one."""
        return value > than if self.higher_is_better else value < than
