"""Sets the learning rates of a ladder's runs by a law, and reports how far it is extrapolated. Imports no torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unimol_scale.errors import ConfigError
from unimol_scale.scaling.ladder.objective_count import ObjectiveCount
from unimol_scale.scaling.law.points import PARAMETER_GROUPS
from unimol_scale.scaling.rates.rate_law import RateLaw
from unimol_scale.scaling.rates.rate_law_file import read_rate_law

RATE = "train.learning_rate"
BATCH = "train.global_batch_size"
DIGITS = 3  # significant digits of a rate


class LadderRates:
    """Sets learning rates by the law in a file.

    Args:
        path: law.json of ``fit-scaling-law --rates``.

    Raises:
        ConfigError: the file contains no such law.
    """

    def __init__(self, path: Path) -> None:
        self._law: RateLaw = read_rate_law(path)

    def setting(
        self, size: str, settings: Mapping[str, Any], steps: int, count: ObjectiveCount
    ) -> tuple[dict[str, float], tuple[str, ...]]:
        """Return the setting of a run's rate, and notes on how far the law is extrapolated for it.

        Args:
            size: name of the preset.
            settings: settings of the run by dotted path.
            steps: optimiser steps.
            count: parameter count of the model.

        Raises:
            ConfigError: the settings already set the rate, or lack the batch size.
        """
        if RATE in settings:
            raise ConfigError(f"overrides: {RATE} of {size} is already set by rate_law; leave out one of the two")
        batch = settings.get(BATCH)
        if not isinstance(batch, int) or batch < 1:
            raise ConfigError(f"rate_law: {size} needs a {BATCH} in overrides, to know how much data its runs see")
        groups = PARAMETER_GROUPS[self._law.parameters_counted]
        parameters = sum(count.parameters[name] for name in groups) if groups else count.parameters["total"]
        point = (parameters, float(steps) * batch, float(batch))
        return {RATE: float(f"{self._law.rate(*point):.{DIGITS}g}")}, tuple(self._law.beyond(*point))


def rate_lines(path: Path, runs: Sequence[tuple[str, float, Sequence[str]]]) -> list[str]:
    """Return lines on the rates of runs, for the user.

    Args:
        path: file of the law.
        runs: for each run, size and steps in words, its rate, and how far the law is extrapolated.
    """
    rates = dict.fromkeys(f"{name} {rate:.3g}" for name, rate, _ in runs)
    beyond: dict[str, dict[str, None]] = {}
    for name, _, notes in runs:
        for note in notes:
            beyond.setdefault(note, {})[name] = None
    return [
        f"learning rates by {path}: {', '.join(rates)}",
        *(f"extrapolated: {note}, for {', '.join(names)}" for note, names in beyond.items()),
    ]
