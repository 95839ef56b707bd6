"""Runs one command in its own process group, passes its output through, leaves no orphans. Standard library only."""

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

GRACE_SECONDS = 240.0  # a run ends its step and saves a checkpoint when it is told to stop
# Training saves at this signal as it does at SIGTERM, which DeepSpeed's launcher takes as the order to kill its ranks
# within seconds. A launcher without a handler for this one ends at once, and leaves the ranks their time.
STOP_SIGNAL = signal.SIGUSR1
# From outside: an order to stop, in order; batch systems send the second one before the time is up.
ORDERS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class OrderedToStopError(KeyboardInterrupt):
    """SIGTERM, SIGUSR1 or Ctrl-C came in; whatever does not care treats all of them as Ctrl-C."""


def run_group(command: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
    """Run a command, copy what it prints to standard output and to a log, and return its exit status.

    Whatever ends this call, Ctrl-C and SIGTERM included, the whole group has been told to stop, was given the time to
    save, and has ended before it returns: a launcher that is killed alone leaves its ranks behind.

    Args:
        command: program and arguments.
        environment: of the command.
        log: file that the output is appended to.

    Returns:
        The exit status; negative for a signal.

    Raises:
        OrderedToStopError: SIGTERM, SIGUSR1 or Ctrl-C came in.
    """
    with log.open("ab") as file, _orders_as_interrupts():
        # The group begins with the command itself; a signal to it cannot hit this process.
        process = subprocess.Popen(
            command, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        assert process.stdout is not None
        copier = threading.Thread(target=_copy, args=(process.stdout, file), daemon=True)
        copier.start()
        try:
            status = process.wait()
        except KeyboardInterrupt:
            _stop_group(process, STOP_SIGNAL)
            raise
        finally:
            _stop_group(process, signal.SIGKILL)
            copier.join(timeout=5.0)
    return status


def _copy(source: IO[bytes], log: IO[bytes]) -> None:
    for line in source:
        log.write(line)
        log.flush()
        sys.stdout.write(line.decode("utf-8", errors="replace"))
        sys.stdout.flush()


def _stop_group(process: "subprocess.Popen[bytes]", first: signal.Signals) -> None:
    """Signal the group and wait for its end; SIGKILL after a grace, or at a second order."""
    try:
        if _signal_group(process, first):
            _wait_group(process, GRACE_SECONDS)
    except KeyboardInterrupt:
        pass
    if _signal_group(process, signal.SIGKILL):
        _wait_group(process, GRACE_SECONDS)


def _signal_group(process: "subprocess.Popen[bytes]", number: signal.Signals) -> bool:
    """Signal the group; return whether it still had a member."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
        return False
    return True


def _wait_group(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        process.poll()  # reaps the leader, which would otherwise keep the group alive as a zombie
        try:
            os.killpg(process.pid, 0)
        except (ProcessLookupError, PermissionError):
            return
        time.sleep(0.05)


@contextmanager
def _orders_as_interrupts() -> Iterator[None]:
    """Make every order interrupt, each time it comes, for as long as the context lasts."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may, and only it is interrupted
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise OrderedToStopError

    # A script's background jobs are not meant by Ctrl-C, and their shell tells them to ignore it.
    deaf = {signal.SIGINT} if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else set()
    before = {number: signal.signal(number, interrupt) for number in ORDERS if number not in deaf}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
