"""Mean and spread of predictions over the conformers of each molecule. NumPy only.

Shapes: R rows, C conformers of all of them, L targets.
"""

from dataclasses import dataclass

import numpy as np

from unimol_scale.store.schema import Float64, Int64


@dataclass(frozen=True, kw_only=True)
class ConformerStatistics:
    """Predictions over the conformers of each row.

    Attributes:
        mean_RL: fp64, mean over conformers; of a row with one conformer, the prediction for it.
        std_RL: fp64, sample standard deviation over conformers; NaN of a row with one.
    """

    mean_RL: Float64
    std_RL: Float64

    @staticmethod
    def of(row_C: Int64, value_CL: Float64) -> "ConformerStatistics":
        """Return the statistics of predictions, which may come in any order.

        Args:
            row_C: int64, row that each prediction is of; all from 0 to R - 1 occur.
            value_CL: fp64, finite.
        """
        count_R = np.bincount(row_C)
        assert count_R.min() > 0, "every row has a conformer"
        R, L = len(count_R), value_CL.shape[1]
        if len(row_C) == R:  # the same bits as without any sum
            mean_RL: Float64 = np.empty_like(value_CL)
            mean_RL[row_C] = value_CL
            return ConformerStatistics(mean_RL=mean_RL, std_RL=np.full((R, L), np.nan))
        mean_RL = _sums(row_C, value_CL, R) / count_R[:, None]
        squares_RL = _sums(row_C, (value_CL - mean_RL[row_C]) ** 2, R)
        several_R = count_R > 1
        std_RL = np.full((R, L), np.nan)
        std_RL[several_R] = np.sqrt(squares_RL[several_R] / (count_R[several_R, None] - 1))
        return ConformerStatistics(mean_RL=mean_RL, std_RL=std_RL)


def _sums(row_C: Int64, value_CL: Float64, rows: int) -> Float64:
    total_RL = np.zeros((rows, value_CL.shape[1]))
    np.add.at(total_RL, row_C, value_CL)
    return total_RL
