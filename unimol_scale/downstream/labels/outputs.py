"""Outputs of a model as columns of a table: a number per target, or a probability per class of the only target.

Labels of named classes are written and read as names. Shapes: M rows, R of them, L targets, K classes, W outputs: L, or
K for tasks of several classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from unimol_scale.downstream.config import Task
from unimol_scale.downstream.metrics import predicted_ranks

Float64 = npt.NDArray[np.float64]
Texts = npt.NDArray[np.object_]

BY_CLASS: tuple[Task, ...] = ("multiclass", "ordinal")  # tasks of one target with a probability for each of its classes


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The outputs of a model for a molecule.

    Attributes:
        task: kind of the labels.
        targets: [L] names.
        classes: target → names of its classes in the order of their numbers; without targets that are numbers.
    """

    task: Task
    targets: tuple[str, ...]
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """K if each class of the target has a probability, otherwise 0."""
        return len(self.classes[self.targets[0]]) if self.task in BY_CLASS else 0

    @property
    def names(self) -> tuple[str, ...]:
        """[W] names of the columns: the target, or "TARGET p(CLASS)" for the probability of a named class."""
        if self.num_classes:
            (target,) = self.targets
            return tuple(f"{target} p({name})" for name in self.classes[target])
        return tuple(
            f"{target} p({self.classes[target][1]})" if target in self.classes else target for target in self.targets
        )

    @property
    def num_logits(self) -> int:
        """Number of outputs of the head: W, or K − 1 thresholds for K ordered classes."""
        return len(self.names) - (self.task == "ordinal")

    def places(self, target: int) -> range:
        """Return the indices of a target's outputs."""
        return range(self.num_classes) if self.num_classes else range(target, target + 1)

    @property
    def classes_each(self) -> int:
        """Number of classes of each target: K, or 2; 0 for a regression."""
        return 0 if self.task == "regression" else self.num_classes or 2

    def class_names(self, target: int) -> tuple[str, ...]:
        """Return the names of the classes of a target; "0" and "1" if they have no names."""
        return self.classes.get(self.targets[target], ("0", "1"))

    def class_probabilities(self, target: int, value_W: Float64) -> Float64:
        """Return the probability of every class of a target, float64 [..., C], from all outputs [..., W]."""
        if self.num_classes:
            return value_W
        of_one = value_W[..., target]
        return np.stack([1.0 - of_one, of_one], axis=-1)

    @property
    def trivial(self) -> str:
        """Text that says what a trivial predictor predicts for every molecule."""
        if self.num_classes:
            return "the shares of the classes"
        if self.task == "regression":
            return "the mean of the training labels"
        named = self.classes.get(self.targets[0]) if len(self.targets) == 1 else None
        return "the share of ones" if named is None else f"the share of {named[1]!r}"

    def describe_label(self, target: int, value: float) -> str:
        """Return a label as text: the name of its class, or a number."""
        classes = self.classes.get(self.targets[target])
        return f"{value:g}" if classes is None else repr(classes[int(value)])

    def write_labels(self, target: int, label_M: Float64) -> pa.Array:
        """Return the labels of a target as a column: texts if its classes have names, otherwise numbers."""
        classes = self.classes.get(self.targets[target])
        if classes is None:
            return pa.array(label_M, from_pandas=True)
        return pa.array([None if np.isnan(label) else classes[int(label)] for label in label_M.tolist()], pa.string())

    def read_labels(self, table: pa.Table) -> Float64:
        """Return the labels of all targets that ``write_labels`` wrote, float64 [M, L], NaN where missing."""
        return np.stack([self._read_label(table[target], target) for target in self.targets], axis=1)

    def _read_label(self, column: pa.ChunkedArray, target: str) -> Float64:
        if target not in self.classes:
            return _floats(column)
        place = {name: float(at) for at, name in enumerate(self.classes[target])}
        return np.array([np.nan if name is None else place[name] for name in column.to_pylist()])

    def read_values(self, table: pa.Table, prefix: str) -> Float64:
        """Return the outputs in a table, float64 [M, W]; its columns are ``names``, each preceded by ``prefix``."""
        return np.stack([_floats(table[f"{prefix}{name}"]) for name in self.names], axis=1)

    def decide(self, value_RW: Float64) -> dict[str, Texts]:
        """Return target → predicted class names, for targets whose classes have names; None for NaN.

        With two classes, it is the class with a probability of at least 0.5; with several, the most probable one; with
        ordered classes, the median of the probabilities.
        """
        found: dict[str, Texts] = {}
        for at, target in enumerate(self.targets):
            if target in self.classes:
                value_RK = value_RW[:, self.places(at)]
                code_R = self.decide_codes(value_RK)
                names = np.array(self.classes[target], object)
                found[target] = names[code_R]
                found[target][np.isnan(value_RK[:, 0])] = None
        return found

    def decide_codes(self, value_RK: Float64) -> npt.NDArray[np.int64]:
        """Return the number of the predicted class of each row, int64 [R], for the outputs of one target."""
        codes: npt.NDArray[np.int64]
        if not self.num_classes:
            codes = (value_RK[:, 0] >= 0.5).astype(np.int64)
        elif self.task == "ordinal":
            codes = predicted_ranks(value_RK).astype(np.int64)
        else:
            codes = np.argmax(value_RK, axis=1).astype(np.int64)
        return codes


def trivial_outputs(label_RL: Float64, num_classes: int) -> Float64:
    """Return a prediction that is independent of the molecule, float64 [W]: label means, or class frequencies.

    Args:
        label_RL: labels of the training rows, NaN where missing.
        num_classes: number of classes K, or 0; see ``Outputs``.
    """
    known_RL = ~np.isnan(label_RL)
    if num_classes:
        label_R = label_RL[known_RL[:, 0], 0].astype(np.int64)
        return np.bincount(label_R, minlength=num_classes) / max(len(label_R), 1)
    known = [label_R[~np.isnan(label_R)] for label_R in label_RL.T]
    return np.array([label_R.mean() if len(label_R) else 0.0 for label_R in known])


def predicted_labels(label_RL: Float64, value_RW: Float64) -> Float64:
    """Return the labels, float64 [R, L], with NaN where there is no prediction."""
    L = label_RL.shape[1]
    missing_RL = np.isnan(value_RW if value_RW.shape[1] == L else value_RW[:, :1])
    return np.where(missing_RL, np.nan, label_RL)


def _floats(column: pa.ChunkedArray) -> Float64:
    values: Float64 = column.to_numpy(zero_copy_only=False).astype(np.float64)
    return values


def describe_classes(outputs: Outputs, label_ML: Float64) -> Sequence[str]:
    """Return a line for each target with named classes, with the number of rows of each class."""
    said = []
    for at, target in enumerate(outputs.targets):
        if (classes := outputs.classes.get(target)) is None:
            continue
        counts = np.bincount(label_ML[~np.isnan(label_ML[:, at]), at].astype(np.int64), minlength=len(classes))
        shown = ", ".join(f"{name} ({count:,} rows)" for name, count in zip(classes, counts.tolist(), strict=True))
        positive = "" if outputs.num_classes else f"; {classes[1]} is the positive class (--positive changes this)"
        said.append(f"classes of {target!r}: {shown}{positive}")
    return said


def absent_classes(outputs: Outputs, label_RL: Sequence[Float64]) -> list[str]:
    """Return the classes that have no row in at least one of the given sets of training labels [R, 1]."""
    present = [set(labels[:, 0].tolist()) for labels in label_RL]
    names = outputs.classes[outputs.targets[0]] if outputs.num_classes else ()
    return [name for code, name in enumerate(names) if not all(code in found for found in present)]
