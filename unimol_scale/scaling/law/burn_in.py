"""What is left out at the start of runs if the points along them are fitted: a fraction, or a number of steps."""

from dataclasses import dataclass

from unimol_scale.errors import ConfigError, RunError
from unimol_scale.scaling.runs.run_records import RunRecord

SHARE = 0.25  # default fraction of a run


@dataclass(frozen=True, kw_only=True)
class BurnIn:
    """What is left out at the start of every run; exactly one of the two is set.

    Attributes:
        share: fraction of the run's molecules, at least 0 and below 1.
        steps: optimiser steps; a validation at the last of these is left out too. Uni-Mol2 (arXiv 2406.14969) left out
            the first 200,000 of 810,000.
    """

    share: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if (self.share is None) == (self.steps is None):
            raise ConfigError("--burn-in and --burn-in-steps exclude each other: give only one of them")
        if self.share is not None and not 0 <= self.share < 1:
            raise ConfigError(f"--burn-in is a fraction of a run, at least 0 and below 1; got {self.share}")
        if self.steps is not None and (not isinstance(self.steps, int) or self.steps < 0):
            raise ConfigError(f"--burn-in-steps is a whole number of steps, at least 0; got {self.steps!r}")

    def keeps(self, molecules: float, record: RunRecord) -> bool:
        """Return whether a validation after this many molecules of a run counts."""
        if self.share is not None:
            return molecules >= self.share * record.molecules
        assert self.steps is not None
        return molecules * _steps_of(record) > self.steps * record.molecules

    def check(self, record: RunRecord) -> None:
        """Check that the last point of a run still counts.

        Raises:
            RunError: the run is not longer than what is left out, or does not record its number of steps.
        """
        if self.steps is not None and _steps_of(record) <= self.steps:
            raise RunError(
                f"{record.source} has {record.steps:,} steps, all of which --burn-in-steps {self.steps} would leave "
                f"out: lower it, or leave out the run with --leave-out {record.name}"
            )

    def describe(self) -> str:
        """Return what is left out, in words."""
        return f"{self.steps:,} steps" if self.share is None else f"{self.share:.0%}"


def _steps_of(record: RunRecord) -> int:
    if record.steps is None:
        raise RunError(f"{record.source} does not record its number of steps; use --burn-in, a fraction of every run")
    return record.steps


def burn_in_of(share: float | None, steps: int | None) -> BurnIn | None:
    """Return what the two settings leave out of runs; None if neither is given, so that only the ends count."""
    return None if share is None and steps is None else BurnIn(share=share, steps=steps)


def share_of_user(share: float | None, steps: int | None, *, trajectories: bool) -> float | None:
    """Return the fraction to leave out by the user's settings, with the default if points along runs are fitted.

    Args:
        share: given by the user.
        steps: given by the user.
        trajectories: whether points along runs are fitted; otherwise only the end of every run counts.

    Raises:
        RunError: a burn-in is given without trajectories.
    """
    for flag, given in (("--burn-in", share), ("--burn-in-steps", steps)):
        if given is not None and not trajectories:
            raise RunError(f"{flag} needs --trajectories; without it only the end of every run counts")
    return SHARE if trajectories and share is None and steps is None else share
