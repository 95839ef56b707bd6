"""Watches a task from inside its process: the current molecule, the time it takes, and the memory used.

Imports the standard library only.
"""

import dataclasses
import os
import resource
import signal
import struct
import time
from pathlib import Path
from types import TracebackType
from typing import Protocol

HINT = struct.Struct("<qd64s")
NOWHERE = -1  # the position before the first molecule, and for many molecules processed together
LIMITS_OF_MANY = 10  # the limit of one molecule times this is the limit of a whole batch
STATUS = Path("/proc/self/status")


class Starting(Protocol):
    """The type of ``Watchdog.starting``."""

    def __call__(self, position: int | None, molecules: int = 1) -> None:
        """Report that work begins on one position, or, if it is None, on that many molecules together."""


@dataclasses.dataclass(frozen=True)
class Hint:
    """Where a worker was: the position, when work on it began (Unix time, s), and the name of its node."""

    position: int
    began: float
    node: str


class Watchdog:
    """Records which molecule a worker is at, kills the worker if it hangs, and limits the task's memory.

    Args:
        path: the hint file.
        limit_s: seconds for one molecule. The alarm's default action ends the process in the kernel, because C++ code
            that hangs never returns to a Python signal handler.
        memory: bytes that the task may allocate beyond what its process holds at the start. Exceeding them raises
            MemoryError or ends the process, but does not take down the node. None sets no limit.
        node: name of the node, for the hint.
    """

    def __init__(self, path: Path, limit_s: float, memory: int | None, node: str = "") -> None:
        self._path, self._limit_s, self._memory, self._node = path, limit_s, memory, node.encode()

    def __enter__(self) -> "Watchdog":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        self._note(NOWHERE)
        self._limits = resource.getrlimit(resource.RLIMIT_DATA)
        if self._memory is not None:
            soft, hard = _private_bytes() + self._memory, self._limits[1]
            resource.setrlimit(
                resource.RLIMIT_DATA, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard)
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_DATA, self._limits)
        os.close(self._descriptor)
        # A task that ran out of memory must still be able to report where.
        if kind is None or not issubclass(kind, MemoryError):
            self._path.unlink(missing_ok=True)

    def starting(self, position: int | None, molecules: int = 1) -> None:
        """Record the current molecule, or none for many together, and restart the clock."""
        self._note(NOWHERE if position is None else position)
        signal.setitimer(signal.ITIMER_REAL, self._limit_s * min(molecules, LIMITS_OF_MANY))

    def _note(self, position: int) -> None:
        os.pwrite(self._descriptor, HINT.pack(position, time.time(), self._node), 0)


def _private_bytes() -> int:
    """Return the memory of this process that RLIMIT_DATA counts: its private writable memory."""
    line = next(line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith("VmData:"))
    return int(line.split()[1]) * 1024


def read_hint(path: Path) -> Hint | None:
    """Return where a dead worker was, or None if it left no hint."""
    content = path.read_bytes() if path.is_file() else b""
    if len(content) != HINT.size:
        return None
    position, began, node = HINT.unpack(content)
    return Hint(position, began, node.rstrip(b"\0").decode())


def ignore_start(position: int | None, molecules: int = 1) -> None:
    """Watchdog nothing."""
