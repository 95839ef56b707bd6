"""A thread that writes the events of a log, so that the step loop never waits for a disk or a network."""

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from unimol_scale.engine.log.sinks import Event

# A log that hangs must not fill the memory: further events are dropped.
_MAX_QUEUED = 10_000
_CLOSE_SECONDS = 10.0


class BackgroundLog:
    """Passes events to a function that runs in a thread of its own.

    Args:
        name: name of the log, for its thread and for messages.
        write: called with (seconds since 1970, event) to write an event. If it raises, a warning is given once and the
            event is dropped.
        finish: called in the thread after the last event.
        tell: receives the warning when writing fails.
    """

    def __init__(
        self, name: str, write: Callable[[float, Event], None], finish: Callable[[], None], tell: Callable[[str], None]
    ) -> None:
        self._name, self._write, self._finish, self._tell = name, write, finish, tell
        self._lost = 0
        self._queue: queue.Queue[tuple[float, Event] | None] = queue.Queue(_MAX_QUEUED)
        self._thread = threading.Thread(target=self._write_all, name=name, daemon=True)
        self._thread.start()

    def event(self, event: Event) -> None:
        """Queue an event and return at once."""
        with suppress(queue.Full):
            self._queue.put_nowait((time.time(), dict(event)))

    def close(self) -> None:
        """Write the remaining events; do not wait for a log that hangs."""
        try:
            self._queue.put(None, timeout=_CLOSE_SECONDS)
        except queue.Full:
            return
        self._thread.join(_CLOSE_SECONDS)

    def _write_all(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                self._write(*item)
            except Exception as error:
                if not self._lost:
                    self._tell(f"warning: the log {self._name} has failed ({error}); the run continues")
                self._lost += 1
        try:
            self._finish()
        except Exception as error:
            self._tell(f"warning: the log {self._name} cannot be closed ({error})")
        if self._lost:
            self._tell(f"warning: the log {self._name} has lost {self._lost:,} events of this session")
