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
        positive: of two classes with names, the one whose probability is predicted; None: the last of the alphabet.
        order: of task ordinal: all classes, the lowest first, such as low,medium,high; empty: they are whole numbers.
        censored: of a regression: labels such as >10, >=10, <0.1 and <=0.1 are bounds. A prediction beyond a bound,
            where the measurement may be, has no loss; scores leave such labels out. Without it they are errors.
        class_weights: of a classification: "balanced" gives all classes the same weight in the loss, whatever the
            number of their training rows (N / (K·N_class)).
        weight_column: column of weights of the rows in the loss, not negative; they are divided by their mean over the
            training rows. Scores are not weighted.
        transform: what a regression learns in place of every label: its natural ("log") or decimal logarithm
            ("log10"), or "none". Predictions, scores and units are those of the label itself.
        transforms: target → its own transform, in place of ``transform``.
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
        """Return target → transform, of those that have one."""
        return {target: one for target in targets if (one := self.transform_of(target)) != "none"}

    def check_task(self, task: Task, targets: Sequence[str]) -> None:
        """Check that the settings fit the task.

        Raises:
            ConfigError: one does not.
        """
        if self.positive is not None and task not in ("classification", "multilabel"):
            raise ConfigError(f"positive is of two classes; the labels are of {task}")
        if self.order and task != "ordinal":
            raise ConfigError(f"order is of task ordinal; the labels are of {task}")
        if self.class_weights != "none" and task not in ("classification", "multilabel", "multiclass"):
            raise ConfigError(f"class_weights is of classes; the labels are of {task}")
        if self.censored and task != "regression":
            raise ConfigError(f"censored is of regression, whose labels can be bounds; the labels are of {task}")
        if task != "regression" and self.transforms_of(targets):
            raise ConfigError(f"transform is of regression; the labels are of {task}")

    def check_names(self, targets: Sequence[str], atom_references: Sequence[str]) -> None:
        """Check settings that name columns, and the order of classes, before anything is read.

        Raises:
            ConfigError: one is wrong.
        """
        if self.weight_column is not None and self.weight_column in targets:
            raise ConfigError(f"weight_column: {self.weight_column!r} is a target; weights need a column of their own")
        if len(set(self.order)) < len(self.order) or len(self.order) == 1:
            raise ConfigError(f"order must name two or more different classes, got {', '.join(self.order)}")
        if "all" not in targets and (unknown := [name for name in self.transforms if name not in targets]):
            raise ConfigError(f"transforms: {unknown[0]!r} is not a target; the targets are {', '.join(targets)}")
        if both := [name for name in self.transforms_of(targets) if name in atom_references]:
            raise ConfigError(
                f"transform: {both[0]!r} is in atom_references, too; energies of elements add up, and their logarithms "
                "do not"
            )
