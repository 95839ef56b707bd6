"""Writes the events of a run to metrics.jsonl, one JSON object per line. Survives a full disk and a kill.

Every event has ``step``; other keys are present where they apply. ``session`` counts the starts of the run: where it
grows, the run was resumed. A value that is not finite is written as null, since JSON cannot express it.
"""

import errno
import json
import math
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from unimol_scale.common.metrics_file import event_of
from unimol_scale.common.run_files import METRICS_NAME
from unimol_scale.common.text.json_lines import read_json_lines
from unimol_scale.engine.log.sinks import Event, SinkStart

# Pieces that wait for space on a full disk: about a day of events at one per second.
_MAX_WAITING = 86_400


def drop_events_after(path: Path, step: int) -> dict[str, Any] | None:
    """Remove the events of steps that a resumed run will repeat, and lines damaged by a kill.

    A run that starts at step 0 starts afresh: its first validation is repeated as well.

    Args:
        path: path of the metrics file, which need not exist.
        step: the last step that is not repeated.

    Returns:
        The last remaining event, or None.
    """
    if not path.is_file():
        return None
    events = [(line.raw, event) for line in read_json_lines(path) if (event := event_of(line)) is not None]
    kept = [(raw, event) for raw, event in events if step > 0 and event["step"] <= step]
    content = b"".join(raw + b"\n" for raw, _ in kept)
    if content != path.read_bytes():
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_bytes(content)
        temporary.replace(path)
    return kept[-1][1] if kept else None


def encode(event: Event) -> bytes:
    """Return the event as one line of JSON."""
    finite = {key: value if math.isfinite(value) else None for key, value in event.items()}
    return json.dumps(finite, allow_nan=False).encode() + b"\n"


class WholeAppends:
    """A file that only ever grows by whole pieces. While the disk is full, pieces wait in memory and the run continues.

    Args:
        path: path of the file; existing content is kept.
        tell: receives one message when writing fails, and one when it works again.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, tell: Callable[[str], None]) -> None:
        self._path = path
        self._tell = tell
        self._file = path.open("ab", buffering=0)
        self._length = self._file.seek(0, os.SEEK_END)
        self._waiting: deque[bytes] = deque(maxlen=_MAX_WAITING)
        self._failing = False

    def append(self, piece: bytes) -> None:
        """Append a piece, after any pieces that are still waiting."""
        self._waiting.append(piece)
        self._write_waiting()

    def close(self) -> None:
        """Try once more to write the waiting pieces, then close the file."""
        self._write_waiting()
        if self._waiting:
            self._tell(f"{len(self._waiting)} events of {self._path} are lost because the disk was full")
        with suppress(OSError):
            self._file.close()

    def _write_waiting(self) -> None:
        try:
            while self._waiting:
                if self._failing:
                    self._file.truncate(self._length)
                self._write(self._waiting[0])
                self._waiting.popleft()
                if self._failing:
                    self._failing = False
                    self._tell(f"{self._path} can be written again; no event was lost")
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._length)  # removes a partial piece; needs no free space
            if not self._failing:
                self._failing = True
                self._tell(
                    f"warning: {self._path} cannot be written ({error.strerror}); the run continues and keeps its "
                    "events in memory. Free some disk space"
                )

    def _write(self, piece: bytes) -> None:
        if self._file.write(piece) != len(piece):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._length += len(piece)


class JsonlSink:
    """metrics.jsonl, which every run writes; resuming, plots and fits read it.

    Args:
        start: start of the session. The file must contain no event that will be repeated (``drop_events_after``).

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, start: SinkStart) -> None:
        self._file = WholeAppends(start.folder / METRICS_NAME, start.warn)

    def event(self, event: Event) -> None:
        """Append an event; it is on disk when this returns, unless the disk is full."""
        self._file.append(encode(event))

    def close(self) -> None:
        """Write waiting events and close the file."""
        self._file.close()
