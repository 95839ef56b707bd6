"""Progress of models that are trained at the same time: one bar on a terminal, else a message now and then."""

import logging
import time
from types import TracebackType

from unimol_scale.common.progress import ProgressDisplay, training_columns
from unimol_scale.common.units import clock, counted
from unimol_scale.downstream.finetuning.model.epochs import Epoch

_LINE_SECONDS = 10.0
_log = logging.getLogger(__name__)


class ModelsProgress:
    """Shows the progress of several trainings.

    Args:
        label: such as the data.
        models: number of trainings, of which some wait for others.
        epochs: at most, of each training.
        steps: of an epoch.
        metric: of the validation score.
    """

    def __init__(self, label: str, *, models: int, epochs: int, steps: int, metric: str) -> None:
        self._label, self._metric = label, metric
        self._models, self._epochs, self._steps = models, epochs, steps
        self._began = time.monotonic()
        self._saved = 0.0  # epochs that early stopping left out
        self._done_steps = self._ended = 0
        self._newest: dict[str, Epoch] = {}  # of the models in training
        self._best: dict[str, float] = {}
        self._display = ProgressDisplay(
            label, models * epochs, training_columns, log=_log, interval_s=_LINE_SECONDS, line_at_once=True
        )

    def __enter__(self) -> "ModelsProgress":
        self._began = time.monotonic()
        self._display.start(status="", eta="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.stop()

    def step(self) -> None:
        """Count a step of any model."""
        self._done_steps += 1
        self._update()

    def epoch(self, name: str, epoch: Epoch) -> None:
        """Take the results of an epoch of a model."""
        self._newest[name] = epoch
        if epoch.best == epoch.epoch:
            self._best[name] = epoch.score
        self._update()
        self._display.line(f"[{self._label}] {self._status()}")

    def end(self, name: str) -> None:
        """Say what came of a model, which is finished."""
        self._ended += 1
        newest = self._newest.pop(name, None)
        if newest is None:  # an earlier call had finished it
            return
        self._saved += self._epochs - newest.epoch
        self._update()
        done = f"done after {counted(newest.epoch, 'epoch')}"
        best = f"best valid {self._metric} {self._best[name]:.4f} at epoch {newest.best}"
        self._display.line(f"[{name}] {done}  loss {newest.loss:.4f}  {best}", at_once=True)

    def _update(self) -> None:
        done = self._done_steps / self._steps
        total = self._models * self._epochs - self._saved
        left = (time.monotonic() - self._began) / done * (total - done) if done else 0.0
        self._display.update(done + self._saved, status=self._status(), eta=f"≤ {clock(max(0.0, left))}")

    def _status(self) -> str:
        each = (
            f"{name.removeprefix(self._label).removeprefix(', ')}: epoch {epoch.epoch}/{self._epochs}, best valid "
            f"{self._metric} {self._best[name]:.4f}"
            for name, epoch in sorted(self._newest.items())
        )
        ended = f"{self._ended} of {counted(self._models, 'model')} done"
        return "; ".join([*([ended] if self._ended else []), *each])
