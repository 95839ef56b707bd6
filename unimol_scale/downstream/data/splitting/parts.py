"""The parts into which rows are divided, and the class of a split. Light to import."""

import dataclasses

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]

PARTS = ("train", "valid", "test")
UNUSED = "unused"
CALIBRATION = "calibration"  # rows used only to calibrate the width of intervals
ABSENT = ""  # word of a row that is missing in a split file


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSplit:
    """Row numbers of each part, int64, ascending. The parts are disjoint; only test and calibration may be empty."""

    train: Int64
    valid: Int64
    test: Int64
    calibration: Int64 = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def parts(self) -> dict[str, Int64]:
        """Name → row numbers of train, valid and test, and of calibration unless it is empty."""
        every = {name: getattr(self, name) for name in PARTS}
        return {**every, CALIBRATION: self.calibration} if len(self.calibration) else every


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class Fold:
    """The repeat and the fold of a cross-validation, both counted from 1."""

    repeat: int
    fold: int

    def __str__(self) -> str:
        return f"repeat {self.repeat}, fold {self.fold}"
