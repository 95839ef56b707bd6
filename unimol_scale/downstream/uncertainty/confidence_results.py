"""Reliability of the predictions of a fine-tuning, measured on its test rows, as stored in ``results.json``.

Imports no torch. Shapes: L targets.
"""

from dataclasses import dataclass

from unimol_scale.downstream.uncertainty.found_coverage import FoundCoverage
from unimol_scale.downstream.uncertainty.rules import CalibratedOn, ConformalKind


@dataclass(frozen=True, kw_only=True)
class TargetCoverage:
    """Intervals or sets of one target, checked on the test rows.

    Attributes:
        calibration_rows: number of calibration rows with a label; for classes, of the rarest class.
        missing: number of further calibration rows that the requested coverage needs; 0: there are enough.
        found: coverage on the test rows; None if there are too few calibration rows, or no test row has a label.
        width: mean width of the intervals, in the unit of the target, or mean number of classes in the sets; None
            under the same conditions.
        single: fraction of the sets with exactly one class; None for intervals.
    """

    calibration_rows: int
    missing: int = 0
    found: FoundCoverage | None = None
    width: float | None = None
    single: float | None = None


@dataclass(frozen=True, kw_only=True)
class ConformalCheck:
    """Conformal intervals or sets on the test rows.

    Attributes:
        coverage: requested coverage.
        kind: kind of the nonconformity scores.
        rows: rows that calibrated them.
        targets: [L] results of each target.
    """

    coverage: float
    kind: ConformalKind
    rows: CalibratedOn
    targets: tuple[TargetCoverage, ...]


@dataclass(frozen=True, kw_only=True)
class DomainCheck:
    """Errors of the test rows inside and outside the applicability domain.

    Attributes:
        test_rows: number of test rows with a label that is not a bound; if there are very many, ``inside`` and
            ``outside`` count a random subset.
        inside: number of test rows in the domain.
        outside: number of test rows outside the domain.
        inside_error: mean error of the rows inside: absolute error of a regression, or fraction of wrong classes, as a
            mean over targets; None without such rows.
        outside_error: mean error of the rows outside; None without such rows.
        in_units: whether the errors are in the common unit of the labels; otherwise, with several targets, they are in
            standard deviations of the training labels.
        larger_p: one-sided p value of the hypothesis that errors outside are not larger (Mann and Whitney 1947); None
            if it cannot be computed.
        with_vectors: whether the domain also depends on the model's vectors, not only on fingerprints.
    """

    test_rows: int
    inside: int
    outside: int
    inside_error: float | None
    outside_error: float | None
    in_units: bool
    larger_p: float | None
    with_vectors: bool


@dataclass(frozen=True, kw_only=True)
class ConfidenceResults:
    """Results on the reliability of the predictions.

    Attributes:
        score_low: lower end of the 95 % interval of the test score; None for a cross-validation, which has its own
            interval, without test rows, or if it is undefined.
        score_high: upper end of this interval.
        score_standardised: whether the interval is that of the mean over targets in standard deviations of the training
            labels.
        spread: a text that says whether the spread over seeds grows with the error; "" with one seed, or without test
            rows.
        conformal: results for intervals or sets of classes.
        domain: results for the applicability domain; None: it was turned off.
    """

    score_low: float | None
    score_high: float | None
    score_standardised: bool
    spread: str
    conformal: ConformalCheck
    domain: DomainCheck | None
