"""Conformal prediction: intervals and sets of classes that contain the label with a chosen probability. NumPy only.

The guarantee requires only that the rows to predict and the calibration rows are exchangeable: for any model, intervals
with a coverage of 0.9 contain the label with a probability of at least 0.9 (Vovk, Gammerman and Shafer 2005; Lei et al.
2018, doi:10.1080/01621459.2017.1307116). With the models of a cross-validation, no rows need to be set aside: intervals
are those of CV+ (Barber et al. 2021, arXiv 1905.02928), sets those of cross-conformal prediction (Vovk 2015,
doi:10.1007/s10472-013-9368-4). Their guarantee is weaker (1 − 2α for a requested 1 − α); in practice their coverage is
about 1 − α.

Shapes: N calibration rows, R rows to predict, C classes, G groups of calibration rows. The rows of a group, such as a
fold, were predicted by the same models, which were not trained on them. A single split has one group, and the methods
are then split conformal prediction.
"""

import math

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

_CHUNK = 2**23  # number of values held in memory at once
_ROUNDING = 1e-9  # tolerance, so that (9 + 1) · 0.9 is 9


def quantile_rank(rows: int, coverage: float) -> int:
    """Return the rank of the quantile among the ascending scores, from 1: ⌈(N + 1)(1 − α)⌉; above N, there is none.

    Args:
        rows: number N of calibration rows.
        coverage: requested coverage 1 − α.
    """
    return math.ceil((rows + 1) * coverage - _ROUNDING)


def rows_needed(coverage: float) -> int:
    """Return the smallest number of calibration rows for which intervals of a coverage are finite: N ≥ 1/α − 1."""
    return math.ceil(coverage / (1.0 - coverage) - _ROUNDING)


def conformal_quantile(score_N: Float64, coverage: float) -> float:
    """Return the score that a new row exceeds with a probability of at most α; infinite with too few rows."""
    rank = quantile_rank(len(score_N), coverage)
    return math.inf if rank > len(score_N) else float(np.partition(score_N, rank - 1)[rank - 1])


def conformal_intervals(
    value_GR: Float64, score_N: Float64, group_N: Int64, coverage: float, scale_R: Float64 | None = None
) -> tuple[Float64, Float64]:
    """Return the lower and the upper ends of intervals, float64 [R] each, infinite with too few calibration rows.

    CV+: each calibration row proposes the ends ``value − score`` and ``value + score``, where ``value`` is the
    prediction by the models that were not trained on this calibration row. The interval ranges from the ⌊α(N + 1)⌋-th
    smallest lower end to the ⌈(1 − α)(N + 1)⌉-th smallest upper end. With one group this is ``value ± quantile``.

    Args:
        value_GR: predictions by the models of each group.
        score_N: absolute residuals of the calibration rows, divided by their own scales if ``scale_R`` is given.
        group_N: group of each calibration row, from 0.
        coverage: requested coverage 1 − α.
        scale_R: factor on the scores for each row to predict; None: 1.
    """
    scaled_R = np.ones(value_GR.shape[1]) if scale_R is None else scale_R
    rank = quantile_rank(len(score_N), coverage)
    if rank > len(score_N):
        infinite_R = np.full(value_GR.shape[1], np.inf)
        return -infinite_R, infinite_R
    if len(value_GR) == 1:
        half_R = conformal_quantile(score_N, coverage) * scaled_R
        return value_GR[0] - half_R, value_GR[0] + half_R
    low_R, high_R = np.empty(value_GR.shape[1]), np.empty(value_GR.shape[1])
    size = max(1, _CHUNK // len(score_N))
    for start in range(0, len(low_R), size):
        part = slice(start, start + size)
        value_NR, score_NR = value_GR[group_N, part], score_N[:, None] * scaled_R[part]
        low_R[part] = np.partition(value_NR - score_NR, len(score_N) - rank, axis=0)[len(score_N) - rank]
        high_R[part] = np.partition(value_NR + score_NR, rank - 1, axis=0)[rank - 1]
    return low_R, high_R


def conformal_sets(probability_GRC: Float64, score_N: Float64, class_N: Int64, group_N: Int64, coverage: float) -> Bool:
    """Return which classes are in the set of each row, bool [R, C]; coverage holds for each class (Mondrian).

    A class is in the set of a row if its score, 1 − p, is at most the quantile of the scores of the calibration rows of
    this class (LAC: Sadinle, Lei and Wasserman 2019, doi:10.1080/01621459.2017.1395341); such sets are the smallest on
    average. A set is empty if no class reaches its quantile. A class with too few calibration rows is in every set.

    Args:
        probability_GRC: class probabilities by the models of each group.
        score_N: 1 − probability of the true class of each calibration row.
        class_N: true class of each calibration row, from 0.
        group_N: group of each calibration row, from 0.
        coverage: requested coverage 1 − α among the rows of each class.
    """
    _, num_rows, num_classes = probability_GRC.shape
    in_set_RC = np.empty((num_rows, num_classes), bool)
    for label in range(num_classes):
        below_R = np.zeros(num_rows, np.int64)  # number of calibration rows with lower scores
        for group, probability_RC in enumerate(probability_GRC):
            scores = np.sort(score_N[(class_N == label) & (group_N == group)])
            below_R += np.searchsorted(scores, 1.0 - probability_RC[:, label], side="left")
        in_set_RC[:, label] = below_R < quantile_rank(int((class_N == label).sum()), coverage)
    return in_set_RC
