"""Statistics of scores from a repeated cross-validation: an interval of a mean, and comparisons of several methods.

The folds of a cross-validation are not independent: any two models share most of their training molecules, and every
repeat tests the same molecules again. Therefore the variance of the scores divided by their number underestimates the
variance of the mean, more so with more repeats, and no unbiased estimate exists (Bengio and Grandvalet, JMLR 5, 2004).
Nadeau and Bengio (Machine Learning 52, 2003) add the correlation expected between test scores whose training sets
overlap: the variance of a mean of J scores is

    (1/J + n_test/n_train) · s²

With it, repeats narrow an interval only down to the part that is due to the choice of training molecules (Bouckaert
and Frank, PAKDD 2004, on repeated folds). This is a heuristic, tested in simulations; it is the default here, and
uncorrected intervals are returned too.

Shapes: A methods, J blocks (a fold of a repeat, which all methods share).
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Float64 = npt.NDArray[np.float64]

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Ends of an interval."""

    low: float
    high: float

    def within(self, least: float, most: float) -> "Interval":
        """Return the part of it that lies between two values; NaN stays."""
        return Interval(low=max(self.low, least), high=min(self.high, most))

    def holds(self, value: float) -> bool:
        """Return whether a value lies in the interval, ends included."""
        return self.low <= value <= self.high


@dataclass(frozen=True, kw_only=True)
class BlockDifference:
    """The difference between the scores of two methods on the same blocks, first − second.

    Attributes:
        first: number of the first method, from 0.
        second: number of the second method.
        value: mean difference of the scores.
        interval: interval of the difference, simultaneous for all pairs of methods and corrected for shared training
            molecules.
        p: p value of the hypothesis of no difference, with the same corrections.
        uncorrected: interval as if folds were independent, simultaneous for all pairs, as in Ash et al.
        uncorrected_p: p value as if folds were independent, for all pairs.
        effect: mean of the blocks' differences divided by their standard deviation (Cohen's d for pairs); NaN if they
            do not vary.
        blocks_higher: number of blocks in which the first method has the higher score.
        blocks_lower: number of blocks in which the first method has the lower score.
    """

    first: int
    second: int
    value: float
    interval: Interval
    p: float
    uncorrected: Interval
    uncorrected_p: float
    effect: float
    blocks_higher: int
    blocks_lower: int


@dataclass(frozen=True, kw_only=True)
class BlockComparison:
    """Several methods compared on the same blocks.

    Attributes:
        means: [A] mean scores.
        f: F statistic of the repeated-measures analysis of variance, corrected for shared training molecules.
        p: p value of the hypothesis of no difference between any of the methods.
        uncorrected_f: F statistic as if folds were independent.
        uncorrected_p: p value as if folds were independent.
        pairs: every pair of methods once, the lower number first.
    """

    means: tuple[float, ...]
    f: float
    p: float
    uncorrected_f: float
    uncorrected_p: float
    pairs: tuple[BlockDifference, ...]


def corrected_interval(scores_J: Sequence[float], test_to_train: float, confidence: float = CONFIDENCE) -> Interval:
    """Return the interval of the mean score of a method, from Nadeau and Bengio's variance and Student's t.

    It applies to training and test sets like these; other kinds of molecules may be harder.

    Args:
        scores_J: [J] scores of the blocks.
        test_to_train: number of test rows of a fold divided by its training and validation rows.
        confidence: confidence level of the interval.

    Returns:
        NaN for both ends if there are fewer than two scores.
    """
    scores = np.asarray(scores_J, np.float64)
    if len(scores) < 2:
        return Interval(low=math.nan, high=math.nan)
    error = math.sqrt((1.0 / len(scores) + test_to_train) * float(scores.var(ddof=1)))
    half = float(stats.t.ppf(0.5 + confidence / 2.0, len(scores) - 1)) * error
    mean = float(scores.mean())
    return Interval(low=mean - half, high=mean + half)


