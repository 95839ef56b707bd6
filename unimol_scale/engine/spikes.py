"""Detects loss spikes. Deterministic: equal losses give equal decisions on every rank.

A loss is a spike if it lies more than ``factor`` spreads above the level of the recent losses.
- Level: the median of the window or of its newest eighth, whichever is lower. The newest losses follow a falling loss,
  as in warm-up, so that a jump shows there too; the whole window remembers the start of a loss that climbs step by
  step.
- Spread: of the changes from one loss to the next (1.4826 × their median absolute deviation / √2, the standard
  deviation
  of normal noise for any slope), but at least 2 % of the level, so that a smooth curve does not trigger false alarms.
Medians ignore a few outliers. In a mixture, steps that learn different objectives are compared separately.
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
_FEWEST = 8  # fewest losses for the median of a level


class SpikeDetector:
    """Watches the losses of a run.

    Args:
        window: number of recent losses of an objective with which a new one is compared; nothing counts as a spike
            until half of them exist.
        factor: number of spreads above the level beyond which a loss is a spike.

    Raises:
        ConfigError: the window is too short, or the factor is not positive.
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
        """Compare a step's loss with those before it, and remember it; a loss that is not finite is never remembered.

        Args:
            loss: loss of the step over all ranks.
            part: for a mixture, the objective that the step learnt.

        Returns:
            Whether the loss is a spike; a loss that is not finite always is.
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
        """Return the state to store in a checkpoint: recent losses of each objective, which JSON stores exactly."""
        return {part: list(recent) for part, recent in self._recent.items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Sequence[float]], *, window: int, factor: float) -> "SpikeDetector":
        """Return a detector that continues from a state; a shorter window keeps only the newest losses."""
        detector = cls(window, factor)
        detector._recent = {part: deque(losses, maxlen=window) for part, losses in state.items()}
        return detector
