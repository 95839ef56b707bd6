"""The coverage that intervals or sets had on rows with known labels, beside the one that was asked for."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class FoundCoverage:
    """How many labels were held.

    Attributes:
        rows: with a label.
        held: whose label is in its interval, or in its set.
        low: end of the 95 % interval of the coverage, as of a binomial share (Clopper and Pearson 1934).
        high: its other end.
    """

    rows: int
    held: int
    low: float
    high: float

    @staticmethod
    def of(held_R: npt.NDArray[np.bool_]) -> "FoundCoverage":
        """Return the coverage of some rows, at least one."""
        held = int(held_R.sum())
        found = binomtest(held, len(held_R)).proportion_ci(CONFIDENCE)
        return FoundCoverage(rows=len(held_R), held=held, low=float(found.low), high=float(found.high))

    @property
    def share(self) -> float:
        """The coverage that was found."""
        return self.held / self.rows

    def against(self, nominal: float) -> Literal["less", "as promised", "more"]:
        """Return whether the coverage differs from the nominal one by more than chance."""
        return "less" if self.high < nominal else "more" if self.low > nominal else "as promised"
