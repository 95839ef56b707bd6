"""Runs a command in its own process group, copies its output, and ends the whole group with it. Standard library."""

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
# this
# signal it does not handle, so it ends at once and leaves the ranks running.
STOP_SIGNAL = signal.SIGUSR1
# Signals from outside that ask to stop; batch systems send SIGUSR1 before the time limit.
ORDERS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class OrderedToStopError(KeyboardInterrupt):
    """SIGTERM, SIGUSR1 or Ctrl-C arrived. It is a KeyboardInterrupt, so that all are handled like Ctrl-C."""


def run_group(command: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
    """Run a command, copy what it prints to standard output and to a log, and return its exit status.

    However this call ends, including by Ctrl-C or SIGTERM, the whole group is told to stop, gets time to save, and has
    ended when the call returns. If only the launcher were killed, its ranks would continue.

    Args:
        command: program and arguments.
        environment: environment of the command.
        log: file to which the output is appended.

    Returns:
        The exit status; negative for a signal.

    Raises:
        OrderedToStopError: SIGTERM, SIGUSR1 or Ctrl-C arrived.
    """
    with log.open("ab") as file, _orders_as_interrupts():
        # A new group, so that signals to it do not reach this process.
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
    """Signal the group and wait for its end; send SIGKILL after the grace time or at a second signal from outside."""
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
    except (ProcessLookupError, PermissionError):  # macOS raises the latter for a group of zombies
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
