"""What ``finetuned.json`` stores about uncertainty: how intervals are made, and where the domain ends.

Shapes: L targets.
"""

from dataclasses import dataclass
from typing import Literal

from unimol_scale.errors import ConfigError

ConformalKind = Literal["plain", "normalised"]
CalibratedOn = Literal["validation", "calibration", "out-of-fold"]
LEAST_COVERAGE = 0.5


def check_coverage(coverage: float) -> None:
    """Check that a coverage is valid.

    Raises:
        ConfigError: it is below 0.5, 1 or more, or NaN.
    """
    if not LEAST_COVERAGE <= coverage < 1.0:  # refuses NaN too
        raise ConfigError(f"coverage must be at least {LEAST_COVERAGE} and below 1, such as 0.9; got {coverage}")


@dataclass(frozen=True, kw_only=True)
class ConformalRule:
    """How intervals or sets are made from the calibration rows, which are in a file beside ``finetuned.json``.

    Attributes:
        sha256: hexadecimal SHA-256 of that file.
        rows: which rows it holds: the validation rows, which also chose the epochs; rows set aside only for
            calibration; or all rows, predicted by models of a cross-validation that had not seen them.
        coverage: fraction of the labels that intervals or sets should contain, unless ``predict`` is given another one.
        kind: "plain" for residuals of a regression as they are, "normalised" for residuals divided by
            ``spread of the seeds + floor``.
        floor_L: that floor, the mean spread of the training rows, in units of the targets; empty for "plain".
    """

    sha256: str
    rows: CalibratedOn
    coverage: float
    kind: ConformalKind = "plain"
    floor_L: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DomainRule:
    """Where the applicability domain ends; the training molecules are in a file beside ``finetuned.json``.

    Attributes:
        sha256: hexadecimal SHA-256 of that file.
        fingerprint: smallest Tanimoto similarity of ECFP4 inside the domain; None with fewer than two training
            molecules.
        vector: smallest cosine similarity of the model's vectors inside the domain; None with fewer than two training
            molecules, or if the file has no vectors.
    """

    sha256: str
    fingerprint: float | None
    vector: float | None = None
