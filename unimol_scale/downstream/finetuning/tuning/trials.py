"""What a search tried and what it chose; part of ``results.json``. Imports no torch."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from unimol_scale.downstream.config import FinetuneConfig, Pooling
from unimol_scale.downstream.data.splitting.parts import Fold
from unimol_scale.downstream.tune_settings import Tunable

TrialState = Literal["complete", "pruned", "failed"]


@dataclass(frozen=True, kw_only=True)
class TunedSettings:
    """The settings that a search can change; see ``FinetuneConfig``, whose values they are where they are not searched.

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
        """Return those of a fine-tuning."""
        train = config.train
        return TunedSettings(
            learning_rate=train.learning_rate,
            epochs=train.epochs,
            dropout=train.dropout,
            pooling=config.pooling,
            layer_decay=train.layer_decay,
            trained_layers=train.trained_layers,
        )

    def apply(self, config: FinetuneConfig) -> FinetuneConfig:
        """Return a fine-tuning with these settings, without a search; the rate ends at the same share of its peak."""
        train = replace(
            config.train,
            learning_rate=self.learning_rate,
            end_learning_rate=config.train.end_learning_rate * self.learning_rate / config.train.learning_rate,
            epochs=self.epochs,
            dropout=self.dropout,
            layer_decay=self.layer_decay,
            trained_layers=self.trained_layers,
        )
        return replace(config, train=train, pooling=self.pooling, tune=0)


@dataclass(frozen=True, kw_only=True)
class TuneTrial:
    """Settings that were tried.

    Attributes:
        settings: what was tried.
        scores: of the held-out rows of each fold; of a trial that was given up, those it got to.
        state: "complete"; "pruned": given up, since it was worse than the median of the others; "failed": its training
            ended with an error, as where a loss is not finite.
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
    """A search.

    Attributes:
        fold: of the cross-validation whose training and validation rows were searched; None of a single split.
        rows: training and validation rows, in which all of it happened.
        folds: of the cross-validation inside them.
        searched: settings that were varied.
        trials: in the order in which they were tried; the first one has the settings as they were given.
        chosen: place of the best one that is complete.
    """

    fold: Fold | None
    rows: int
    folds: int
    searched: tuple[Tunable, ...]
    trials: tuple[TuneTrial, ...]
    chosen: int

    @property
    def best(self) -> TuneTrial:
        """The trial whose settings were taken."""
        return self.trials[self.chosen]

    def count(self, state: TrialState) -> int:
        """Return the number of trials that ended so."""
        return sum(trial.state == state for trial in self.trials)
