"""Progress of a fine-tuning: a bar on a terminal, a line now and then elsewhere."""

import contextlib
import sys
import time
from types import TracebackType

from rich.progress import Progress

from unimol_scale.downstream.finetuning.model.training import Epoch
from unimol_scale.engine.log.run_log import clock, terminal_bar

_LINE_SECONDS = 10.0


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
        if (bar := terminal_bar(self._label, self._total)) is not None:
            self._progress, self._task = bar
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
        elif kind is None and self._newest is not None:
            self._print(f"done after {self._newest.epoch} epochs")

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
            self._print(f"epoch {epoch.epoch}/{self._total}")

    def _status(self) -> str:
        assert self._newest is not None
        return (
            f"loss {self._newest.loss:.4f}  valid {self._metric} {self._newest.score:.4f}  "
            f"best {self._best:.4f} at epoch {self._newest.best}"
        )

    def _print(self, what: str) -> None:
        with contextlib.suppress(OSError):  # whoever read it is gone, and the work goes on
            print(f"[{self._label}] {what}  {self._status()}", file=sys.stderr, flush=True)
