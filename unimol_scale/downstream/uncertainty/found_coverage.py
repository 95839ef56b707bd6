"""Coverage of intervals or sets on rows with known labels, and its comparison with the requested coverage."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class FoundCoverage:
    """Number of labels that lie in their intervals or sets.

    Attributes:
        rows: number of rows with a label.
        held: number of rows whose label is in its interval or set.
        low: lower end of the 95 % interval of the coverage, a binomial proportion (Clopper and Pearson 1934).
        high: upper end of this interval.
    """

    rows: int
    held: int
    low: float
    high: float

    @staticmethod
    def of(held_R: npt.NDArray[np.bool_]) -> "FoundCoverage":
        """Return the coverage of one or more rows, given whether each label was in its interval or set."""
        held = int(held_R.sum())
        found = binomtest(held, len(held_R)).proportion_ci(CONFIDENCE)
        return FoundCoverage(rows=len(held_R), held=held, low=float(found.low), high=float(found.high))

    @property
    def share(self) -> float:
        """The measured coverage."""
        return self.held / self.rows

    def against(self, nominal: float) -> Literal["less", "as promised", "more"]:
        """Return whether the 95 % interval of the coverage lies below, around or above the requested coverage."""
        return "less" if self.high < nominal else "more" if self.low > nominal else "as promised"
