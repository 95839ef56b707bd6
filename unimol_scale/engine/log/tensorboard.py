"""Writes the events of a run for TensorBoard, in a thread of its own so that the step loop never waits."""

import io
import math
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event as BoardEvent
from tensorboard.compat.proto.event_pb2 import SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from unimol_scale.common.run_files import TENSORBOARD
from unimol_scale.engine.log.background_log import BackgroundLog
from unimol_scale.engine.log.jsonl import WholeAppends
from unimol_scale.engine.log.sinks import Event, SinkStart

_SPEED = {"molecules_per_second", "mfu", "data_wait", "memory_bytes", "memory_host_bytes"}
_PROGRESS = {"data_step", "molecules", "conformers", "atoms", "flops", "seconds"}
_NOT_SHOWN = ("step", "session")


def open_board(start: SinkStart) -> "Board":
    """Open the event file of a session of a run."""
    # The validation before the first step is logged at step 0.
    return Board(start.folder / TENSORBOARD, start.first_step + 1 if start.first_step else 0, start.warn)


def tag_of(key: str) -> str:
    """Return the TensorBoard tag for a key of metrics.jsonl; TensorBoard groups charts by the part before the slash."""
    if key.startswith("valid/"):
        return key
    group = "speed" if key in _SPEED else "progress" if key in _PROGRESS else "train"
    return f"{group}/{key}"


class Board:
    """A TensorBoard event file, written by a thread.

    Args:
        folder: folder for event files; created if needed.
        first_step: first step of this session; TensorBoard hides later steps of earlier sessions.
        tell: receives a message when writing fails and when it works again.
    """

    def __init__(self, folder: Path, first_step: int, tell: Callable[[str], None]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        name = f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        self._file = WholeAppends(folder / name, tell)
        self._file.append(_record(BoardEvent(wall_time=now, file_version="brain.Event:2")))
        start = SessionLog(status=SessionLog.START)
        self._file.append(_record(BoardEvent(wall_time=now, step=first_step, session_log=start)))
        self._log = BackgroundLog("tensorboard", self._write, self._file.close, tell)

    def event(self, event: Event) -> None:
        """Queue an event and return at once."""
        self._log.event(event)

    def close(self) -> None:
        """Write the remaining events and close the file; do not wait for a file system that hangs."""
        self._log.close()

    def _write(self, now: float, event: Event) -> None:
        values = [Summary.Value(tag=tag_of(key), simple_value=value) for key, value in shown_values(event).items()]
        self._file.append(_record(BoardEvent(wall_time=now, step=int(event["step"]), summary=Summary(value=values))))


def shown_values(event: Event) -> dict[str, float]:
    """Return the values of an event that can be plotted over steps: finite numbers, without the step itself."""
    return {key: float(value) for key, value in event.items() if key not in _NOT_SHOWN and math.isfinite(value)}


def _record(event: BoardEvent) -> bytes:
    """Return an event as a record of the event file: length, bytes, checksums."""
    buffer = io.BytesIO()
    RecordWriter(buffer).write(event.SerializeToString())
    return buffer.getvalue()
