"""What a run reports: progress for people, its logs (metrics.jsonl and others), a picture. Used by rank 0 only.

Nothing here may stop a run: a full disk or a closed terminal is reported once, and training continues.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from unimol_scale.common.metrics_file import number_of
from unimol_scale.common.progress import ProgressDisplay, training_columns
from unimol_scale.common.run_files import METRICS_NAME
from unimol_scale.common.units import clock
from unimol_scale.engine.log.jsonl import JsonlSink, drop_events_after
from unimol_scale.engine.log.registry import DEFAULT_SINKS, JSONL
from unimol_scale.engine.log.safe_sink import SafeSink
from unimol_scale.engine.log.sinks import Event, Sink, SinkStart

_log = logging.getLogger(__name__)


class RunLog:
    """Writes the events of a run and shows its progress.

    Args:
        folder: folder of the run.
        name: name of the run, shown in every line.
        total_steps: steps of the run.
        first_step: steps already done; later events of earlier sessions are removed.
        sinks: names of the logs; metrics.jsonl is always written.

    Raises:
        OSError: metrics.jsonl cannot be opened.
    """

    def __init__(
        self, folder: Path, name: str, total_steps: int, first_step: int, sinks: Sequence[str] = DEFAULT_SINKS
    ) -> None:
        self._folder = folder
        self._name = name
        self._total = total_steps
        self._display = ProgressDisplay(name, total_steps, training_columns, log=_log, line_at_once=True)
        last = drop_events_after(folder / METRICS_NAME, first_step)
        self._session = 1 if last is None else int(number_of(last.get("session")) or 0) + 1
        start = SinkStart(
            folder=folder,
            name=name,
            total_steps=total_steps,
            first_step=first_step,
            session=self._session,
            say=self.say,
            warn=self.warn,
        )
        self._sinks: list[Sink] = [JsonlSink(start)]
        self._sinks += [SafeSink(sink, start) for sink in sinks if sink != JSONL]
        self._display.start(first_step, status="", eta="")

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.stop()
        for sink in self._sinks:
            sink.close()

    def event(self, event: Event) -> None:
        """Pass one event to every log; it is in metrics.jsonl when this returns."""
        whole = {**event, "session": self._session}
        for sink in self._sinks:
            sink.event(whole)

    def say(self, text: str) -> None:
        """Show a message to the user, in one line."""
        _log.info(self._line(text))

    def warn(self, text: str) -> None:
        """Show a warning, in one line, even if progress messages are turned off."""
        _log.warning(self._line(text))

    def _line(self, text: str) -> str:
        return f"[{self._name}] {text}"

    def advance(self, step: int, event: Event | None, remaining: float | None = None) -> None:
        """Show that ``step`` steps are done.

        Args:
            step: steps done.
            event: the newest event, if this step produced one.
            remaining: seconds to the end of the run, from ``Speedometer.remaining``; None shows none.
        """
        if event is None:
            self._display.update(step)
            return
        status = _status(event)
        eta = f"ETA {clock(remaining)}" if remaining is not None else ""
        self._display.update(step, status=status, eta=eta)
        line = "  ".join(filter(None, (f"step {step}/{self._total}", status, eta)))
        self._display.line(self._line(line), at_once=step == self._total)

    def draw(self) -> None:
        """Draw the curves of the run so far into its folder."""
        from unimol_scale.engine.log.curve import draw_curve  # slow to import and needed only here

        try:
            draw_curve(self._folder)
        except OSError as error:
            self.warn(f"warning: the curves cannot be drawn: {error}")


def _status(event: Event) -> str:
    return (
        f"loss {event['loss']:.4f}  lr {event['lr']:.2e}  {_rate(event['molecules_per_second'])} molecules/s  "
        f"MFU {event['mfu']:.1%}" + (f"  data wait {event['data_wait']:.0%}" if "data_wait" in event else "")
    )


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 10.0 else f"{per_second:.2g}"


class NoLog:
    """Replaces ``RunLog`` on ranks other than 0; writes and shows nothing."""

    def __enter__(self) -> "NoLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def event(self, event: Event) -> None:
        """Do nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""

    def warn(self, text: str) -> None:
        """Do nothing."""

    def advance(self, step: int, event: Event | None, remaining: float | None = None) -> None:
        """Do nothing."""

    def draw(self) -> None:
        """Do nothing."""
