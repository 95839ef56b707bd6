"""Progress of a long stage: a bar on a terminal, a line every few seconds elsewhere, and samples of it in a file.

Imports rich.
"""

import contextlib
import json
import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

LOG_INTERVAL_S = 5.0
SAMPLES_NAME = "progress.jsonl"
SAMPLE_INTERVAL_S = 1.0
SAMPLE_SPACING = 0.002  # of the time that a stage has taken: a month leaves some thousands of samples


class SampleLog:
    """Appends {"seconds": since this log was opened, "stage": name, "molecules": done since then} to a file.

    Args:
        path: the file; runs that resume append to the same.
    """

    def __init__(self, path: Path) -> None:
        cut_off = path.is_file() and not path.read_bytes().endswith(b"\n")
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._start = time.monotonic()
        if cut_off:  # by a kill
            self._file.write("\n")

    def __enter__(self) -> "SampleLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()

    def add(self, stage: str, molecules: int) -> None:
        """Append a sample."""
        seconds = round(time.monotonic() - self._start, 2)
        self._file.write(json.dumps({"seconds": seconds, "stage": stage, "molecules": molecules}) + "\n")


class StageProgress:
    """Counts molecules of one stage and shows count, rate and, where the total is known, the time left.

    Args:
        label: of the stage, such as "curating".
        total: molecules in the stage, None when it is not known beforehand.
        log: takes samples; None takes none.
    """

    def __init__(self, label: str, total: int | None, log: SampleLog | None = None) -> None:
        self._label, self._total, self._log = label, total, log
        self._done = self._before = 0
        self._sampled = 0.0
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
        self._sample()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        if kind is None:
            self._sample()
        if kind is None and self._bar is None:
            self._say(f"{self._label}: {self._text()}, done")

    def _text(self) -> str:
        seconds = time.monotonic() - self._start
        rate = self.advanced / seconds if seconds > 0 else 0.0
        of = "" if self._total is None else f" of {self._total:,}"
        return f"{self._done:,}{of} molecules, {rate:,.0f}/s"

    @property
    def advanced(self) -> int:
        """Molecules that this run finished."""
        return self._done - self._before

    def _sample(self) -> None:
        self._sampled = time.monotonic()
        if self._log is not None:
            self._log.add(self._label, self.advanced)  # what an earlier run did is no rate

    def skip(self, molecules: int) -> None:
        """Count molecules as done by an earlier run; they do not count into the rate."""
        self._before += molecules
        self._done += molecules

    def advance(self, molecules: int) -> None:
        """Count molecules as done."""
        self._done += molecules
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, text=self._text())

    def tick(self) -> None:
        """Log a line and take a sample if the last ones are a while ago; call it often."""
        now = time.monotonic()
        if now - self._sampled >= max(SAMPLE_INTERVAL_S, SAMPLE_SPACING * (now - self._start)):
            self._sample()
        if self._bar is not None:
            self._bar.update(self._task, text=self._text())
        elif now - self._last >= LOG_INTERVAL_S:
            self._last = now
            rate = self.advanced / (now - self._start)
            left = f", {(self._total - self._done) / rate:,.0f} s left" if self._total is not None and rate > 0 else ""
            self._say(f"{self._label}: {self._text()}{left}")

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # whoever read it is gone, and the work goes on
            self._console.print(line, soft_wrap=True)
