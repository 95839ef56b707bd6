"""The search space: ranges around the given settings, which always belong to it."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, get_args

from unimol_scale.downstream.config import FinetuneConfig, Pooling
from unimol_scale.downstream.finetuning.tuning.trials import TunedSettings
from unimol_scale.downstream.tune_settings import Tunable

if TYPE_CHECKING:
    from optuna.trial import Trial

# Ends of the ranges, which are extended if the given value lies outside.
_RATES, _MOST_DROPOUT, _LEAST_DECAY = (1e-5, 1e-3), 0.5, 0.7


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """The values that a search can try.

    learning_rate: 1e-5 to 1e-3, and epochs: a quarter to twice the given number, both on a logarithmic scale; dropout:
    0 to 0.5; pooling: mean and virtual_node, for a probe also layers; layer_decay: 0.7 to 1; trained_layers: all, half
    or a quarter of the layers. Settings of the layers are not searched for a probe; for a linear probe, pooling is the
    only one.

    Attributes:
        config: the settings as given.
        layers: number of layers of the model.
    """

    config: FinetuneConfig
    layers: int

    @property
    def layer_counts(self) -> tuple[int | None, ...]:
        """Numbers of trained layers to try; None: everything is trained."""
        parts = [-(-self.layers // share) for share in (2, 4)]
        few = [count for count in parts if count < self.layers]
        return tuple(dict.fromkeys((self.config.train.trained_layers, None, *few)))

    @property
    def poolings(self) -> tuple[Pooling, ...]:
        """Poolings to try. ``layers`` is meant for frozen vectors; otherwise it is tried if it was given."""
        known: tuple[Pooling, ...] = get_args(Pooling)
        wanted = self.config.train.probe is not None or self.config.molecule_pooling == "layers"
        return tuple(pooling for pooling in known if wanted or pooling != "layers")

    @property
    def searched(self) -> tuple[Tunable, ...]:
        """Settings that are varied."""
        probe = self.config.train.probe
        fixed = {"layer_decay", "trained_layers"} if probe else set()
        if probe == "linear":
            fixed |= {"learning_rate", "epochs", "dropout"}
        if len(self.layer_counts) == 1:
            fixed.add("trained_layers")
        return tuple(name for name in self.config.tune_over if name not in fixed)

    @property
    def given(self) -> dict[str, Any]:
        """The given settings, with the names that ``suggest`` uses."""
        settings = TunedSettings.of(self.config)
        return {name: getattr(settings, name) for name in self.searched}

    def suggest(self, trial: "Trial") -> TunedSettings:
        """Return the settings that Optuna suggests for a trial."""
        given = TunedSettings.of(self.config)
        rate, epochs, decay = given.learning_rate, given.epochs, given.layer_decay
        lowest, highest = _RATES
        suggested: dict[str, Any] = {}
        for name in self.searched:
            if name == "learning_rate":
                suggested[name] = trial.suggest_float(name, min(lowest, rate), max(highest, rate), log=True)
            elif name == "epochs":
                suggested[name] = trial.suggest_int(name, max(1, epochs // 4), 2 * epochs, log=True)
            elif name == "dropout":
                suggested[name] = trial.suggest_float(name, 0.0, max(_MOST_DROPOUT, given.dropout))
            elif name == "pooling":
                suggested[name] = trial.suggest_categorical(name, self.poolings)
            elif name == "layer_decay":
                suggested[name] = trial.suggest_float(name, min(_LEAST_DECAY, decay), 1.0)
            else:
                suggested[name] = trial.suggest_categorical(name, self.layer_counts)
        every = {field.name: getattr(given, field.name) for field in fields(TunedSettings)}
        return TunedSettings(**{**every, **suggested})
