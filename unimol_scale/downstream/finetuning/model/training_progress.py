"""Progress of a fine-tuning: a bar on a terminal, a message now and then elsewhere."""

import logging
import time
from types import TracebackType
from typing import Protocol

from unimol_scale.common.progress import ProgressDisplay, training_columns
from unimol_scale.common.units import clock, counted
from unimol_scale.downstream.finetuning.model.epochs import Epoch

_LINE_SECONDS = 10.0
_log = logging.getLogger(__name__)


class TrainingProgress(Protocol):
    """Is told how far the training of one model is. It is entered before the first step and left after the last."""

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def step(self) -> None:
        """Count a step."""

    def epoch(self, epoch: Epoch) -> None:
        """Take the results of an epoch."""


class EpochProgress:
    """Shows the progress of training one model, once or at several learning rates.

    Args:
        label: such as the data and the seed.
        total: epochs at most, of each training.
        metric: of the validation score.
        steps: of an epoch.
        rates: number of learning rates that are tried one after the other. Each begins with an epoch 1.
        shown: whether to show anything at all.
    """

    def __init__(self, label: str, total: int, metric: str, *, steps: int, rates: int = 1, shown: bool = True) -> None:
        self._label, self._total, self._metric, self._steps = label, total, metric, steps
        self._rates, self._rate = rates, 0  # the rate that is tried now, from 1
        self._done_steps = 0
        self._began = time.monotonic()
        self._display = ProgressDisplay(
            label,
            total * rates,
            training_columns,
            log=_log,
            shown=shown,
            interval_s=_LINE_SECONDS,
            line_at_once=True,
        )
        self._newest: Epoch | None = None
        self._best = float("nan")

    def __enter__(self) -> "EpochProgress":
        self._began = time.monotonic()
        self._display.start(status="", eta="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.stop()
        if kind is not None or self._newest is None:
            return
        if self._rates > 1:
            self._display.line(f"[{self._label}] done after {self._rates} learning rates", at_once=True)
        else:
            self._display.line(self._line(f"done after {counted(self._newest.epoch, 'epoch')}"), at_once=True)

    def step(self) -> None:
        """Count a step, so that the bar moves and tells the time left before the first epoch is over."""
        self._done_steps += 1
        self._update(self._done_steps / self._steps)

    def epoch(self, epoch: Epoch) -> None:
        """Show the results of an epoch."""
        self._newest = epoch
        self._rate += epoch.epoch == 1
        if epoch.best == epoch.epoch:
            self._best = epoch.score
        self._update((self._rate - 1) * self._total + epoch.epoch)
        which = f"learning rate {self._rate} of {self._rates}, " if self._rates > 1 else ""
        self._display.line(self._line(f"{which}epoch {epoch.epoch}/{self._total}"))

    def _update(self, epochs: float) -> None:
        left = (time.monotonic() - self._began) / epochs * (self._total * self._rates - epochs)
        self._display.update(epochs, status=self._status(), eta=f"≤ {clock(left)}")

    def _status(self) -> str:
        if self._newest is None:
            return ""
        noise = "" if self._newest.noise_loss is None else f"noise {self._newest.noise_loss:.4f}  "
        return (
            f"loss {self._newest.loss:.4f}  {noise}valid {self._metric} {self._newest.score:.4f}  "
            f"best {self._best:.4f} at epoch {self._newest.best}"
        )

    def _line(self, what: str) -> str:
        return f"[{self._label}] {what}  {self._status()}"
