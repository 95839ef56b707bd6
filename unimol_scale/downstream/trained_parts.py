"""Settings for the weights that a fine-tuning updates: all, the last layers, or only a head. Imports no torch."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from unimol_scale.errors import ConfigError

LoraTarget = Literal["atom", "pair"]
Probe = Literal["linear", "mlp"]
HeadName = Literal["mlp", "linear", "dense-tanh"]
DEFAULT_HEAD: HeadName = "mlp"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedParts:
    """The weights that are updated; keys ``train.…``.

    Attributes:
        probe: freeze the backbone and fit only a head to the vectors of the molecules, which are computed once and kept
            in the cache: "linear" is a ridge or logistic regression, "mlp" is the head ``mlp``. The validation rows
            choose the penalty of the former and a factor on ``learning_rate`` for the latter. With several conformers
            the mean of their vectors is used. None: the backbone is trained too.
        trained_layers: number of last layers that are trained together with the head; the layers below and the
            encodings are frozen. None: everything is trained.
        lora_rank: rank of low-rank updates of the layers' linear maps (LoRA, arXiv 2106.09685), which are trained with
            the head instead of the weights, and added to the weights when they are saved; 0: no LoRA.
        lora_alpha: the updates are multiplied by lora_alpha / lora_rank, as in peft.
        lora_targets: tracks whose linear maps have updates.
    """

    probe: Probe | None = None
    trained_layers: int | None = None
    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_targets: tuple[LoraTarget, ...] = get_args(LoraTarget)

    def _check_parts(self) -> None:
        if self.trained_layers is not None and self.trained_layers < 1:
            raise ConfigError(
                f"train.trained_layers must be at least 1, got {self.trained_layers}; to train no layer, use "
                "train.probe (--probe)"
            )
        if self.lora_rank < 0 or not self.lora_alpha > 0.0 or not self.lora_targets:
            raise ConfigError(
                "train.lora_rank must not be negative, train.lora_alpha must be positive, and train.lora_targets must "
                f"name a track; got {self.lora_rank}, {self.lora_alpha}, {list(self.lora_targets)}"
            )
        if self.probe is not None and (self.trained_layers is not None or self.lora_rank):
            raise ConfigError("train.probe trains no layer: remove train.trained_layers and train.lora_rank")

    def head_of(self, head: HeadName) -> HeadName:
        """Return the kind of the head: the probe's own head if there is a probe, otherwise ``head``."""
        return self.probe or head

    def describe(self, chosen: Sequence[Mapping[str, float]]) -> list[str]:
        """Return lines that say what was trained; none if everything was.

        Args:
            chosen: for a probe, name → value chosen on the validation rows, for each model.
        """
        if self.probe is not None:
            values = [f"{name} {_plain(value)}" for each in chosen for name, value in each.items()]
            what = "a linear model" if self.probe == "linear" else "a small network"
            said = ", ".join(dict.fromkeys(values))
            return [f"the backbone is frozen, and {what} was fitted to its vectors; chosen on validation rows: {said}"]
        layers = "layer" if self.trained_layers == 1 else f"{self.trained_layers} layers"
        if self.lora_rank:
            where = "all layers" if self.trained_layers is None else f"the last {layers}"
            tracks = " and ".join(self.lora_targets)
            return [
                f"LoRA: the head and updates of rank {self.lora_rank} (alpha {self.lora_alpha:g}) of the {tracks} "
                f"track of {where} were trained, and are added to the saved weights"
            ]
        if self.trained_layers is not None:
            return [f"the last {layers} and the head were trained; the encodings and the layers below are frozen"]
        return []

    def check_probe(self, head: str, seeds: int | None, loss: str | None, *, censored: bool, task: str | None) -> None:
        """Check that the other settings of a fine-tuning are compatible with a probe.

        Raises:
            ConfigError: a setting is not.
        """
        if self.probe is None:
            return
        if head not in (DEFAULT_HEAD, self.probe):
            raise ConfigError(f"train.probe={self.probe} has its own head: remove head={head}")
        if self.probe != "linear":
            return
        if seeds is not None and seeds > 1:
            raise ConfigError(f"seeds={seeds}: a linear probe does not depend on the seed, so there is only one model")
        if loss not in (None, "mse"):
            raise ConfigError(f"train.probe=linear minimises squares: loss={loss} needs train.probe=mlp, or no probe")
        if censored or task == "ordinal":
            what = "censored labels" if censored else "ordered classes"
            raise ConfigError(f"train.probe=linear cannot learn {what}: take train.probe=mlp, or none")


def _plain(value: float) -> str:
    """Return a number with three digits; penalties of thousands as they are written, and not as 1e+03."""
    return f"{value:,.0f}" if value >= 1000.0 else f"{value:.3g}"
