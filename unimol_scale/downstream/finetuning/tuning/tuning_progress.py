"""Progress of a search: a bar on a terminal, a message after every trial elsewhere."""

import logging
import time
from types import TracebackType

from unimol_scale.common.progress import ProgressDisplay, training_columns
from unimol_scale.common.units import clock
from unimol_scale.downstream.metric import Metric

_log = logging.getLogger(__name__)


class TuningProgress:
    """Shows the progress of a search, and how long it may still take.

    Args:
        label: names the search, such as by its data.
        trials: total number of trials.
        folds: number of folds of each trial.
        done: number of trials that are already finished.
    """

    def __init__(self, label: str, trials: int, folds: int, *, done: int) -> None:
        self._label, self._trials, self._folds = label, trials, folds
        self._completed = done  # trials
        self._fitted = self._in_trial = 0  # folds, since this program began and in the present trial
        self._began = time.monotonic()
        self._best: float | None = None
        self._display = ProgressDisplay(f"{label}, search", trials, training_columns, log=_log, line_at_once=True)

    def __enter__(self) -> "TuningProgress":
        self._display.start(self._completed, status="", eta="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.stop()

    def fold_done(self) -> None:
        """Count a finished fold."""
        self._fitted += 1
        self._in_trial += 1
        self._display.update(self._completed, status=self._status(), eta=self._left())

    def trial_done(self, number: int, mean: float | None, metric: Metric) -> None:
        """Count a finished trial.

        Args:
            number: number of the trial, from 1.
            mean: mean score of the trial; None: it was stopped early.
            metric: metric of the score.
        """
        self._completed, self._in_trial = number, 0
        if mean is not None and (self._best is None or metric.is_better(mean, self._best)):
            self._best = mean
        said = "stopped early" if mean is None else f"{metric.name} {mean:.4f}"
        self._display.update(number, status=self._status(), eta=self._left())
        self._display.line(
            f"[{self._label}, search] trial {number}/{self._trials}: {said}  {self._status()}  {self._left()} left",
            at_once=True,
        )

    def _status(self) -> str:
        return "" if self._best is None else f"best {self._best:.4f}"

    def _left(self) -> str:
        """Return an upper bound of the remaining time as text: trials that are stopped early take less."""
        seconds = time.monotonic() - self._began
        folds = (self._trials - self._completed) * self._folds - self._in_trial
        return f"≤ {clock(seconds / max(1, self._fitted) * folds)}"
