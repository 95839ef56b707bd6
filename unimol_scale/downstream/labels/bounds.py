"""Censored measurements: labels such as ">10", known only to lie above or below a bound.

Shapes: M rows, L targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from unimol_scale.downstream.labels.label_columns import LabelColumn

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Bounds:
    """Bounds of labels that have no exact value.

    Attributes:
        bound_ML: float64, in the unit of the labels; NaN where there is none.
        side_ML: float64, 1 where the label lies above its bound, -1 where below, 0 where there is none.
    """

    bound_ML: Float64
    side_ML: Float64

    @staticmethod
    def of(columns: Sequence[LabelColumn]) -> "Bounds | None":
        """Return the bounds of several targets; None if there are no bounds."""
        if all(column.bound_M is None for column in columns):
            return None
        bounds = [np.full(len(one.value_M), np.nan) if one.bound_M is None else one.bound_M for one in columns]
        sides = [np.zeros(len(one.value_M)) if one.side_M is None else one.side_M for one in columns]
        return Bounds(bound_ML=np.stack(bounds, axis=1), side_ML=np.stack(sides, axis=1))

    def scaled(self, target: int, factor: float) -> "Bounds":
        """Return the bounds with those of one target multiplied by a positive factor, such as for another unit."""
        bound_ML = self.bound_ML.copy()
        bound_ML[:, target] *= factor
        return replace(self, bound_ML=bound_ML)

    def less(self, taken_off_ML: Float64) -> "Bounds":
        """Return the bounds after values were subtracted from the labels."""
        return replace(self, bound_ML=self.bound_ML - taken_off_ML)

    def violated(self, value_ML: Float64) -> npt.NDArray[np.bool_]:
        """Return bool [M, L]: whether a prediction lies on the wrong side of its bound; False without a bound."""
        wrong: npt.NDArray[np.bool_] = self.side_ML * (self.bound_ML - value_ML) > 0.0  # NaN is not
        return wrong

    def describe(self, row: int, target: int) -> str | None:
        """Return a bound as text, such as ">10"; None if there is none."""
        side = self.side_ML[row, target]
        return None if side == 0.0 else f"{'>' if side > 0 else '<'}{self.bound_ML[row, target]:g}"


def has_label(label_ML: Float64, bounds: Bounds | None) -> npt.NDArray[np.bool_]:
    """Return bool [M]: whether a row has at least one label or bound."""
    known_ML = ~np.isnan(label_ML)
    if bounds is not None:
        known_ML = known_ML | (bounds.side_ML != 0.0)
    known_M: npt.NDArray[np.bool_] = np.any(known_ML, axis=1)
    return known_M
