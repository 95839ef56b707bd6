"""The registry of sinks, where a run logs to: name → function that opens one. Light to import."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from unimol_scale.common.plugins import Registry, is_installed
from unimol_scale.errors import ConfigError

if TYPE_CHECKING:
    from unimol_scale.engine.log.sinks import Sink, SinkStart

METHODS = ("event", "close")
JSONL = "jsonl"
DEFAULT_SINKS = (JSONL, "tensorboard")
OPTIONAL = ("wandb", "mlflow")  # each needs the extra of the same name


@dataclasses.dataclass(frozen=True, kw_only=True)
class SinkEntry:
    """One kind of log.

    Attributes:
        name: name used in the settings.
        open: called when a session of a run starts.
    """

    name: str
    open: "Callable[[SinkStart], Sink]"


def _adopt(found: Any, name: str) -> SinkEntry:  # noqa: ANN401
    if not callable(found):
        raise ConfigError(
            "it must be a class or function that takes a unimol_scale.engine.log.sinks.SinkStart and returns a Sink, "
            f"not {found!r}"
        )
    library = getattr(found, "LIBRARY", None)
    if library is not None and not is_installed(library):
        raise ConfigError(f"{library} is not installed: pip install 'unimol-scale[{library}]'")
    missing = [method for method in METHODS if isinstance(found, type) and not callable(getattr(found, method, None))]
    if missing:
        raise ConfigError(f"it is not a unimol_scale.engine.log.sinks.Sink: it lacks the methods {', '.join(missing)}")
    return SinkEntry(name=name, open=found)


SINKS = Registry(
    "log",
    {
        JSONL: "unimol_scale.engine.log.jsonl:JsonlSink",
        "tensorboard": "unimol_scale.engine.log.tensorboard:open_board",
        "wandb": "unimol_scale.engine.log.wandb_sink:WandbSink",
        "mlflow": "unimol_scale.engine.log.mlflow_sink:MlflowSink",
    },
    _adopt,
)
