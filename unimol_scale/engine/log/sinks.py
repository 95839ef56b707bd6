"""What the trainer wants of a log: a ``Sink`` is opened when a session of a run begins and told of every event.

metrics.jsonl, TensorBoard, Weights & Biases and MLflow are sinks; ``log.sinks=[jsonl,package.module:Name]`` takes
anybody's: a class, or a function, that is called with a ``SinkStart`` and returns a sink. Used by rank 0 only.
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
    """What a sink is told when a session of a run begins: at the start, after a resume and after a rollback.

    Attributes:
        folder: of the run; it exists.
        name: of the run.
        total_steps: after which the run ends.
        first_step: steps that are done. The run does all later ones, perhaps again: what a sink has of steps after this
            one is to be forgotten. At 0 the run begins anew, its validation at step 0 included.
        session: counts the starts of the run, from 1.
        say: tells people something, in one line.
        warn: tells them what goes wrong; a program that listens to no messages shows it all the same.
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
        """Those of the run as its folder records them, nested, for a log that shows them; {} where it has none."""
        path = self.folder / CONFIG_NAME
        return read_yaml(path)[0] if path.is_file() else {}


class Teller(Protocol):
    """Who tells people how a run goes."""

    def say(self, text: str) -> None:
        """Tell something, in one line."""

    def warn(self, text: str) -> None:
        """Tell what goes wrong, in one line: a program that listens to no messages shows it all the same."""


class Sink(Protocol):
    """One log of a run. Whatever a sink raises is told once; the run goes on, and so do the other logs."""

    def event(self, event: Event) -> None:
        """Take one event; return soon, since the next step waits.

        Args:
            event: the keys of metrics.jsonl with the same values, ``step`` and ``session`` in every event: training
                events have ``loss``, ``lr``, ``grad_norm`` and counters, validations ``valid/loss`` and
                ``valid/loss/<term>``. Steps rise within a session, and a validation may have the step of a training
                event. A value may be NaN or infinite.
        """

    def close(self) -> None:
        """End the session; called once, also when the run fails."""
