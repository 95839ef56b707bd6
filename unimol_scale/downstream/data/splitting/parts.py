"""The parts that rows are divided into, and what a split is. Light to import."""

import dataclasses

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]

PARTS = ("train", "valid", "test")
UNUSED = "unused"
ABSENT = ""  # word of a row that a split file does not name


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSplit:
    """Rows of each part, int64, ascending; no row is in two parts, and no part but the test may be empty."""

    train: Int64
    valid: Int64
    test: Int64


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class Fold:
    """Which fold of a cross-validation a split is; both numbers count from 1."""

    repeat: int
    fold: int

    def __str__(self) -> str:
        return f"repeat {self.repeat}, fold {self.fold}"
