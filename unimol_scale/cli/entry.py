"""Starts and ends every command: sets up the process, and reports errors and interruptions in one line."""

import _thread
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from unimol_scale.common.command_output import shown_on_stderr
from unimol_scale.common.exit_status import EXIT_INTERRUPTED, EXIT_NO_READER, EXIT_USER_ERROR
from unimol_scale.common.machine.system_limits import explain, raise_file_limit
from unimol_scale.common.machine.threads import wait_passively
from unimol_scale.common.standard_streams import drop_output, prepare_streams
from unimol_scale.errors import UnimolScaleError

# Wakes a waiting thread. Nothing else sends this signal, and a process ignores it by default.
_WAKE = signal.SIGURG


def set_up() -> None:
    """Set up threads, streams and the limit on open files; call this before torch is imported."""
    wait_passively()
    prepare_streams()
    raise_file_limit()


def run_command(work: Callable[[], int], stopped: Callable[[], str] = lambda: "Stopped.") -> int:
    """Run a command and return its exit status; report errors that the user can fix, and Ctrl-C, in one line.

    Args:
        work: does all the work, including imports of heavy libraries, and returns the status.
        stopped: returns the message printed after Ctrl-C, which says what happens to the work so far.

    Returns:
        The status of the work; 2 for an error that the user can fix, 130 after Ctrl-C, 141 if the output is a closed
        pipe. A second Ctrl-C ends the process at once, with status 130.
    """
    set_up()
    with shown_on_stderr(), _Interrupts():
        try:
            try:
                return work()
            finally:  # so that a closed pipe is noticed here, and not by the interpreter at exit
                sys.stdout.flush()
        except UnimolScaleError as error:
            return _fail(str(error))
        except KeyboardInterrupt:
            say(stopped())
            return EXIT_INTERRUPTED
        except BrokenPipeError:
            drop_output(sys.stdout)
            return EXIT_NO_READER
        except (OSError, RuntimeError) as error:
            if (line := explain(error)) is None:
                raise
            return _fail(line)


def say(line: str) -> None:
    """Print a line to standard error; if that fails, discard all further output to it."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        drop_output(sys.stderr)


def _fail(line: str) -> int:
    say(f"error: {line}")
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        return EXIT_USER_ERROR
    drop_output(sys.stdout)  # flushing failed, for example on a full disk, and would fail again at exit
    return EXIT_USER_ERROR


class _Interrupts:
    """Handles Ctrl-C while a command runs: the first one interrupts as usual, the second one ends the process at once.

    A dedicated thread receives the signal, and all other threads block it. Otherwise RDKit's functions would catch it:
    they would stop early and return an incomplete result, and Python would not notice.
    """

    def __init__(self) -> None:
        self._main = threading.main_thread()
        self._before: Any = None
        self._count = 0
        self._over = False

    def __enter__(self) -> "_Interrupts":
        if threading.current_thread() is self._main:
            self._before = signal.getsignal(signal.SIGINT)
        if self._before is signal.default_int_handler:  # otherwise Ctrl-C is ignored, as in background jobs of a script
            signal.signal(signal.SIGINT, self._interrupt)
            self._before_wake = signal.signal(_WAKE, _do_nothing)
            self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            self._thread = threading.Thread(target=self._listen, name="interrupts", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not signal.default_int_handler:
            return
        self._over = True
        signal.pthread_kill(self._thread.ident or 0, signal.SIGINT)  # the thread waits for this signal
        self._thread.join()
        # After a Ctrl-C, a further one must not interrupt Python's shutdown with a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL if self._count else self._before)
        signal.signal(_WAKE, self._before_wake)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _listen(self) -> None:
        while True:
            signal.sigwait({signal.SIGINT})
            if self._over:
                return
            if signal.getsignal(signal.SIGINT) == self._interrupt:  # otherwise other code, such as a run, handles it
                self._count += 1
                if self._count > 1:
                    _end()
            _thread.interrupt_main(signal.SIGINT)
            signal.pthread_kill(self._main.ident or 0, _WAKE)  # the main thread may be waiting

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Handle the wake-up signal: its arrival alone makes the thread check for a pending interrupt."""


def _end() -> None:
    if sys.stderr.isatty():
        os.write(2, b"\x1b[?25h\n")  # a progress bar has hidden the cursor
    os._exit(EXIT_INTERRUPTED)
