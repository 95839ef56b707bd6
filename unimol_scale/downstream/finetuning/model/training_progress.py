"""Progress of a fine-tuning: a bar on a terminal, a message now and then elsewhere."""

import logging
import time
from types import TracebackType

from unimol_scale.common.progress import ProgressDisplay, training_columns
from unimol_scale.common.units import clock
from unimol_scale.downstream.finetuning.model.epochs import Epoch

_LINE_SECONDS = 10.0
_log = logging.getLogger(__name__)


class EpochProgress:
    """Shows the progress of training one model.

    Args:
        label: names the training, such as the data and the seed.
        total: maximum number of epochs.
        metric: name of the metric of the validation score.
    """

    def __init__(self, label: str, total: int, metric: str) -> None:
        self._label, self._total, self._metric = label, total, metric
        self._began = time.monotonic()
        self._display = ProgressDisplay(
            label, total, training_columns, log=_log, interval_s=_LINE_SECONDS, line_at_once=True
        )
        self._newest: Epoch | None = None
        self._best = float("nan")

    def __enter__(self) -> "EpochProgress":
        self._display.start(status="", eta="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.stop()
        if kind is None and self._newest is not None:
            self._display.line(self._line(f"done after {self._newest.epoch} epochs"), at_once=True)

    def epoch(self, epoch: Epoch) -> None:
        """Show the results of an epoch."""
        self._newest = epoch
        if epoch.best == epoch.epoch:
            self._best = epoch.score
        left = (time.monotonic() - self._began) / epoch.epoch * (self._total - epoch.epoch)
        self._display.update(epoch.epoch, status=self._status(), eta=f"≤ {clock(left)}")
        self._display.line(self._line(f"epoch {epoch.epoch}/{self._total}"))

    def _status(self) -> str:
        assert self._newest is not None
        noise = "" if self._newest.noise_loss is None else f"noise {self._newest.noise_loss:.4f}  "
        return (
            f"loss {self._newest.loss:.4f}  {noise}valid {self._metric} {self._newest.score:.4f}  "
            f"best {self._best:.4f} at epoch {self._newest.best}"
        )

    def _line(self, what: str) -> str:
        return f"[{self._label}] {what}  {self._status()}"
