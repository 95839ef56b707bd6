"""Mean and spread of predictions over the conformers of each molecule. NumPy only.

Shapes: R rows, C conformers of all of them, L targets.
"""

from dataclasses import dataclass

import numpy as np

from unimol_scale.store.schema import Float32, Float64, Int64


@dataclass(frozen=True, kw_only=True)
class ConformerStatistics:
    """Predictions over the conformers of each row.

    Attributes:
        mean_RL: mean prediction over conformers, float64.
        std_RL: sample standard deviation over conformers, float64; NaN for a row with a single conformer.
        vector_RD: mean over conformers of the molecules' vectors, float32; None if they were not requested.
    """

    mean_RL: Float64
    std_RL: Float64
    vector_RD: Float32 | None = None

    @staticmethod
    def of(row_C: Int64, value_CL: Float64, vector_CD: Float32 | None = None) -> "ConformerStatistics":
        """Return the statistics of predictions, which may be in any order.

        Args:
            row_C: row of each prediction, int64; every row from 0 to R - 1 must occur.
            value_CL: the predictions, float64, finite.
            vector_CD: the vectors from which they were made, float32; None if they were not requested.
        """
        count_R = np.bincount(row_C)
        assert count_R.min() > 0, "every row has a conformer"
        R, L = len(count_R), value_CL.shape[1]
        if len(row_C) == R:  # one conformer per row: avoids rounding in sums
            mean_RL: Float64 = np.empty_like(value_CL)
            mean_RL[row_C] = value_CL
            vector_RD = None if vector_CD is None else vector_CD[np.argsort(row_C)]
            return ConformerStatistics(mean_RL=mean_RL, std_RL=np.full((R, L), np.nan), vector_RD=vector_RD)
        mean_RL = _sums(row_C, value_CL, R) / count_R[:, None]
        squares_RL = _sums(row_C, (value_CL - mean_RL[row_C]) ** 2, R)
        several_R = count_R > 1
        std_RL = np.full((R, L), np.nan)
        std_RL[several_R] = np.sqrt(squares_RL[several_R] / (count_R[several_R, None] - 1))
        vector_RD = None
        if vector_CD is not None:
            vector_RD = (_sums(row_C, vector_CD, R) / count_R[:, None]).astype(np.float32)
        return ConformerStatistics(mean_RL=mean_RL, std_RL=std_RL, vector_RD=vector_RD)


def _sums(row_C: Int64, value_CL: Float64 | Float32, rows: int) -> Float64:
    total_RL = np.zeros((rows, value_CL.shape[1]))
    np.add.at(total_RL, row_C, value_CL)
    return total_RL
