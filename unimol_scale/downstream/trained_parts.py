"""Settings of a fine-tuning about which weights it moves: all, the last layers, or a head alone. Imports no torch."""

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
    """Which weights are moved; keys ``train.…``.

    Attributes:
        probe: the backbone stays as it is, and a head is fitted to the vectors of the molecules, which are computed
            once and kept in the cache: "linear" is a ridge regression or a logistic regression, "mlp" the head ``mlp``.
            The validation rows choose the penalty of the one, and how many times ``learning_rate`` the other learns at.
            Of several conformers the mean of their vectors is learnt. None: the backbone is trained, too.
        trained_layers: number of the last layers that are trained with the head; those below and the encodings stay as
            they are. None: everything is trained.
        lora_rank: rank of low-rank updates of the layers' linear maps (LoRA, arXiv 2106.09685), which are trained with
            the head in place of the weights, and added to the saved weights; 0: the weights themselves are trained.
        lora_alpha: the updates are scaled by this over the rank, as by peft.
        lora_targets: tracks whose linear maps get one.
    """

    probe: Probe | None = None
    trained_layers: int | None = None
    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_targets: tuple[LoraTarget, ...] = get_args(LoraTarget)

    def _check_parts(self) -> None:
        if self.trained_layers is not None and self.trained_layers < 1:
            raise ConfigError(
                f"train.trained_layers must be at least 1, got {self.trained_layers}; train.probe (--probe) trains no "
                "layer"
            )
        if self.lora_rank < 0 or not self.lora_alpha > 0.0 or not self.lora_targets:
            raise ConfigError(
                "train.lora_rank must not be negative, train.lora_alpha must be positive, and train.lora_targets must "
                f"name a track; got {self.lora_rank}, {self.lora_alpha}, {list(self.lora_targets)}"
            )
        if self.probe is not None and (self.trained_layers is not None or self.lora_rank):
            raise ConfigError("train.probe trains no layer: leave train.trained_layers and train.lora_rank out")

    def head_of(self, head: HeadName) -> HeadName:
        """Return the kind of the head; ``head`` is what was asked for, and a probe has one of its own."""
        return self.probe or head

    def describe(self, chosen: Sequence[Mapping[str, float]]) -> list[str]:
        """Return lines on what was trained; none if it was everything.

        Args:
            chosen: what the validation rows chose for a probe, of each model.
        """
        if self.probe is not None:
            values = [f"{name} {_plain(value)}" for each in chosen for name, value in each.items()]
            what = "a linear model" if self.probe == "linear" else "a small network"
            said = ", ".join(dict.fromkeys(values))
            return [f"the backbone is frozen, and {what} was fitted to its vectors; chosen by validation rows: {said}"]
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
        """Check that the other settings of a fine-tuning fit a probe.

        Raises:
            ConfigError: one does not.
        """
        if self.probe is None:
            return
        if head not in (DEFAULT_HEAD, self.probe):
            raise ConfigError(f"train.probe={self.probe} has a head of its own: leave head={head} out")
        if self.probe != "linear":
            return
        if seeds is not None and seeds > 1:
            raise ConfigError(f"seeds={seeds}: a linear probe depends on no seed, so there is one model only")
        if loss not in (None, "mse"):
            raise ConfigError(f"train.probe=linear fits squares: loss={loss} needs train.probe=mlp, or none")
        if censored or task == "ordinal":
            what = "censored labels" if censored else "ordered classes"
            raise ConfigError(f"train.probe=linear cannot learn {what}: take train.probe=mlp, or none")


def _plain(value: float) -> str:
    """Return a number with three digits; penalties of thousands as they are written, and not as 1e+03."""
    return f"{value:,.0f}" if value >= 1000.0 else f"{value:.3g}"
