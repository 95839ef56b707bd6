"""Says how much a fine-tuning or a search trains before it begins, and after its first steps how long that takes.

The time is measured on the first steps of the first model, since arithmetic does not know what else the machine does.
"""

import logging
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

from unimol_scale.common.units import counted, duration_range
from unimol_scale.downstream.config import FinetuneTrainConfig
from unimol_scale.downstream.data.batches import steps_per_epoch
from unimol_scale.model.accounting import TRAINING_TO_FORWARD

_WARM_STEPS = 2  # not measured: they start threads and fill caches
_LEAST_STEPS, _LEAST_SECONDS = 5, 2.0  # that are measured
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Amount(ABC):
    """What is to be trained.

    Attributes:
        train: training molecules of the first model.
        valid: validation molecules of the first model, which are predicted once an epoch.
        config: of the training of each model.
    """

    train: int
    valid: int
    config: FinetuneTrainConfig

    @property
    def least_epochs(self) -> int:
        """Epochs of a model whose first one is its best."""
        return min(self.config.most_epochs, self.config.patience + 1)

    @property
    def steps_per_epoch(self) -> float:
        """Steps of training, and how many of them the validation is worth."""
        return steps_per_epoch(self.config, self.train) + self.valid / self.config.batch_size / TRAINING_TO_FORWARD

    @abstractmethod
    def describe(self) -> str:
        """Return what is to be trained, in a sentence."""

    @abstractmethod
    def describe_time(self, step_seconds: float) -> str:
        """Return how long the training takes if every step takes so many seconds."""

    def _epoch_seconds(self, step_seconds: float) -> float:
        return step_seconds * self.steps_per_epoch

    def _time_of(self, models: int, step_seconds: float) -> str:
        """Return how long so many trainings take."""
        each = self._epoch_seconds(step_seconds) * models
        return duration_range(each * self.least_epochs, each * self.config.most_epochs)

    @property
    def _up_to_epochs(self) -> str:
        stops = f", fewer if {self.config.patience} in a row bring no better validation score"
        few = self.least_epochs < self.config.most_epochs
        return f"up to {counted(self.config.most_epochs, 'epoch')}{stops if few else ''}"


@dataclass(frozen=True, kw_only=True)
class TrainingAmount(_Amount):
    """What a fine-tuning has to train.

    Attributes:
        models: that are not finished yet.
        finished: models that an earlier call has finished.
        at_once: models that are trained at the same time.
    """

    models: int
    finished: int
    at_once: int = 1

    def describe(self) -> str:
        """Return what is to be trained, in a sentence."""
        done = f" (another {self.finished} finished earlier)" if self.finished else ""
        at_once = f"{self.at_once} at a time, " if self.at_once > 1 else ""
        each = "each for " if self.models > 1 else "for "
        models, molecules = counted(self.models, "model"), counted(self.train, "molecule")
        return f"training {models}{done} on {molecules}, {at_once}{each}{self._up_to_epochs}"

    def describe_time(self, step_seconds: float) -> str:
        """Return how long the training takes if every step takes so many seconds."""
        epoch = self._epoch_seconds(step_seconds)
        which = "the training takes" if self.models == 1 else f"the {self.models} models take"
        total = self._time_of(self.models, step_seconds)
        each = f"an epoch takes about {duration_range(epoch, epoch)}, and " if self.at_once == 1 else ""
        return f"{each}{which} about {total} on this machine"


@dataclass(frozen=True, kw_only=True)
class SearchAmount(_Amount):
    """What a search for settings has to train. Its number of epochs is that of the settings as given.

    Attributes:
        trials: that are not finished yet.
        finished: trials that an earlier call has finished.
        folds: trainings of each trial.
    """

    trials: int
    finished: int
    folds: int

    def describe(self) -> str:
        """Return what is to be trained, in a sentence."""
        done = f" (another {self.finished} finished earlier)" if self.finished else ""
        models, molecules = counted(self.folds, "model"), counted(self.train, "molecule")
        return (
            f"searching: {counted(self.trials, 'trial')}{done} of {models} each, on about {molecules}; with the "
            f"settings as given, {self._up_to_epochs}"
        )

    def describe_time(self, step_seconds: float) -> str:
        """Return how long the search takes if every step takes so many seconds."""
        epoch = self._epoch_seconds(step_seconds)
        total = self._time_of(self.trials * self.folds, step_seconds)
        return (
            f"an epoch takes about {duration_range(epoch, epoch)}, and the search about {total} on this machine, less "
            "if bad settings are stopped early"
        )


class TrainingForecast:
    """Tells the amount at once, and the time when the first steps have been measured.

    Args:
        amount: of what is trained.
    """

    def __init__(self, amount: TrainingAmount | SearchAmount) -> None:
        self._amount = amount
        self._steps, self._began = 0, 0.0
        self._told = False
        _log.info(amount.describe())

    def begin_model(self) -> None:
        """Begin to measure anew, since much is done between two models that is no training."""
        self._steps = 0

    def step(self) -> None:
        """Count a finished step of training."""
        if self._told:
            return
        now = time.monotonic()
        self._steps += 1
        if self._steps == _WARM_STEPS:
            self._began = now
        measured, seconds = self._steps - _WARM_STEPS, now - self._began
        if measured >= _LEAST_STEPS and seconds >= _LEAST_SECONDS:
            self._told = True
            _log.info(f"judging by {measured} steps, {self._amount.describe_time(seconds / measured)}")
