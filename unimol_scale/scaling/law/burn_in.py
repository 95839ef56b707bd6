"""What is left out at the start of runs where the points along them are fitted: a share, or a number of steps."""

from dataclasses import dataclass

from unimol_scale.errors import ConfigError, RunError
from unimol_scale.scaling.runs.run_records import RunRecord

SHARE = 0.25  # of a run, unless something else is asked for


@dataclass(frozen=True, kw_only=True)
class BurnIn:
    """What is left out at the start of every run; one of the two.

    Attributes:
        share: of the molecules of the run, from 0 up to but not 1.
        steps: optimiser steps; a validation at the last of them is left out. Uni-Mol2 (arXiv 2406.14969) left out the
            first 200,000 of 810,000.
    """

    share: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if (self.share is None) == (self.steps is None):
            raise ConfigError("--burn-in and --burn-in-steps say the same in two ways: give one of them")
        if self.share is not None and not 0 <= self.share < 1:
            raise ConfigError(f"--burn-in is a share of a run from 0 up to but not 1, got {self.share}")
        if self.steps is not None and (not isinstance(self.steps, int) or self.steps < 0):
            raise ConfigError(f"--burn-in-steps is a whole number of steps from 0, got {self.steps!r}")

    def keeps(self, molecules: float, record: RunRecord) -> bool:
        """Return whether a validation after so many molecules of a run counts."""
        if self.share is not None:
            return molecules >= self.share * record.molecules
        assert self.steps is not None
        return molecules * _steps_of(record) > self.steps * record.molecules

    def check(self, record: RunRecord) -> None:
        """Find out whether the end of a run counts, which is its last point.

        Raises:
            RunError: the run is no longer than what is left out, or does not say how many steps it has.
        """
        if self.steps is not None and _steps_of(record) <= self.steps:
            raise RunError(
                f"{record.source} has {record.steps:,} steps, and --burn-in-steps {self.steps} leaves out as many: "
                f"lower it, or leave the run out with --leave-out {record.name}"
            )

    def describe(self) -> str:
        """Return what is left out, in words."""
        return f"{self.steps:,} steps" if self.share is None else f"{self.share:.0%}"


def _steps_of(record: RunRecord) -> int:
    if record.steps is None:
        raise RunError(f"{record.source} does not say how many steps it has; use --burn-in, a share of every run")
    return record.steps


def burn_in_of(share: float | None, steps: int | None) -> BurnIn | None:
    """Return what is left out of runs by the two settings of it; None, where neither is given, for all but the ends."""
    return None if share is None and steps is None else BurnIn(share=share, steps=steps)


def share_of_user(share: float | None, steps: int | None, *, trajectories: bool) -> float | None:
    """Return the share that is left out by what the user gave: the usual one for points along runs.

    Args:
        share: given by the user.
        steps: given by the user.
        trajectories: whether the points along runs are fitted; without them every run counts by its end alone.

    Raises:
        RunError: a burn-in is given without them.
    """
    for flag, given in (("--burn-in", share), ("--burn-in-steps", steps)):
        if given is not None and not trajectories:
            raise RunError(f"{flag} belongs to --trajectories; without it every run counts by its end alone")
    return SHARE if trajectories and share is None and steps is None else share
