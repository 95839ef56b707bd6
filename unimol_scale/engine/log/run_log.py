"""What a run tells the world: progress for people, its logs (metrics.jsonl and others), a picture. Used by rank 0 only.

Nothing here may stop a run: a full disk or a closed terminal is told once, and training goes on.
"""

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from unimol_scale.common.metrics_file import number_of
from unimol_scale.common.run_files import METRICS_NAME
from unimol_scale.engine.log.jsonl import JsonlSink, drop_events_after
from unimol_scale.engine.log.registry import JSONL, SINKS
from unimol_scale.engine.log.safe_sink import SafeSink
from unimol_scale.engine.log.sinks import Event, Sink, SinkStart

_PLAIN_LINE_SECONDS = 5.0


class RunLog:
    """Writes events of a run and shows how far it is.

    Args:
        folder: of the run.
        name: of the run, shown in every line.
        total_steps: of the run.
        first_step: steps already done; later events of earlier sessions are removed.
        sinks: names of the logs; metrics.jsonl is written whether or not it is among them.

    Raises:
        OSError: metrics.jsonl cannot be opened.
    """

    def __init__(
        self, folder: Path, name: str, total_steps: int, first_step: int, sinks: Sequence[str] = tuple(SINKS)
    ) -> None:
        self._folder = folder
        self._name = name
        self._total = total_steps
        self._last_line = float("-inf")
        self._progress: Progress | None = None
        last = drop_events_after(folder / METRICS_NAME, first_step)
        self._session = 1 if last is None else int(number_of(last.get("session")) or 0) + 1
        start = SinkStart(
            folder=folder,
            name=name,
            total_steps=total_steps,
            first_step=first_step,
            session=self._session,
            say=self.say,
        )
        self._sinks: list[Sink] = [JsonlSink(start)]
        self._sinks += [SafeSink(sink, start) for sink in sinks if sink != JSONL]
        if (bar := terminal_bar(name, total_steps, first_step)) is not None:
            self._progress, self._task = bar

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            with suppress(OSError):  # the terminal is gone
                self._progress.stop()
        for sink in self._sinks:
            sink.close()

    def event(self, event: Event) -> None:
        """Hand one event to every log; metrics.jsonl has it once this returns."""
        whole = {**event, "session": self._session}
        for sink in self._sinks:
            sink.event(whole)

    def say(self, text: str) -> None:
        """Print one line, above the bar if there is one."""
        line = f"[{self._name}] {text}"
        with suppress(OSError):  # the terminal is gone, or its file's disk is full: nobody is left to tell
            if self._progress is not None:
                self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
            else:
                print(line, file=sys.stderr, flush=True)

    def advance(self, step: int, event: Event | None, remaining: float | None = None) -> None:
        """Show that ``step`` steps are done.

        Args:
            step: steps done.
            event: the newest, if this step made one.
            remaining: seconds to the end of the run, of ``Speedometer.remaining``; None shows none.
        """
        status = _status(event) if event is not None else ""
        eta = f"ETA {clock(remaining)}" if remaining is not None else ""
        if self._progress is not None:
            with suppress(OSError):
                if status:
                    self._progress.update(self._task, completed=step, status=status, eta=eta)
                else:
                    self._progress.update(self._task, completed=step)
            return
        now = time.monotonic()
        if status and (now - self._last_line >= _PLAIN_LINE_SECONDS or step == self._total):
            self._last_line = now
            self.say("  ".join(filter(None, (f"step {step}/{self._total}", status, eta))))

    def draw(self) -> None:
        """Draw the curves of the run so far into its folder."""
        from unimol_scale.engine.log.curve import draw_curve  # matplotlib takes its time to import, and only here

        try:
            draw_curve(self._folder)
        except OSError as error:
            self.say(f"warning: the curves cannot be drawn: {error}")


class _StatusColumn(ProgressColumn):
    """What a narrow terminal cuts off first, so that the bar stays one line."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=False))

    def render(self, task: Task) -> Text:
        """Return the status in one line."""
        return Text(task.fields["status"], no_wrap=True, overflow="ellipsis")


def progress_bar(console: Console) -> Progress:
    """Return the bar of a run; its task has the fields ``status`` and ``eta``."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TextColumn("{task.fields[eta]}", markup=False),
        _StatusColumn(),
        console=console,
    )


def terminal_bar(label: str, total: int, done: int = 0) -> tuple[Progress, TaskID] | None:
    """Return a bar that is on show, until it is stopped, and its task; None where there is no terminal."""
    if not sys.stderr.isatty():
        return None
    progress = progress_bar(Console(stderr=True))
    task = progress.add_task(label, total=total, completed=done, status="", eta="")
    progress.start()
    return progress, task


def _status(event: Event) -> str:
    return (
        f"loss {event['loss']:.4f}  lr {event['lr']:.2e}  {_rate(event['molecules_per_second'])} molecules/s  "
        f"MFU {event['mfu']:.1%}" + (f"  data wait {event['data_wait']:.0%}" if "data_wait" in event else "")
    )


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 10.0 else f"{per_second:.2g}"


def clock(seconds: float) -> str:
    """Return a duration as people read it: 0:03:20, or 12 d 4:05:00 from a day on."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days} d " if days else "") + f"{hour:d}:{minute:02d}:{second:02d}"


class NoLog:
    """What ranks other than the first have in place of a ``RunLog``: nothing is written or shown."""

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

    def advance(self, step: int, event: Event | None, remaining: float | None = None) -> None:
        """Do nothing."""

    def draw(self) -> None:
        """Do nothing."""
