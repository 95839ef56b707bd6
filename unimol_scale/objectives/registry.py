"""Names of objectives → their settings and classes: the one place that lists them."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from unimol_scale.objectives.base import Objective
from unimol_scale.objectives.denoise import DenoiseConfig, DenoiseObjective

ObjectiveName = Literal["denoise"]
OBJECTIVE_NAMES: tuple[str, ...] = get_args(ObjectiveName)


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Which objective, and the settings of each.

    Attributes:
        name: the objective.
        denoise: settings of ``denoise``.
    """

    name: ObjectiveName = "denoise"
    denoise: DenoiseConfig = field(default_factory=DenoiseConfig)


def build_objective(config: ObjectiveConfig) -> Objective:
    """Return the objective that a configuration names."""
    return {"denoise": lambda: DenoiseObjective(config.denoise)}[config.name]()
