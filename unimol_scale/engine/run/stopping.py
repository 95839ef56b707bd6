"""Notices requests to stop a run: SIGTERM, SIGUSR1, Ctrl-C, a closed terminal, a launcher that is gone. No torch.

A separate thread receives them, since the main thread may be waiting in a collective or for other ranks to start.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from unimol_scale.common.exit_status import EXIT_INTERRUPTED, EXIT_STOPPED
from unimol_scale.engine.run.launcher import LauncherWatch

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
# Signals that are ignored stay ignored: shells make background jobs ignore Ctrl-C, and nohup a closed terminal.
_MAY_BE_IGNORED = (signal.SIGINT, signal.SIGHUP)
# torchrun forwards Ctrl-C to ranks that have received it from the terminal already; within this time it counts once.
_SAME_INTERRUPT_SECONDS = 2.0
_LOOK_SECONDS = 0.5
_LAUNCHER_IS_GONE = "the launcher is gone"


class StopRequest:
    """Receives requests to stop a run; earlier signal handlers are restored at the end of the block.

    Before the first step there is nothing to save, so the process ends at once, with the exit status of a stopped run.
    From ``steps_begin`` on, a request is recorded and the step loop asks for it. A second Ctrl-C ends the process.

    Attributes:
        reason: reason of the first request; None if there is none.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._saves = False
        self._interrupted_at: float | None = None
        self._has_launcher = "RANK" in os.environ
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        self._launcher = LauncherWatch()
        self._ear, self._mouth = socket.socketpair()
        self._ear.setblocking(False)
        self._mouth.setblocking(False)
        self._descriptor_before = signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            if number not in _MAY_BE_IGNORED or signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, _do_nothing)
        self._thread = threading.Thread(target=self._listen, name="stop request", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._descriptor_before)
        self._mouth.close()  # ends the thread
        self._thread.join()
        self._ear.close()

    def steps_begin(self) -> None:
        """Only record requests from now on, since there is a state to save first."""
        self._saves = True

    def why(self) -> str:
        """Return why the ranks stop. Another rank's vote may arrive before this rank has noticed its own request."""
        if self.reason is None and self._launcher.is_gone():
            return _LAUNCHER_IS_GONE
        return self.reason or "another rank was told to stop"

    def _listen(self) -> None:
        while True:
            heard, _, _ = select.select([self._ear], [], [], _LOOK_SECONDS)
            if heard:
                numbers = self._ear.recv(64)
                if not numbers:
                    return
                for number in numbers:
                    self._hear(number)
            elif self.reason is None and self._launcher.is_gone():
                self._stop(_LAUNCHER_IS_GONE)

    def _hear(self, number: int) -> None:
        if number not in STOP_SIGNALS:
            return
        if number != signal.SIGINT:
            self._stop(signal.Signals(number).name)
            return
        now = time.monotonic()
        if self._interrupted_at is None:
            self._interrupted_at = now
            self._stop("Ctrl-C")
        elif not self._has_launcher or now - self._interrupted_at > _SAME_INTERRUPT_SECONDS:
            self._end(EXIT_INTERRUPTED, "Ended at once. The same command resumes from the last checkpoint.")

    def _stop(self, reason: str) -> None:
        if not self._saves:
            self._end(EXIT_STOPPED, f"Stopped before the first step ({reason}). The same command starts it again.")
        if self.reason is None:
            self.reason = reason
            if reason == "Ctrl-C":
                _tell("Stopping after this step, with a checkpoint. A second Ctrl-C ends the run at once.")

    def _end(self, status: int, why: str) -> None:
        _tell(why)
        os._exit(status)  # from a thread, only this ends the process


class InterruptRequest:
    """Handles Ctrl-C for a run in a process that does more, such as a notebook's; never ends that process.

    From ``steps_begin`` on, the first Ctrl-C is recorded and the step loop asks for it. Any other raises
    KeyboardInterrupt.

    Attributes:
        reason: reason of the request; None if there is none.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._saves = False
        self._listens = False

    def __enter__(self) -> "InterruptRequest":
        # Signals reach only the main thread, and a handler set by other code is left in place.
        if threading.current_thread() is threading.main_thread():
            self._listens = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._listens:
            signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listens:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def steps_begin(self) -> None:
        """Only record a request from now on, since there is a state to save first."""
        self._saves = True

    def why(self) -> str:
        """Return why the run stops."""
        assert self.reason is not None, "a single process stops only on its own request"
        return self.reason

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if not self._saves or self.reason is not None:
            raise KeyboardInterrupt
        self.reason = "Ctrl-C"


def _tell(line: str) -> None:
    if os.environ.get("RANK", "0") != "0":
        return
    show_cursor = "\x1b[?25h" if sys.stderr is not None and sys.stderr.isatty() else ""  # a progress bar hides it
    with contextlib.suppress(OSError):
        os.write(2, f"{show_cursor}{line}\n".encode())


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Replace the signal's default action; the thread handles the signal."""
