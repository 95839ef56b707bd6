"""Progress of models that are trained at the same time: one bar on a terminal, else a message now and then."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

from unimol_scale.common.progress import ProgressDisplay, training_columns
from unimol_scale.common.units import clock, counted
from unimol_scale.downstream.finetuning.model.epochs import Epoch

_LINE_SECONDS = 10.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long the training of a model is.

    Attributes:
        epochs: at most.
        steps: of an epoch.
    """

    epochs: int
    steps: int


class ModelsProgress:
    """Shows the progress of several trainings.

    Args:
        label: such as the data; the names of the models begin with it.
        lengths: name of each model → length of its training; some wait for others.
        metric: of the validation score.
    """

    def __init__(self, label: str, lengths: Mapping[str, Length], metric: str) -> None:
        self._label, self._lengths, self._metric = label, lengths, metric
        self._total = sum(length.epochs for length in lengths.values())
        self._began = time.monotonic()
        self._steps = dict.fromkeys(lengths, 0)  # done
        self._saved = 0  # epochs that early stopping left out
        self._ended = 0
        self._newest: dict[str, Epoch] = {}  # of the models in training
        self._best: dict[str, float] = {}
        self._display = ProgressDisplay(
            label, self._total, training_columns, log=_log, interval_s=_LINE_SECONDS, line_at_once=True
        )

    def __enter__(self) -> "ModelsProgress":
        self._began = time.monotonic()
        self._display.start(status="", eta="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.stop()

    def step(self, name: str) -> None:
        """Count a step of a model."""
        self._steps[name] += 1
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
        newest = self._newest.pop(name)
        self._saved += self._lengths[name].epochs - newest.epoch
        self._update()
        done = f"done after {counted(newest.epoch, 'epoch')}"
        best = f"best valid {self._metric} {self._best[name]:.4f} at epoch {newest.best}"
        self._display.line(f"[{name}] {done}  loss {newest.loss:.4f}  {best}", at_once=True)

    def _update(self) -> None:
        done = sum(steps / self._lengths[name].steps for name, steps in self._steps.items())
        left = max(0.0, self._total - self._saved - done)
        seconds = (time.monotonic() - self._began) / done * left if done else 0.0
        self._display.update(done + self._saved, status=self._status(), eta=f"~ {clock(seconds)}")

    def _status(self) -> str:
        scores = []
        for name, epoch in sorted(self._newest.items()):
            which = name.removeprefix(self._label).removeprefix(", ")
            scores.append(f"{self._best[name]:.4f} ({which}, {counted(epoch.epoch, 'epoch')})")
        best = [f"best valid {self._metric}: {', '.join(scores)}"] if scores else []
        ended = f"{self._ended} of {counted(len(self._lengths), 'model')} done"
        return "; ".join([*([ended] if self._ended else []), *best])
