"""Sends the events of a run to Weights & Biases. Needs the extra ``wandb``.

Its own variables choose the destination: WANDB_PROJECT, WANDB_ENTITY, and WANDB_MODE=offline for a folder that ``wandb
sync`` sends later. Each session is a run there, and all sessions of a run form a group: a resumed run repeats steps,
and
logged values cannot be withdrawn.
"""

import os
from typing import Any

from unimol_scale.engine.log.sinks import Event, SinkStart
from unimol_scale.engine.log.tensorboard import shown_values, tag_of

PROJECT = "unimol-scale"  # used unless WANDB_PROJECT is set


class WandbSink:
    """A Weights & Biases run, which sends from a process of its own.

    Args:
        start: start of the session.
    """

    LIBRARY = "wandb"

    def __init__(self, start: SinkStart) -> None:
        import wandb

        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=f"{start.name}, session {start.session}",
            group=start.name,
            dir=str(start.folder),
            config=start.settings,
            reinit="create_new",
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def event(self, event: Event) -> None:
        """Queue an event and return at once."""
        values = {tag_of(key): value for key, value in shown_values(event).items()}
        self._run.log({"step": int(event["step"]), **values})

    def close(self) -> None:
        """Wait until everything is sent or written to disk."""
        self._run.finish()
