"""Settings of a fine-tuning about its labels: classes, bounds, weights and transforms. Imports no torch."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from unimol_scale.errors import ConfigError

Task = Literal["regression", "classification", "multilabel", "multiclass", "ordinal"]
ClassWeights = Literal["none", "balanced"]
Transform = Literal["none", "log", "log10"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """Settings of the labels.

    Attributes:
        positive: with two named classes, the one whose probability is predicted; None: the alphabetically last.
        order: with task ordinal, all classes, lowest first, such as low,medium,high; empty: classes are whole numbers.
        censored: for a regression, treat labels such as >10, >=10, <0.1 and <=0.1 as bounds. A prediction on the
            allowed side of a bound has no loss; scores leave such labels out. If False, such labels are errors.
        class_weights: for a classification, "balanced" gives all classes the same total weight in the loss, independent
            of their number of training rows; a row of a class weighs N / (K·N_class).
        weight_column: column with non-negative weights of the rows in the loss, which are divided by their mean over
            the training rows. Scores are not weighted.
        transform: what a regression fits instead of the label: its natural ("log") or decimal logarithm ("log10"), or
            "none". Predictions, scores and units are those of the untransformed label.
        transforms: target → transform that replaces ``transform`` for it.
    """

    positive: str | None = None
    order: tuple[str, ...] = ()
    censored: bool = False
    class_weights: ClassWeights = "none"
    weight_column: str | None = None
    transform: Transform = "none"
    transforms: dict[str, Transform] = dataclasses.field(default_factory=dict)

    def transform_of(self, target: str) -> Transform:
        """Return the transform of a target."""
        return self.transforms.get(target, self.transform)

    def transforms_of(self, targets: Sequence[str]) -> dict[str, Transform]:
        """Return target → transform, for targets that have one."""
        return {target: one for target in targets if (one := self.transform_of(target)) != "none"}

    def check_task(self, task: Task, targets: Sequence[str]) -> None:
        """Check that the settings fit the task.

        Raises:
            ConfigError: a setting does not fit the task.
        """
        if self.positive is not None and task not in ("classification", "multilabel"):
            raise ConfigError(f"positive applies to two classes, but the task is {task}")
        if self.order and task != "ordinal":
            raise ConfigError(f"order applies to task ordinal, but the task is {task}")
        if self.class_weights != "none" and task not in ("classification", "multilabel", "multiclass"):
            raise ConfigError(f"class_weights applies to classes, but the task is {task}")
        if self.censored and task != "regression":
            raise ConfigError(f"censored applies to regression, whose labels can be bounds, but the task is {task}")
        if task != "regression" and self.transforms_of(targets):
            raise ConfigError(f"transform applies to regression, but the task is {task}")

    def check_names(self, targets: Sequence[str], atom_references: Sequence[str]) -> None:
        """Check the settings that name columns, and the order of classes, before any data is read.

        Raises:
            ConfigError: a setting is wrong.
        """
        if self.weight_column is not None and self.weight_column in targets:
            raise ConfigError(f"weight_column: {self.weight_column!r} is a target; weights need a separate column")
        if len(set(self.order)) < len(self.order) or len(self.order) == 1:
            raise ConfigError(f"order must name two or more different classes, got {', '.join(self.order)}")
        if "all" not in targets and (unknown := [name for name in self.transforms if name not in targets]):
            raise ConfigError(f"transforms: {unknown[0]!r} is not a target; the targets are {', '.join(targets)}")
        if both := [name for name in self.transforms_of(targets) if name in atom_references]:
            raise ConfigError(
                f"transform: {both[0]!r} is also in atom_references; energies of elements add up, but their logarithms "
                "do not"
            )
