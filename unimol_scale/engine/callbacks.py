"""What a run tells the world: progress for people, metrics.jsonl and TensorBoard for tools. Used by rank 0 only."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

METRICS_NAME = "metrics.jsonl"
_PLAIN_LINE_SECONDS = 5.0
Event = Mapping[str, float]


def drop_events_after(path: Path, step: int) -> None:
    """Remove the events of steps that a resumed run will do again, and a last line that a kill cut off."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if event["step"] <= step:
            kept.append(line)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    temporary.replace(path)


class RunLog:
    """Writes events of a run and shows how far it is.

    Args:
        folder: of the run.
        name: of the run, shown in every line.
        total_steps: of the run.
        first_step: steps already done.
    """

    def __init__(self, folder: Path, name: str, total_steps: int, first_step: int) -> None:
        drop_events_after(folder / METRICS_NAME, first_step)
        self._file: TextIO = (folder / METRICS_NAME).open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)
        self._name = name
        self._total = total_steps
        self._first = first_step
        self._start = time.monotonic()
        self._last_line = float("-inf")
        self._progress: Progress | None = None
        if sys.stderr.isatty():
            columns = (
                TextColumn(name),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"),
                TimeRemainingColumn(),
            )
            self._progress = Progress(*columns, console=Console(stderr=True))
            self._task = self._progress.add_task(name, total=total_steps, completed=first_step, status="")
            self._progress.start()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
        self._file.close()
        self._board.close()

    def event(self, event: Event) -> None:
        """Append one event to metrics.jsonl and TensorBoard."""
        self._file.write(json.dumps(event) + "\n")
        self._file.flush()
        for key, value in event.items():
            if key != "step":
                self._board.add_scalar(key, value, int(event["step"]))

    def say(self, text: str) -> None:
        """Print one line, above the bar if there is one."""
        if self._progress is not None:
            self._progress.console.print(f"[{self._name}] {text}", markup=False)
        else:
            print(f"[{self._name}] {text}", file=sys.stderr, flush=True)

    def advance(self, step: int, event: Event | None) -> None:
        """Show that ``step`` steps are done, with the newest event."""
        status = ""
        if event is not None:
            status = (
                f"loss {event['loss']:.4f}  lr {event['lr']:.2e}  "
                f"{event['molecules_per_second']:,.0f} molecules/s  MFU {event['mfu']:.1%}"
            )
        if self._progress is not None:
            if status:
                self._progress.update(self._task, completed=step, status=status)
            else:
                self._progress.update(self._task, completed=step)
            return
        now = time.monotonic()
        if status and (now - self._last_line >= _PLAIN_LINE_SECONDS or step == self._total):
            self._last_line = now
            remaining = (now - self._start) / max(step - self._first, 1) * (self._total - step)
            self.say(f"step {step}/{self._total}  {status}  ETA {_clock(remaining)}")


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:d}:{minute:02d}:{second:02d}"
