"""Names of objectives → their settings and classes: the one place that lists them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from unimol_scale.config import identifying
from unimol_scale.errors import ConfigError, nearest
from unimol_scale.model.presets import ModelConfig
from unimol_scale.objectives.base import Objective
from unimol_scale.objectives.blend import BlendConfig, BlendObjective
from unimol_scale.objectives.denoise import DenoiseConfig, DenoiseObjective
from unimol_scale.objectives.distill import DistillConfig, DistillObjective
from unimol_scale.objectives.mixture import MixtureObjective

ObjectiveName = Literal["denoise", "blend", "distill", "mixture"]
OBJECTIVE_NAMES: tuple[str, ...] = get_args(ObjectiveName)
# What can take turns on one model; the student of distill is a model without geometry.
MIXABLE = ("denoise", "blend")
SHARE_TOLERANCE = 1e-6
# Objective → the settings that have always been in a run's hash of what it learns. One that is added later counts only
# where it is not its default: runs of before can then still be compared with runs of today.
_FIRST_SETTINGS = {
    "denoise": (
        *("predict", "mask_fraction", "noise_std", "hide_features", "flat_geometry"),
        *("token_weight", "coordinate_weight", "distance_weight"),
    ),
    "blend": (
        *("ratio", "mask_fraction", "symmetric", "show_degree", "atom_features", "noise_std"),
        *("path_weight", "edge_weight", "distance_weight", "noise_weight", "distance_loss"),
    ),
    "distill": ("teacher", "teacher_sha256", "target", "normalise"),
}


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Which objective, and the settings of each.

    Attributes:
        name: the objective.
        denoise: settings of ``denoise``.
        blend: settings of ``blend``.
        distill: settings of ``distill``.
        mixture: objectives that take turns → probability that a step learns them; they sum to one.
    """

    name: ObjectiveName = "denoise"
    denoise: DenoiseConfig = field(default_factory=DenoiseConfig)
    blend: BlendConfig = field(default_factory=BlendConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    mixture: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if bool(self.mixture) != (self.name == "mixture"):
            raise ConfigError(
                f"objective.name is {self.name} and objective.mixture is {dict(self.mixture)}: a mixture needs both, "
                "such as objective.name=mixture objective.mixture.denoise=0.5 objective.mixture.blend=0.5"
            )
        for name, share in self.mixture.items():
            if name == "distill":
                raise ConfigError("objective.mixture.distill: its student sees no geometry; distill cannot be mixed")
            if name not in MIXABLE:
                raise ConfigError(f"objective.mixture: unknown objective {name!r}; {nearest(name, MIXABLE)}")
            if not share > 0.0:
                raise ConfigError(
                    f"objective.mixture.{name} must be positive, got {share}; leave out what is not learnt"
                )
        total = sum(self.mixture.values())
        if self.mixture and not abs(total - 1.0) <= SHARE_TOLERANCE:
            raise ConfigError(f"objective.mixture must sum to 1, its sum is {total:.8g}")
        if self.name == "distill" and self.distill.teacher is None:
            raise ConfigError("objective.distill.teacher is required: the folder of a finished run, or a checkpoint")

    @property
    def identity(self) -> dict[str, Any]:
        """What is learnt and how, ready for JSON; where a teacher lies does not count, only its weights do."""
        names = tuple(self.mixture) or (self.name,)
        settings = {name: identifying(getattr(self, name), _FIRST_SETTINGS.get(name, ())) for name in sorted(names)}
        if "distill" in settings:
            del settings["distill"]["teacher"]
        return {"name": self.name, "mixture": dict(self.mixture), "settings": settings}


def build_objective(
    config: ObjectiveConfig, model: ModelConfig, *, seed: int = 0, teacher: ModelConfig | None = None
) -> Objective:
    """Return the objective that a configuration names.

    Args:
        config: names it.
        model: what is trained.
        seed: of the run, for the turns of a mixture.
        teacher: of ``distill``.

    Raises:
        ConfigError: the model cannot learn it.
    """
    objective: Objective
    if config.name == "distill":
        assert teacher is not None, "distill needs the teacher's configuration"
        objective = DistillObjective(config.distill, model, teacher)
    else:
        by_name = {"denoise": DenoiseObjective(config.denoise), "blend": BlendObjective(config.blend)}
        objective = MixtureObjective(by_name, config.mixture, seed) if config.mixture else by_name[config.name]
    objective.check(model)
    return objective
