"""What a run learns: the objective and its settings, and a function that builds it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from unimol_scale.common.plugins import is_reference
from unimol_scale.config import Origin, build, identifying, to_tree
from unimol_scale.errors import ConfigError, nearest
from unimol_scale.model.presets import ModelConfig
from unimol_scale.objectives.base import Objective
from unimol_scale.objectives.blend import BlendConfig, BlendObjective
from unimol_scale.objectives.denoise import DenoiseConfig, DenoiseObjective
from unimol_scale.objectives.distill import DistillConfig, DistillObjective
from unimol_scale.objectives.mixture import MixtureObjective
from unimol_scale.objectives.registry import OBJECTIVES

SHARE_TOLERANCE = 1e-6
# Objective → settings that are always part of the hash of what a run learns. A setting that was added later counts only
# if it differs from its default, so that earlier runs can still be compared with present ones.
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
    """The objective and the settings of each one.

    Attributes:
        name: denoise, blend, distill, mixture, or package.module:Class for one of your own.
        denoise: settings of ``denoise``.
        blend: settings of ``blend``.
        distill: settings of ``distill``.
        mixture: objectives that alternate → probability that a step learns each; they sum to one.
        settings: for an objective of your own: the keys of its Config.
    """

    name: str = "denoise"
    denoise: DenoiseConfig = field(default_factory=DenoiseConfig)
    blend: BlendConfig = field(default_factory=BlendConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    mixture: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        OBJECTIVES.check(self.name, "objective.name")
        if self.settings and not is_reference(self.name):
            raise ConfigError(
                f"objective.settings is for an objective of your own; those of {self.name} are objective.{self.name}"
            )
        if bool(self.mixture) != (self.name == "mixture"):
            raise ConfigError(
                f"objective.name is {self.name} but objective.mixture is {dict(self.mixture)}: a mixture needs both, "
                "such as objective.name=mixture objective.mixture.denoise=0.5 objective.mixture.blend=0.5"
            )
        for name, share in self.mixture.items():
            mixable = [other for other, entry in OBJECTIVES.items() if entry.kind.mixable]
            if name not in mixable and (name in OBJECTIVES or is_reference(name)):
                raise ConfigError(
                    f"objective.mixture: {name} cannot be part of a mixture, only {' and '.join(mixable)} can; train "
                    f"it alone with objective.name={name}"
                )
            if name not in mixable:
                raise ConfigError(f"objective.mixture: unknown objective {name!r}; {nearest(name, mixable)}")
            if not share > 0.0:
                raise ConfigError(
                    f"objective.mixture.{name} must be positive, got {share}; leave out objectives that should not be "
                    "learnt"
                )
        total = sum(self.mixture.values())
        if self.mixture and not abs(total - 1.0) <= SHARE_TOLERANCE:
            raise ConfigError(f"objective.mixture must sum to 1, its sum is {total:.8g}")
        if self.name == "distill" and self.distill.teacher is None:
            raise ConfigError("objective.distill.teacher is required: the folder of a finished run, or a checkpoint")

    @property
    def learnt(self) -> tuple[str, ...]:
        """Names of the settings groups that determine what is learnt."""
        return ("settings",) if is_reference(self.name) else tuple(self.mixture) or (self.name,)

    @property
    def distillation(self) -> DistillConfig | None:
        """Settings of a run with a teacher; None for other runs."""
        return self.distill if self.name == "distill" else None

    @property
    def identity(self) -> dict[str, Any]:
        """What is learnt and how, ready for JSON. A teacher counts by its weights, not by its path."""
        if is_reference(self.name):
            return {"name": self.name, "mixture": {}, "settings": dict(self.settings)}
        settings = {
            name: identifying(getattr(self, name), _FIRST_SETTINGS.get(name, ())) for name in sorted(self.learnt)
        }
        if "distill" in settings:
            del settings["distill"]["teacher"]
        return {"name": self.name, "mixture": dict(self.mixture), "settings": settings}


def build_objective(
    config: ObjectiveConfig, model: ModelConfig, *, seed: int = 0, teacher: ModelConfig | None = None
) -> Objective:
    """Build the objective that a configuration names.

    Args:
        config: configuration that names it.
        model: the model to train.
        seed: seed of the run, for the draws of a mixture.
        teacher: teacher of ``distill``.

    Raises:
        ConfigError: the model cannot learn this objective.
    """
    objective: Objective
    if is_reference(config.name):
        entry, settings = OBJECTIVES.entry(config.name), _own_settings(config, Origin(name="objective.settings"))
        kind: Callable[..., Objective] = entry.kind
        objective = kind() if settings is None else kind(settings)
    elif config.name == "distill":
        assert teacher is not None, "distill needs the teacher's configuration"
        objective = DistillObjective(config.distill, model, teacher)
    else:
        by_name = {"denoise": DenoiseObjective(config.denoise), "blend": BlendObjective(config.blend, model.edges)}
        objective = MixtureObjective(by_name, config.mixture, seed) if config.mixture else by_name[config.name]
    objective.check(model)
    return objective


def with_own_settings(config: ObjectiveConfig, origin: Origin) -> ObjectiveConfig:
    """Return the configuration with all settings of a user's own objective filled in, including defaults.

    Args:
        config: what is learnt; the class that it names is imported.
        origin: origin of the settings, for messages.

    Raises:
        ConfigError: the class cannot be imported or is not an objective, or a setting is unknown or wrong.
    """
    if not is_reference(config.name):
        return config
    settings = _own_settings(config, origin)
    return replace(config, settings={} if settings is None else to_tree(settings))


def _own_settings(config: ObjectiveConfig, origin: Origin) -> Any:  # noqa: ANN401
    kind = OBJECTIVES.entry(config.name).settings
    if kind is None and config.settings:
        given = ", ".join(config.settings)
        raise ConfigError(
            f"{origin.describe('objective.settings')}: {given} given, but {config.name} has no class Config"
        )
    if kind is None:
        return None
    try:
        return build(kind, config.settings, origin, "objective.settings")
    except (TypeError, ValueError) as error:  # raised by classes that do not know our error types
        raise ConfigError(f"{origin.describe('objective.settings')}: {error} (from Config of {config.name})") from error
