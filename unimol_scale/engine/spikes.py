"""Detects loss spikes. Deterministic: the same losses give the same answers on every rank.

A loss is a spike when it lies more than ``factor`` spreads above the level of the recent losses.
- Level: the median of the window or of its newest eighth, whichever is lower. The newest follow a falling loss, as in
  warm-up, so that a jump shows there too; the whole window remembers where a loss that climbs step by step came from.
- Spread: of the changes from one loss to the next (1.4826 × their median absolute deviation / √2, which is the standard
  deviation of normal noise whatever the slope), and at least 2 % of the level: a smooth curve is not read too closely.
Medians ignore a few outliers. Steps of a mixture that learn different objectives are judged apart.
"""

import itertools
import math
from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median

from unimol_scale.errors import ConfigError

MIN_WINDOW = 16
_NORMAL = 1.4826
_SMALLEST_SPREAD = 0.02
_FEWEST = 8  # losses that a level is the median of


class SpikeDetector:
    """Watches the losses of a run.

    Args:
        window: recent losses of an objective that a new one is compared with; until half of them are there, nothing is
            a spike.
        factor: spreads above the level from which on a loss is a spike.

    Raises:
        ConfigError: the window is too short to judge by, or the factor is not positive.
    """

    def __init__(self, window: int = 128, factor: float = 10.0) -> None:
        if window < MIN_WINDOW:
            raise ConfigError(f"the window of the spike detector must be at least {MIN_WINDOW} steps, got {window}")
        if not factor > 0.0:
            raise ConfigError(f"the factor of the spike detector must be positive, got {factor}")
        self._window = window
        self._factor = factor
        self._recent: dict[str, deque[float]] = {}

    def observe(self, loss: float, part: str = "") -> bool:
        """Judge a step's loss by those before it, and remember it; one that is not finite is never remembered.

        Args:
            loss: of the step, over all ranks.
            part: of a mixture, the objective that the step learnt.

        Returns:
            Whether it is a spike; so is a loss that is not finite.
        """
        if not math.isfinite(loss):
            return True
        recent = self._recent.setdefault(part, deque(maxlen=self._window))
        spike = len(recent) >= self._window // 2 and loss > self._threshold(recent)
        recent.append(loss)
        return spike

    def _threshold(self, recent: Sequence[float]) -> float:
        losses = list(recent)
        level = min(median(losses), median(losses[-max(self._window // 8, _FEWEST) :]))
        changes = [after - before for before, after in itertools.pairwise(losses)]
        slope = median(changes)
        spread = _NORMAL * median(abs(change - slope) for change in changes) / math.sqrt(2.0)
        return level + self._factor * max(spread, _SMALLEST_SPREAD * abs(level))

    def state(self) -> dict[str, list[float]]:
        """Return what a checkpoint must hold: the recent losses of each objective; JSON keeps them exactly."""
        return {part: list(recent) for part, recent in self._recent.items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Sequence[float]], *, window: int, factor: float) -> "SpikeDetector":
        """Return the detector that goes on from a state; a shorter window takes the newest losses of it."""
        detector = cls(window, factor)
        detector._recent = {part: deque(losses, maxlen=window) for part, losses in state.items()}
        return detector