def compare_methods(scores_AJ: Float64, test_to_train: float, confidence: float = CONFIDENCE) -> BlockComparison:
    """Compare methods whose scores were measured on the same blocks.

    The tests are those that Ash et al. recommend (J. Chem. Inf. Model. 2025, "Practically significant method comparison
    protocols for machine learning in small molecule drug discovery"): an analysis of variance with repeated measures,
    whose blocks remove the differences in difficulty between folds, and Tukey's honestly significant differences, whose
    intervals hold for all pairs of methods together, so that comparing many methods does not produce chance findings.

    Ash et al. use the variance of independent folds. Here 1/J is replaced by 1/J + n_test/n_train in both tests, which
    for two methods yields the corrected t test of Nadeau and Bengio; the uncorrected values are returned too.

    The pooled variance of Tukey's intervals assumes that the differences of all pairs of methods vary equally over
    blocks (sphericity), and that scores are about normal. If one method varies much more than the others, compare two
    methods at a time.

    Args:
        scores_AJ: float64, finite; A and J are at least 2.
        test_to_train: number of test rows of a fold divided by its training and validation rows.
        confidence: confidence level of the intervals, for all pairs together.
    """
    A, J = scores_AJ.shape
    assert min(A, J) > 1, "several methods on several blocks"
    assert np.isfinite(scores_AJ).all(), "every method has a score on every block"
    method_A, block_J, total = scores_AJ.mean(1), scores_AJ.mean(0), scores_AJ.mean()
    left_AJ = scores_AJ - method_A[:, None] - block_J[None, :] + total
    freedom = (A - 1) * (J - 1)
    residual = float((left_AJ**2).sum()) / freedom  # mean square
    between = J * float(((method_A - total) ** 2).sum()) / (A - 1)
    tiny = 8.0 * np.finfo(np.float64).eps * float(np.abs(scores_AJ).max())  # differences due to rounding alone
    residual, between = (value if value > J * tiny**2 else 0.0 for value in (residual, between))
    plain, corrected = 1.0 / J, 1.0 / J + test_to_train
    uncorrected_f = _ratio(between, residual)
    f = uncorrected_f * plain / corrected
    critical = float(stats.studentized_range.ppf(confidence, A, freedom))
    pairs = []
    for first, second in itertools.combinations(range(A), 2):
        each_J = scores_AJ[first] - scores_AJ[second]
        value, spread = float(each_J.mean()), float(each_J.std(ddof=1))
        errors = [math.sqrt(residual * weight) for weight in (corrected, plain)]
        intervals = [Interval(low=value - critical * error, high=value + critical * error) for error in errors]
        chances = [_tail(abs(value), error, A, freedom) for error in errors]
        pairs.append(
            BlockDifference(
                first=first,
                second=second,
                value=value,
                interval=intervals[0],
                p=chances[0],
                uncorrected=intervals[1],
                uncorrected_p=chances[1],
                effect=value / spread if spread > tiny else math.nan,
                blocks_higher=int((each_J > 0.0).sum()),
                blocks_lower=int((each_J < 0.0).sum()),
            )
        )
    return BlockComparison(
        means=tuple(method_A.tolist()),
        f=f,
        p=float(stats.f.sf(f, A - 1, freedom)),
        uncorrected_f=uncorrected_f,
        uncorrected_p=float(stats.f.sf(uncorrected_f, A - 1, freedom)),
        pairs=tuple(pairs),
    )


def _ratio(between: float, residual: float) -> float:
    if residual > 0.0:
        return between / residual
    return math.inf if between > 0.0 else 0.0


def _tail(difference: float, error: float, methods: int, freedom: int) -> float:
    """Return the p value of a studentized range: the probability of one at least as large without any difference."""
    if error == 0.0:
        return 1.0 if difference == 0.0 else 0.0
    return float(stats.studentized_range.sf(difference / error, methods, freedom))
