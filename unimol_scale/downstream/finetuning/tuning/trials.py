"""Trials of a search and the chosen settings, as stored in ``results.json``. Imports no torch."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from unimol_scale.downstream.config import FinetuneConfig, Pooling
from unimol_scale.downstream.data.splitting.parts import Fold
from unimol_scale.downstream.tune_settings import Tunable

TrialState = Literal["complete", "pruned", "failed"]


@dataclass(frozen=True, kw_only=True)
class TunedSettings:
    """The settings that a search can change; those not searched have the value from ``FinetuneConfig``.

    Attributes:
        learning_rate: ``train.learning_rate``.
        epochs: ``train.epochs``.
        dropout: ``train.dropout``, in the head.
        pooling: ``pooling``.
        layer_decay: ``train.layer_decay``.
        trained_layers: ``train.trained_layers``; None: all.
    """

    learning_rate: float
    epochs: int
    dropout: float
    pooling: Pooling
    layer_decay: float
    trained_layers: int | None

    @staticmethod
    def of(config: FinetuneConfig) -> "TunedSettings":
        """Return these settings of a fine-tuning."""
        train = config.train
        return TunedSettings(
            learning_rate=train.peak_rate,
            epochs=train.most_epochs,
            dropout=train.dropout,
            pooling=config.molecule_pooling,
            layer_decay=train.layer_decay,
            trained_layers=train.trained_layers,
        )

    def apply(self, config: FinetuneConfig) -> FinetuneConfig:
        """Return a fine-tuning with these settings and no search.

        The final learning rate remains the same fraction of the peak.
        """
        train = replace(
            config.train,
            learning_rate=self.learning_rate,
            end_learning_rate=config.train.end_learning_rate * self.learning_rate / config.train.peak_rate,
            epochs=self.epochs,
            dropout=self.dropout,
            layer_decay=self.layer_decay,
            trained_layers=self.trained_layers,
        )
        return replace(config, train=train, pooling=self.pooling, tune=0)


@dataclass(frozen=True, kw_only=True)
class TuneTrial:
    """A trial of a search.

    Attributes:
        settings: the tried settings.
        scores: score on the held-out rows of each fold; for a trial that was stopped early, of its first folds.
        state: "complete"; "pruned": stopped early, being worse than the median of the others; "failed": training
            raised an error, such as for a loss that is not finite.
    """

    settings: TunedSettings
    scores: tuple[float, ...]
    state: TrialState

    @property
    def mean(self) -> float:
        """Mean score over the folds; NaN if there is none."""
        return float(np.mean(self.scores)) if self.scores else float("nan")


@dataclass(frozen=True, kw_only=True)
class TuneResult:
    """Results of a search.

    Attributes:
        fold: fold of the cross-validation for which the search was done; None for a single split.
        rows: number of training and validation rows, which the search was restricted to.
        folds: number of folds of the inner cross-validation.
        searched: names of the varied settings.
        trials: trials in the order in which they ran; the first one has the settings as given.
        chosen: index of the best complete trial.
    """

    fold: Fold | None
    rows: int
    folds: int
    searched: tuple[Tunable, ...]
    trials: tuple[TuneTrial, ...]
    chosen: int

    @property
    def best(self) -> TuneTrial:
        """The trial whose settings were chosen."""
        return self.trials[self.chosen]

    def count(self, state: TrialState) -> int:
        """Return the number of trials with this state."""
        return sum(trial.state == state for trial in self.trials)
