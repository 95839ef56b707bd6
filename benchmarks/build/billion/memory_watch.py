"""Memory and processor time of this process and of its tasks, while something runs. Linux only (/proc)."""

import dataclasses
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

INTERVAL_S = 0.25
TICKS = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


@dataclasses.dataclass(frozen=True)
class Used:
    """What was used since the last call.

    Attributes:
        driver_s, tasks_s: processor time of this process, and of all processes that it started.
        driver_bytes: largest anonymous memory (not backed by a file) of this process.
        task_bytes: largest anonymous memory of a single process that ran a task.
    """

    driver_s: float
    tasks_s: float
    driver_bytes: int
    task_bytes: int


class MemoryWatch:
    """Looks at this process and its descendants four times a second, while the block runs."""

    def __enter__(self) -> "MemoryWatch":
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._seconds: dict[int, float] = {}  # of every process that was ever seen
        self._driver_bytes = self._task_bytes = 0
        self._before = (0.0, 0.0)
        self._thread = threading.Thread(target=self._run, name="memory watch", daemon=True)
        self._look()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def take(self) -> Used:
        """Return what was used since the last call."""
        self._look()
        with self._lock:
            own = os.getpid()
            now = self._seconds[own], sum(s for process, s in self._seconds.items() if process != own)
            used = Used(now[0] - self._before[0], now[1] - self._before[1], self._driver_bytes, self._task_bytes)
            self._before, self._driver_bytes, self._task_bytes = now, 0, 0
        return used

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            self._look()

    def _look(self) -> None:
        with self._lock:
            for process in family(os.getpid()):
                try:
                    title = (PROC / str(process) / "cmdline").read_bytes()
                    anonymous = _anonymous_bytes(process)
                    self._seconds[process] = _processor_seconds(process)
                except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
                    continue
                if process == os.getpid():
                    self._driver_bytes = max(self._driver_bytes, anonymous)
                elif title.startswith(b"ray::"):
                    self._task_bytes = max(self._task_bytes, anonymous)


def family(process: int) -> Iterator[int]:
    """Yield a process and all that it started, and what they started."""
    waiting = [process]
    while waiting:
        one = waiting.pop()
        yield one
        try:
            for thread in (PROC / str(one) / "task").iterdir():
                waiting += map(int, (thread / "children").read_text(encoding="ascii").split())
        except (FileNotFoundError, ProcessLookupError):
            continue


def _anonymous_bytes(process: int) -> int:
    for line in (PROC / str(process) / "status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0  # of a process that has ended and is not yet forgotten


def _processor_seconds(process: int) -> float:
    fields = (PROC / str(process) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS  # user and system
