"""Parameters and FLOPs of a run's model under its objective, through an interface. Imports no torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from unimol_scale.common.trees import merge, nested
from unimol_scale.config import Origin, build
from unimol_scale.errors import ConfigError

if TYPE_CHECKING:
    from unimol_scale.model.presets import ModelConfig


class ObjectiveCount(Protocol):
    """Counts for one model."""

    @property
    def parameters(self) -> Mapping[str, float]:
        """Group → count, "total" among them, the objective's heads included."""

    def training_flops(self, num_atoms: int) -> float:
        """FLOPs of one training step for a molecule of ``num_atoms`` atoms; a student's include its teacher's."""


@dataclass(frozen=True)
class _DenoiseCount:
    """Counts with the heads of denoise."""

    model: "ModelConfig"

    @property
    def parameters(self) -> Mapping[str, float]:
        from unimol_scale.model.accounting import count_parameters

        return {group: float(count) for group, count in count_parameters(self.model).as_dict().items()}

    def training_flops(self, num_atoms: int) -> float:
        from unimol_scale.model.accounting import training_flops

        return training_flops(self.model, num_atoms)


ModelCounter = Callable[[str, Mapping[str, Any]], ObjectiveCount]  # (size, settings as a tree) → counts


def count_model(
    size: str, settings: Mapping[str, Any], objective: str, counter: ModelCounter | None, what: str
) -> ObjectiveCount:
    """Return the counts for a size with its settings.

    Args:
        size: name of the preset.
        settings: settings of the runs, by dotted path.
        objective: objective of the runs.
        counter: counts for objectives other than denoise, whose heads are the only ones known here.
        what: the key that needs the counts, for messages.

    Raises:
        ConfigError: the model's settings are wrong, or nothing counts for the objective.
    """
    from unimol_scale.model.presets import ModelConfig, preset

    if objective != "denoise":
        if counter is None:
            raise ConfigError(
                f"{what}: only the heads of denoise can be counted here; use `unimol-scale ladder`, which counts "
                f"those of {objective}"
            )
        tree: dict[str, Any] = {}
        for key, value in settings.items():
            if key.partition(".")[0] not in ("model", "objective"):
                continue
            tree = merge(tree, nested(key, value))
        return counter(size, merge({"objective": {"name": objective}}, tree))
    changes = {key.removeprefix("model."): value for key, value in settings.items() if key.startswith("model.")}
    model = build(ModelConfig, merge(vars(preset(size)), changes), Origin(name=f"overrides of {size}"), "model")
    return _DenoiseCount(model)
