"""Progress of a fine-tuning: a bar on a terminal, a message now and then elsewhere."""

import logging
import time
from types import TracebackType

from rich.progress import Progress

from unimol_scale.downstream.finetuning.model.training import Epoch
from unimol_scale.engine.log.run_log import clock, step_bar

_LINE_SECONDS = 10.0
_log = logging.getLogger(__name__)


class EpochProgress:
    """Shows how far one model is.

    Args:
        label: such as the data and the seed.
        total: epochs at most.
        metric: of the validation score.
    """

    def __init__(self, label: str, total: int, metric: str) -> None:
        self._label, self._total, self._metric = label, total, metric
        self._began = time.monotonic()
        self._last_line = float("-inf")
        self._newest: Epoch | None = None
        self._best = float("nan")
        self._progress: Progress | None = None

    def __enter__(self) -> "EpochProgress":
        if (bar := step_bar(self._label, self._total)) is not None:
            self._progress, self._task = bar
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
        elif kind is None and self._newest is not None:
            self._tell(f"done after {self._newest.epoch} epochs")

    def epoch(self, epoch: Epoch) -> None:
        """Show an epoch."""
        self._newest = epoch
        if epoch.best == epoch.epoch:
            self._best = epoch.score
        now = time.monotonic()
        if self._progress is not None:
            left = (now - self._began) / epoch.epoch * (self._total - epoch.epoch)
            eta = f"≤ {clock(left)}"
            self._progress.update(self._task, completed=epoch.epoch, status=self._status(), eta=eta)
        elif now - self._last_line >= _LINE_SECONDS:
            self._last_line = now
            self._tell(f"epoch {epoch.epoch}/{self._total}")

    def _status(self) -> str:
        assert self._newest is not None
        return (
            f"loss {self._newest.loss:.4f}  valid {self._metric} {self._newest.score:.4f}  "
            f"best {self._best:.4f} at epoch {self._newest.best}"
        )

    def _tell(self, what: str) -> None:
        _log.info(f"[{self._label}] {what}  {self._status()}")
