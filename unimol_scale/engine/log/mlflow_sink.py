"""Sends the events of a run to MLflow. Needs the extra ``mlflow``.

MLflow's own variables choose the destination: MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME. Each session is a run in
MLflow, with the name of the run and the tag ``session``: a resumed run repeats steps, and logged values cannot be
withdrawn.
"""

import os
from typing import Any

from unimol_scale.common.trees import flatten
from unimol_scale.engine.log.background_log import BackgroundLog
from unimol_scale.engine.log.sinks import Event, SinkStart
from unimol_scale.engine.log.tensorboard import shown_values, tag_of

EXPERIMENT = "unimol-scale"  # used unless MLFLOW_EXPERIMENT_NAME is set
_LONGEST = 500  # characters of a parameter
_MOST_AT_ONCE = 100  # parameters


class MlflowSink:
    """An MLflow run, written by a thread because each call waits for the server.

    Args:
        start: start of the session.
    """

    LIBRARY = "mlflow"

    def __init__(self, start: SinkStart) -> None:
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._client: Any = MlflowClient()  # not the process-wide run, which may belong to other code
        self._metric = Metric
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        experiment = self._client.get_experiment_by_name(name)
        number = self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        tags = {"session": str(start.session), "folder": str(start.folder)}
        self._run: str = self._client.create_run(number, run_name=start.name, tags=tags).info.run_id
        settings = [Param(key, str(value)[:_LONGEST]) for key, value in flatten(start.settings).items()]
        for first in range(0, len(settings), _MOST_AT_ONCE):
            self._client.log_batch(self._run, params=settings[first : first + _MOST_AT_ONCE])
        self._log = BackgroundLog("mlflow", self._write, self._finish, start.warn)

    def event(self, event: Event) -> None:
        """Queue an event and return at once."""
        self._log.event(event)

    def close(self) -> None:
        """Write the remaining events; do not wait for a server that hangs."""
        self._log.close()

    def _write(self, now: float, event: Event) -> None:
        step, milliseconds = int(event["step"]), int(1000.0 * now)
        values = [self._metric(tag_of(key), value, milliseconds, step) for key, value in shown_values(event).items()]
        self._client.log_batch(self._run, metrics=values)

    def _finish(self) -> None:
        self._client.set_terminated(self._run)
