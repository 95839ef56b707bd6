"""Progress of a long stage: a bar on a terminal, a line every few seconds elsewhere. Imports rich."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

LOG_INTERVAL_S = 5.0


class StageProgress:
    """Counts molecules of one stage and shows count, rate and, where the total is known, the time left.

    Args:
        label: of the stage, such as "embedding".
        total: molecules in the stage, None when it is not known beforehand.
        done: molecules that an earlier run finished; they do not count into the rate.
    """

    def __init__(self, label: str, total: int | None, done: int = 0) -> None:
        self._label, self._total, self._done, self._before = label, total, done, done
        self._console = Console(stderr=True, highlight=False)
        self._start = self._last = time.monotonic()
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> "StageProgress":
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
            self._bar = Progress(*columns, TimeRemainingColumn(), console=self._console)
            self._bar.start()
            self._task = self._bar.add_task(self._label, total=self._total, completed=self._done, text=self._text())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None:
            self._console.print(f"{self._label}: {self._text()}, done", soft_wrap=True)

    def _text(self) -> str:
        seconds = time.monotonic() - self._start
        rate = (self._done - self._before) / seconds if seconds > 0 else 0.0
        of = "" if self._total is None else f" of {self._total:,}"
        return f"{self._done:,}{of} molecules, {rate:,.0f}/s"

    def advance(self, molecules: int) -> None:
        """Count molecules as done."""
        self._done += molecules
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, text=self._text())

    def tick(self) -> None:
        """Log a line if the last one is a while ago; call it often."""
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, text=self._text())
        elif now - self._last >= LOG_INTERVAL_S:
            self._last = now
            rate = (self._done - self._before) / (now - self._start)
            left = f", {(self._total - self._done) / rate:,.0f} s left" if self._total is not None and rate > 0 else ""
            self._console.print(f"{self._label}: {self._text()}{left}", soft_wrap=True)
