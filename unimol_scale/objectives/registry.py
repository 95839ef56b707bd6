"""The registry of objectives: name → class, with checks of users' own classes. Imports torch when a class is loaded."""

import dataclasses
from typing import TYPE_CHECKING, Any

from unimol_scale.common.plugins import Registry, accepts, is_reference
from unimol_scale.errors import ConfigError

if TYPE_CHECKING:
    from unimol_scale.objectives.base import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveEntry:
    """One objective.

    Attributes:
        name: name used in the settings.
        kind: its class.
        settings: frozen dataclass of its settings; None: it has none.
    """

    name: str
    kind: "type[Objective]"
    settings: type[Any] | None


def _adopt(found: Any, name: str) -> ObjectiveEntry:  # noqa: ANN401
    from unimol_scale.objectives.base import Objective

    base = "unimol_scale.objectives.base.Objective"
    if not isinstance(found, type) or not issubclass(found, Objective):
        raise ConfigError(f"it must be a class derived from {base}, not {found!r}")
    if missing := sorted(found.__abstractmethods__):
        raise ConfigError(f"it is derived from {base} but lacks {', '.join(missing)}")
    for key in ("weights", "heads"):
        if callable(getattr(found, key)):
            raise ConfigError(f"its {key} must be a property: write @property above it")
    settings = found.Config
    # The __setattr__ of a frozen dataclass raises an error.
    if settings is not None and not (
        dataclasses.is_dataclass(settings) and settings.__setattr__ is not object.__setattr__
    ):
        raise ConfigError(f"its Config must be a dataclass with frozen=True, not {settings!r}")
    if is_reference(name) and not accepts(found, *([] if settings is None else [settings])):
        how = "with only its Config" if settings is not None else "without arguments, since it has no Config"
        raise ConfigError(f"it is called {how}, but its __init__ does not accept that")
    return ObjectiveEntry(name=name, kind=found, settings=settings)


OBJECTIVES = Registry(
    "objective",
    {
        "denoise": "unimol_scale.objectives.denoise:DenoiseObjective",
        "blend": "unimol_scale.objectives.blend:BlendObjective",
        "distill": "unimol_scale.objectives.distill:DistillObjective",
        "mixture": "unimol_scale.objectives.mixture:MixtureObjective",
    },
    _adopt,
)
