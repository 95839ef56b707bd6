"""How sure the predictions of a fine-tuning are, measured on its test rows, as ``results.json`` keeps it.

Imports no torch. Shapes: L targets.
"""

from dataclasses import dataclass

from unimol_scale.downstream.uncertainty.found_coverage import FoundCoverage
from unimol_scale.downstream.uncertainty.rules import CalibratedOn, ConformalKind


@dataclass(frozen=True, kw_only=True)
class TargetCoverage:
    """What the intervals or sets of one target were worth on the test rows.

    Attributes:
        calibration_rows: with a label of this target; of classes, of the rarest one.
        missing: calibration rows that are lacking for the coverage that is asked for; 0: there are enough.
        found: on the test rows; None if there are too few calibration rows, or no test row has a label.
        width: mean width of an interval, in the unit of the target; of sets, the mean number of classes. None likewise.
        single: of sets, the share with exactly one class; None of intervals.
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
        coverage: that was asked for.
        kind: of the scores.
        rows: which rows calibrated them.
        targets: [L] what was found.
    """

    coverage: float
    kind: ConformalKind
    rows: CalibratedOn
    targets: tuple[TargetCoverage, ...]


@dataclass(frozen=True, kw_only=True)
class DomainCheck:
    """Errors of the test rows inside and outside of the domain.

    Attributes:
        test_rows: all there are with a label that is no bound; of very many, ``inside`` and ``outside`` count a random
            choice.
        inside: test rows in the domain.
        outside: the others.
        inside_error: mean error of those in it: absolute error of a regression, share of wrong classes; as a mean over
            targets. None without such a row.
        outside_error: likewise.
        in_units: whether these are in the one unit of the labels; else of several targets in standard deviations of the
            training labels.
        larger_p: p value, one-sided, of the hypothesis that errors outside are no larger (Mann and Whitney 1947); None
            if it cannot be told.
        with_vectors: whether the model's own vectors decided, too, or fingerprints alone.
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
    """Everything that is known of how sure the predictions are.

    Attributes:
        score_low: end of the 95 % interval of the test score; None of a cross-validation, which has its own, without
            test rows, or where it is not defined.
        score_high: its other end.
        score_standardised: whether it is of the mean over targets in standard deviations of the training labels.
        spread: whether the spread over seeds follows the error, in words; "" with one seed, or without test rows.
        conformal: intervals, or sets of classes.
        domain: None: it was turned off.
    """

    score_low: float | None
    score_high: float | None
    score_standardised: bool
    spread: str
    conformal: ConformalCheck
    domain: DomainCheck | None
