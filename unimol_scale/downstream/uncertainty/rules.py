"""What ``finetuned.json`` keeps of the uncertainty of its predictions: how intervals and the domain are found.

Shapes: L targets.
"""

from dataclasses import dataclass
from typing import Literal

from unimol_scale.errors import ConfigError

ConformalKind = Literal["plain", "normalised"]
CalibratedOn = Literal["validation", "calibration", "out-of-fold"]
LEAST_COVERAGE = 0.5


def check_coverage(coverage: float) -> None:
    """Check that a coverage is one to ask for.

    Raises:
        ConfigError: it is not.
    """
    if not LEAST_COVERAGE <= coverage < 1.0:  # NaN is not
        raise ConfigError(f"coverage must be at least {LEAST_COVERAGE} and below 1, such as 0.9; got {coverage}")


@dataclass(frozen=True, kw_only=True)
class ConformalRule:
    """How intervals or sets are made from the calibration rows, which a file beside ``finetuned.json`` holds.

    Attributes:
        sha256: of that file, hexadecimal.
        rows: which rows it has: those of validation, which chose the epochs too; those that were set aside for nothing
            else; or every row, as predicted by the models of a cross-validation that had not seen it.
        coverage: share of the labels that are to be held, where ``predict`` is not asked for another one.
        kind: whether residuals of a regression are taken as they are, or over ``spread of the seeds + floor``.
        floor_L: that floor, the mean spread of the training rows, in units of the targets; empty for "plain".
    """

    sha256: str
    rows: CalibratedOn
    coverage: float
    kind: ConformalKind = "plain"
    floor_L: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DomainRule:
    """Where the domain ends; the training molecules are in a file beside ``finetuned.json``.

    Attributes:
        sha256: of that file, hexadecimal.
        fingerprint: least Tanimoto similarity of ECFP4; None: there are fewer than two training molecules.
        vector: least cosine of the model's vectors; None: likewise, or the file has no vectors.
    """

    sha256: str
    fingerprint: float | None
    vector: float | None = None
