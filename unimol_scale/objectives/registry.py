"""Names of objectives → their settings and classes: the one place that lists them."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from unimol_scale.objectives.base import Objective
from unimol_scale.objectives.blend import BlendConfig, BlendObjective
from unimol_scale.objectives.denoise import DenoiseConfig, DenoiseObjective

ObjectiveName = Literal["denoise", "blend"]
OBJECTIVE_NAMES: tuple[str, ...] = get_args(ObjectiveName)


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Which objective, and the settings of each.

    Attributes:
        name: the objective.
        denoise: settings of ``denoise``.
        blend: settings of ``blend``.
    """

    name: ObjectiveName = "denoise"
    denoise: DenoiseConfig = field(default_factory=DenoiseConfig)
    blend: BlendConfig = field(default_factory=BlendConfig)


def build_objective(config: ObjectiveConfig) -> Objective:
    """Return the objective that a configuration names."""
    objectives: dict[str, Objective] = {
        "denoise": DenoiseObjective(config.denoise),
        "blend": BlendObjective(config.blend),
    }
    return objectives[config.name]
