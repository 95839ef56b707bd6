"""A scaling law of your own in one file: L(N, D) = A/N^alpha + B/D^beta, Chinchilla's without a floor.

PYTHONPATH=tests/extensions unimol-scale fit-scaling-law runs/ --law toy_law:NoFloor
"""

import dataclasses
from typing import ClassVar

from unimol_scale.scaling.law.laws import Law, Term


@dataclasses.dataclass(frozen=True)
class NoFloor(Law):
    """The terms are all that a fit, its intervals, predictions and pictures need."""

    name: ClassVar[str] = "no-floor"
    source: ClassVar[str] = "an example"

    @property
    def formula(self):
        return "L = A/N^alpha + B/D^beta"

    @property
    def terms(self):
        return (
            Term(coefficient="A", exponent="alpha", variable="N"),
            Term(coefficient="B", exponent="beta", variable="D"),
        )
