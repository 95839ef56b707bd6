"""Settings of a search for settings. Imports no torch."""

import dataclasses
from typing import Literal, get_args

from unimol_scale.errors import ConfigError

Tunable = Literal["learning_rate", "epochs", "dropout", "pooling", "layer_decay", "trained_layers"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """Settings of a search, which a fine-tuning begins with.

    Attributes:
        tune: number of trials: settings that are tried on the training and validation rows, of which the best ones are
            taken; test rows are not looked at. The first trial has the settings as they are given. 0: no search.
        tune_folds: folds of the cross-validation, inside these rows, that judges a trial; trials whose first folds are
            worse than the median of the others are given up.
        tune_over: what is searched.
    """

    tune: int = 0
    tune_folds: int = 3
    tune_over: tuple[Tunable, ...] = get_args(Tunable)

    def check_tune(self, probe: str | None) -> None:
        """Check the settings of the search.

        Raises:
            ConfigError: one is wrong, or there is nothing to search.
        """
        if self.tune < 0:
            raise ConfigError(f"tune must not be negative, got {self.tune}")
        if self.tune_folds < 2:
            raise ConfigError(f"tune_folds must be at least 2, got {self.tune_folds}")
        if not self.tune_over:
            raise ConfigError(f"tune_over must name what is searched: {', '.join(get_args(Tunable))}")
        if self.tune and probe == "linear" and "pooling" not in self.tune_over:
            raise ConfigError("tune: a linear probe has no setting to be searched but pooling; name it in tune_over")
