"""The events of a run as TensorBoard shows them. A thread of its own encodes and writes: the step loop never waits."""

import io
import math
import os
import queue
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event as BoardEvent
from tensorboard.compat.proto.event_pb2 import SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from unimol_scale.common.run_files import TENSORBOARD
from unimol_scale.engine.log.jsonl import WholeAppends
from unimol_scale.engine.log.sinks import Event, SinkStart

_SPEED = {"molecules_per_second", "mfu", "data_wait", "memory_bytes", "memory_host_bytes"}
_PROGRESS = {"data_step", "molecules", "conformers", "atoms", "flops", "seconds"}
# A file system that hangs must not fill the memory: events beyond these are left out of TensorBoard.
_MAX_QUEUED = 10_000
_CLOSE_SECONDS = 10.0
_NOT_SHOWN = ("step", "session")


def open_board(start: SinkStart) -> "Board":
    """Open the event file of a session of a run."""
    # The validation before the first step is logged at step 0.
    return Board(start.folder / TENSORBOARD, start.first_step + 1 if start.first_step else 0, start.warn)


def tag_of(key: str) -> str:
    """Return the TensorBoard tag of a key of metrics.jsonl; the part before the first slash groups the charts."""
    if key.startswith("valid/"):
        return key
    group = "speed" if key in _SPEED else "progress" if key in _PROGRESS else "train"
    return f"{group}/{key}"


class Board:
    """A TensorBoard event file, written by a thread.

    Args:
        folder: of the event files; made if need be.
        first_step: the first step of this session; TensorBoard hides what earlier sessions logged from there on.
        tell: is told when writing fails and when it works again.
    """

    def __init__(self, folder: Path, first_step: int, tell: Callable[[str], None]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        name = f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        self._file = WholeAppends(folder / name, tell)
        self._file.append(_record(BoardEvent(wall_time=now, file_version="brain.Event:2")))
        start = SessionLog(status=SessionLog.START)
        self._file.append(_record(BoardEvent(wall_time=now, step=first_step, session_log=start)))
        self._queue: queue.Queue[tuple[float, Event] | None] = queue.Queue(_MAX_QUEUED)
        self._thread = threading.Thread(target=self._write_all, name="tensorboard", daemon=True)
        self._thread.start()

    def event(self, event: Event) -> None:
        """Hand an event over; returns at once."""
        with suppress(queue.Full):
            self._queue.put_nowait((time.time(), dict(event)))

    def close(self) -> None:
        """Write what is left and close the file; a file system that hangs is not waited for."""
        try:
            self._queue.put(None, timeout=_CLOSE_SECONDS)
        except queue.Full:
            return
        self._thread.join(_CLOSE_SECONDS)

    def _write_all(self) -> None:
        while (item := self._queue.get()) is not None:
            now, event = item
            values = [
                Summary.Value(tag=tag_of(key), simple_value=float(value))
                for key, value in event.items()
                if key not in _NOT_SHOWN and math.isfinite(value)
            ]
            self._file.append(
                _record(BoardEvent(wall_time=now, step=int(event["step"]), summary=Summary(value=values)))
            )
        self._file.close()


def _record(event: BoardEvent) -> bytes:
    """Return an event as a record of the file: length, bytes, checksums."""
    buffer = io.BytesIO()
    RecordWriter(buffer).write(event.SerializeToString())
    return buffer.getvalue()
