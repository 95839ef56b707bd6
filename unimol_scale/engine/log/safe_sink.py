"""A sink that cannot stop a run, whatever the code behind it does."""

from unimol_scale.engine.log.registry import METHODS, SINKS
from unimol_scale.engine.log.sinks import Event, Sink, SinkStart
from unimol_scale.errors import ConfigError

# Failures in a row after which a sink is no longer called: one that waits for a network would slow down every step.
MAX_FAILURES = 10


class SafeSink:
    """Wraps a sink so that its failures stop nothing; they are reported once, and lost events are counted.

    Args:
        name: name of the sink.
        start: start of the session.
    """

    def __init__(self, name: str, start: SinkStart) -> None:
        self._name, self._warn = name, start.warn
        self._missed = self._in_a_row = 0
        self._sink: Sink | None = None
        try:
            sink = SINKS.entry(name).open(start)
            lacking = [method for method in METHODS if not callable(getattr(sink, method, None))]
            if lacking:
                raise ConfigError(f"it returned {sink!r}, which lacks the methods {', '.join(lacking)}")
            self._sink = sink
        except Exception as error:
            self._warn(f"warning: the log {name} cannot be opened ({_shown(error)}); the run continues without it")

    def event(self, event: Event) -> None:
        """Pass an event on, unless the sink has failed too often."""
        if self._sink is None or self._in_a_row == MAX_FAILURES:
            self._missed += 1
            return
        try:
            self._sink.event(event)
            self._in_a_row = 0
        except Exception as error:
            if not self._missed:
                self._warn(f"warning: the log {self._name} has failed ({_shown(error)}); the run continues")
            self._missed += 1
            self._in_a_row += 1

    def close(self) -> None:
        """Close the sink, and report how many events it missed."""
        try:
            if self._sink is not None:
                self._sink.close()
        except Exception as error:
            self._warn(f"warning: the log {self._name} cannot be closed ({_shown(error)})")
        if self._missed:
            self._warn(f"warning: the log {self._name} has lost {self._missed:,} events of this session")


def _shown(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
