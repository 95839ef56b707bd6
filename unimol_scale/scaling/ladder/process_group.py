"""Runs commands in process groups of their own, copies their output, and ends whole groups. Standard library."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

GRACE_SECONDS = 240.0  # time for a run to finish its step and save a checkpoint
# Training saves at this signal as at SIGTERM. At SIGTERM, DeepSpeed's launcher would kill its ranks within seconds;
# this signal it does not handle, so it ends at once and leaves the ranks running.
STOP_SIGNAL = signal.SIGUSR1
# Signals from outside that ask to stop; batch systems send SIGUSR1 before the time limit.
ORDERS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class OrderedToStopError(KeyboardInterrupt):
    """SIGTERM, SIGUSR1 or Ctrl-C arrived. It is a KeyboardInterrupt, so that all are handled like Ctrl-C."""


class ProcessGroup:
    """A command in a process group of its own. What it prints is copied to standard output and to a log.

    Args:
        command: program and arguments.
        environment: environment of the command.
        log: file to which the output is appended.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        self._file = log.open("ab")
        # A new group, so that signals to it do not reach this process.
        self._process = subprocess.Popen(
            command, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        assert self._process.stdout is not None
        self._copier = threading.Thread(target=_copy, args=(self._process.stdout, self._file), daemon=True)
        self._copier.start()

    def poll(self) -> int | None:
        """Return the exit status of the command, negative for a signal; None: it has not ended."""
        return self._process.poll()

    def signal(self, number: signal.Signals) -> bool:
        """Signal the whole group; return whether it still had a member."""
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):  # macOS raises the latter for a group of zombies
            return False
        return True

    def wait(self, seconds: float) -> None:
        """Wait for the end of the whole group, but no longer than so many seconds."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._process.poll()  # reaps the leader, which would otherwise keep the group alive as a zombie
            try:
                os.killpg(self._process.pid, 0)
            except (ProcessLookupError, PermissionError):
                return
            time.sleep(0.05)

    def close(self) -> int:
        """End what is left of the group, wait for its output, and return the exit status of the command."""
        if self.signal(signal.SIGKILL):
            self.wait(GRACE_SECONDS)
        status = self._process.wait()
        self._copier.join(timeout=5.0)
        self._file.close()
        return status


@contextmanager
def ended_together() -> Iterator[list[ProcessGroup]]:
    """Yield a list for process groups that have not ended; however the block is left, all of them end.

    If it is left by an error, by Ctrl-C or by SIGTERM, they are told to stop and get time to save. If only the
    launchers were killed, their ranks would continue.

    Raises:
        OrderedToStopError: SIGTERM, SIGUSR1 or Ctrl-C arrived.
    """
    groups: list[ProcessGroup] = []
    with _orders_as_interrupts():
        try:
            yield groups
        except BaseException:
            _stop(groups)
            raise
        finally:
            for group in groups:
                group.close()


def _stop(groups: Sequence[ProcessGroup]) -> None:
    """Tell all groups to stop, and wait for their end up to the grace time, or up to a second signal from outside."""
    try:
        deadline = time.monotonic() + GRACE_SECONDS
        for group in [one for one in groups if one.signal(STOP_SIGNAL)]:
            group.wait(max(0.0, deadline - time.monotonic()))
    except KeyboardInterrupt:
        pass


def _copy(source: IO[bytes], log: IO[bytes]) -> None:
    for line in source:
        log.write(line)
        log.flush()
        sys.stdout.write(line.decode("utf-8", errors="replace"))
        sys.stdout.flush()


@contextmanager
def _orders_as_interrupts() -> Iterator[None]:
    """Inside the block, raise ``OrderedToStopError`` at every signal that asks to stop."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can handle signals
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise OrderedToStopError

    # Shells make background jobs of scripts ignore Ctrl-C.
    ignored = {signal.SIGINT} if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else set()
    before = {number: signal.signal(number, interrupt) for number in ORDERS if number not in ignored}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
