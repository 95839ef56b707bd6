"""Settings of a hyperparameter search. Imports no torch."""

import dataclasses
from typing import Literal, get_args

from unimol_scale.errors import ConfigError

Tunable = Literal["learning_rate", "epochs", "dropout", "pooling", "layer_decay", "trained_layers"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """Settings of the hyperparameter search before a fine-tuning.

    Attributes:
        tune: number of trials. Each tries other settings on the training and validation rows, without test rows; the
            fine-tuning uses the best ones. The first trial has the settings as given. 0: no search.
        tune_folds: number of folds of the cross-validation, within these rows, that scores a trial. A trial is stopped
            early if its first folds are worse than the median of the other trials.
        tune_over: names of the settings to search.
    """

    tune: int = 0
    tune_folds: int = 3
    tune_over: tuple[Tunable, ...] = get_args(Tunable)

    def check_tune(self, probe: str | None) -> None:
        """Check the settings of the search.

        Raises:
            ConfigError: a setting is wrong, or there is nothing to search.
        """
        if self.tune < 0:
            raise ConfigError(f"tune must not be negative, got {self.tune}")
        if self.tune_folds < 2:
            raise ConfigError(f"tune_folds must be at least 2, got {self.tune_folds}")
        if not self.tune_over:
            raise ConfigError(f"tune_over must name settings to search: {', '.join(get_args(Tunable))}")
        if self.tune and probe == "linear" and "pooling" not in self.tune_over:
            raise ConfigError("tune: pooling is the only setting of a linear probe to search; name it in tune_over")
