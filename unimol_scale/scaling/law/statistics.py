"""Statistics of predictions against measured losses of held-out runs. Imports NumPy only."""

from dataclasses import dataclass

import numpy as np

from unimol_scale.scaling.law.laws import FloatArray


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Statistics of predictions against measured losses.

    Attributes:
        relative_error: mean |prediction / loss − 1|.
        rmae: mean |prediction − loss| over the mean loss (relative mean absolute error).
        mse: mean squared error.
        r2: coefficient of determination, 1 − Σ(prediction − loss)² / Σ(loss − mean)²; negative if predicting the mean
            of the losses is better; None for fewer than two distinct losses.
        pearson: correlation of predictions and losses; None if either does not vary.
        num_points: number of points.
    """

    relative_error: float
    rmae: float
    mse: float
    r2: float | None
    pearson: float | None
    num_points: int


def statistics_of(predicted: FloatArray, loss: FloatArray) -> Statistics:
    """Return the statistics of predictions, float [n], for losses, float [n], n ≥ 1."""
    assert len(predicted) == len(loss) > 0
    error = predicted - loss
    spread = float(((loss - loss.mean()) ** 2).sum())
    varies = len(loss) > 1 and bool(np.ptp(loss) > 0)
    both_vary = varies and bool(np.ptp(predicted) > 1e-12 * np.abs(predicted).max())
    return Statistics(
        relative_error=float(np.abs(error / loss).mean()),
        rmae=float(np.abs(error).mean() / loss.mean()),
        mse=float((error**2).mean()),
        r2=1.0 - float((error**2).sum()) / spread if varies else None,
        pearson=float(np.corrcoef(predicted, loss)[0, 1]) if both_vary else None,
        num_points=len(loss),
    )
