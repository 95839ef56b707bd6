"""The interface of logs: a ``Sink`` is opened when a session of a run starts and receives every event.

metrics.jsonl, TensorBoard, Weights & Biases and MLflow are sinks. ``log.sinks=[jsonl,package.module:Name]`` adds your
own: a class or function that takes a ``SinkStart`` and returns a sink. Sinks are used by rank 0 only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from unimol_scale.common.run_files import CONFIG_NAME
from unimol_scale.config import read_yaml

Event = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class SinkStart:
    """What a sink learns when a session of a run starts: at the beginning, after a resume and after a rollback.

    Attributes:
        folder: folder of the run, which exists.
        name: name of the run.
        total_steps: steps of the run.
        first_step: steps already done. The run does all later steps, perhaps again, so a sink must drop its events of
            later steps. At 0 the run starts afresh and also repeats the validation at step 0.
        session: number of the start of the run, from 1.
        say: shows a message to the user, in one line.
        warn: shows a warning, also in programs that ignore progress messages.
    """

    folder: Path
    name: str
    total_steps: int
    first_step: int
    session: int
    say: Callable[[str], None]
    warn: Callable[[str], None]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the run from its folder, nested, for logs that show them; {} if the folder has none."""
        path = self.folder / CONFIG_NAME
        return read_yaml(path)[0] if path.is_file() else {}


class Teller(Protocol):
    """Reports to the user how a run is going."""

    def say(self, text: str) -> None:
        """Show a message, in one line."""

    def warn(self, text: str) -> None:
        """Show a warning, in one line, also in programs that ignore progress messages."""


class Sink(Protocol):
    """One log of a run. If a sink raises, that is reported once; the run and the other logs continue."""

    def event(self, event: Event) -> None:
        """Receive one event. Return soon, since the next step waits.

        Args:
            event: the keys and values of a line of metrics.jsonl. Every event has ``step`` and ``session``; training
                events have ``loss``, ``lr``, ``grad_norm`` and counters, and validations have ``valid/loss`` and
                ``valid/loss/<term>``. Steps rise within a session; a validation may have the same step as a training
                event. A value may be NaN or infinite.
        """

    def close(self) -> None:
        """End the session; called once, also when the run fails."""
