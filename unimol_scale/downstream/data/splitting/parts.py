"""The parts that rows are divided into, and what a split is. Light to import."""

import dataclasses

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]

PARTS = ("train", "valid", "test")
UNUSED = "unused"
CALIBRATION = "calibration"  # rows that only say how wide intervals have to be
ABSENT = ""  # word of a row that a split file does not name


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSplit:
    """Rows of each part, int64, ascending; no row is in two parts, and only test and calibration may be empty."""

    train: Int64
    valid: Int64
    test: Int64
    calibration: Int64 = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def parts(self) -> dict[str, Int64]:
        """Name → rows of every part that has any."""
        every = {name: getattr(self, name) for name in PARTS}
        return {**every, CALIBRATION: self.calibration} if len(self.calibration) else every


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class Fold:
    """Which fold of a cross-validation a split is; both numbers count from 1."""

    repeat: int
    fold: int

    def __str__(self) -> str:
        return f"repeat {self.repeat}, fold {self.fold}"
