"""Shows progress: as a bar on a command's terminal, elsewhere as a message every few seconds. Imports rich.

``ProgressDisplay`` makes every bar of the project, and only inside a command. Messages are logged, so a library call is
silent unless its caller enables logging.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from unimol_scale.common.command_output import CommandBar, terminal_bar
from unimol_scale.common.units import duration

LINE_INTERVAL_S = 5.0
_log = logging.getLogger(__name__)
Item = TypeVar("Item")
Columns = Callable[[], Sequence[ProgressColumn]]


def stage_columns() -> Sequence[ProgressColumn]:
    """Return the columns of a stage: name, bar, the field ``text``, time left."""
    return (_text("{task.description}"), BarColumn(), _text("{task.fields[text]}"), TimeRemainingColumn())


def count_columns() -> Sequence[ProgressColumn]:
    """Return the columns for counting items: name, bar, "done/total", time left."""
    return (_text("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


def training_columns() -> Sequence[ProgressColumn]:
    """Return the columns of a training run: name, bar, "done/total", and the fields ``eta`` and ``status``."""
    bar = BarColumn(bar_width=16)
    return (_text("{task.description}"), bar, MofNCompleteColumn(), _text("{task.fields[eta]}"), _StatusColumn())


def _text(text_format: str) -> TextColumn:
    return TextColumn(text_format, markup=False)


class _StatusColumn(ProgressColumn):
    """The column that a narrow terminal cuts off first, so that the bar stays on one line."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=False))

    def render(self, task: Task) -> Text:
        """Return the status in one line."""
        return Text(task.fields["status"], no_wrap=True, overflow="ellipsis")


class ProgressDisplay:
    """Shows the progress of a piece of work once it is started. A closed terminal does not stop the work.

    Args:
        label: name of the work, shown at the beginning of the bar.
        total: number of items; None if it is not known.
        columns: the columns of the bar; None: draw no bar, and log messages on a terminal too.
        log: logger of the messages.
        shown: whether to show anything at all.
        interval_s: seconds between two messages.
        line_at_once: whether the first message may come without that delay.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        columns: Columns | None,
        *,
        log: logging.Logger = _log,
        shown: bool = True,
        interval_s: float = LINE_INTERVAL_S,
        line_at_once: bool = False,
    ) -> None:
        self._label, self._total, self._columns, self._messages = label, total, columns, log
        self._shown = shown
        self._interval_s = interval_s
        self._last_line = float("-inf") if line_at_once else time.monotonic()
        self._bar: CommandBar | None = None
        self._task = TaskID(0)

    def start(self, completed: int = 0, **fields: Any) -> None:  # noqa: ANN401
        """Show the bar, if there is one.

        Args:
            completed: number of items that are already done.
            fields: values of the fields that the columns show.
        """
        self._bar = terminal_bar(*self._columns()) if self._shown and self._columns is not None else None
        if self._bar is not None:
            self._task = self._bar.add_task(self._label, total=self._total, completed=completed, **fields)
            self._bar.start()

    def stop(self) -> None:
        """Stop updating the bar and leave its last state on the terminal."""
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.stop()

    def update(self, completed: float, **fields: Any) -> None:  # noqa: ANN401
        """Move the bar and change fields of its columns; does nothing where there is none."""
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.update(self._task, completed=completed, **fields)

    def line(self, text: str, *, at_once: bool = False) -> None:
        """Log a message if there is no bar, and either the last one was ``interval_s`` ago or ``at_once`` is set."""
        if self._bar is not None or not self._shown:
            return
        now = time.monotonic()
        if at_once or now - self._last_line >= self._interval_s:
            self._last_line = now
            self._messages.info(text)


class StageProgress:
    """Counts the molecules of one stage and shows the count, the rate and, if the total is known, the time left.

    Args:
        label: name of the stage, such as "curating".
        total: number of molecules in the stage; None if it is not known beforehand.
        shown: whether to show anything at all.
    """

    def __init__(self, label: str, total: int | None, *, shown: bool = True) -> None:
        self._label, self._total = label, total
        self._done = self._before = 0
        self._start = time.monotonic()
        self._display = ProgressDisplay(label, total, stage_columns, shown=shown)

    def __enter__(self) -> "StageProgress":
        self._display.start(self._done, text=self._text())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._display.stop()
        if kind is None:
            self._display.line(f"{self._label}: {self._text()}, done", at_once=True)

    def _text(self) -> str:
        of = "" if self._total is None else f" of {self._total:,}"
        return f"{self._done:,}{of} molecules, {self._rate():,.0f}/s"

    def _rate(self) -> float:
        seconds = time.monotonic() - self._start
        return self.advanced / seconds if seconds > 0 else 0.0

    def _line(self) -> str:
        rate = self._rate()
        left = f", {duration((self._total - self._done) / rate)} left" if self._total is not None and rate > 0 else ""
        return f"{self._label}: {self._text()}{left}"

    @property
    def advanced(self) -> int:
        """Number of molecules that this run finished."""
        return self._done - self._before

    def skip(self, molecules: int) -> None:
        """Count molecules that an earlier run finished; they do not affect the rate."""
        self._before += molecules
        self._done += molecules

    def advance(self, molecules: int) -> None:
        """Count molecules as done."""
        self._done += molecules
        self._display.update(self._done, text=self._text())

    def tick(self) -> None:
        """Update the bar, or log a message if one is due; call it often."""
        self._display.update(self._done, text=self._text())
        self._display.line(self._line())


def track(items: Iterable[Item], total: int, label: str) -> Iterator[Item]:
    """Yield items and show progress: a bar on a command's terminal, elsewhere a message every few seconds.

    Args:
        items: the items to yield.
        total: number of items.
        label: what is done with them.
    """
    display = ProgressDisplay(label, total, count_columns)
    display.start()
    try:
        for done, item in enumerate(items, start=1):
            yield item
            display.update(done)
            display.line(f"{label}: {done} of {total}")
    finally:
        display.stop()


@contextlib.contextmanager
def told_after(seconds: float, tell: Callable[[], object]) -> Iterator[None]:
    """Call ``tell`` once, in another thread, if the block takes longer than ``seconds``."""
    timer = threading.Timer(seconds, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
