"""A thread that writes the events of a log, so that the step loop never waits for a disk or a network."""

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from unimol_scale.engine.log.sinks import Event

# What hangs must not fill the memory: events beyond these are left out of the log.
_MAX_QUEUED = 10_000
_CLOSE_SECONDS = 10.0


class BackgroundLog:
    """Hands events to a function in a thread of its own.

    Args:
        name: of the log, for its thread and for messages.
        write: (seconds since 1970, event) is written; what it raises is told once, and the event is left out.
        finish: called in the thread after the last event.
        tell: is told when writing fails.
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
        """Hand an event over; returns at once."""
        with suppress(queue.Full):
            self._queue.put_nowait((time.time(), dict(event)))

    def close(self) -> None:
        """Write what is left; what hangs is not waited for."""
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
                    self._tell(f"warning: the log {self._name} has failed ({error}); the run goes on")
                self._lost += 1
        try:
            self._finish()
        except Exception as error:
            self._tell(f"warning: the log {self._name} cannot be closed ({error})")
        if self._lost:
            self._tell(f"warning: the log {self._name} lacks {self._lost:,} events of this session")
