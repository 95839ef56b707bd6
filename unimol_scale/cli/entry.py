"""How every command begins and ends: its surroundings are set up once, and whatever stops it is said in one line."""

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

# Ends the waiting of a thread; nobody sends it otherwise, and whoever does not handle it does not notice.
_WAKE = signal.SIGURG


def set_up() -> None:
    """Prepare what a command runs in; call it before torch is imported."""
    wait_passively()
    prepare_streams()
    raise_file_limit()


def run_command(work: Callable[[], int], stopped: Callable[[], str] = lambda: "Stopped.") -> int:
    """Run a command and return its exit status; what a user can mend, and Ctrl-C, end in one line.

    Args:
        work: does it all, imports of heavy libraries included, and returns the status.
        stopped: says after Ctrl-C what becomes of the work.

    Returns:
        The status of the work; 2 for an error that the user can mend, 130 after Ctrl-C, 141 if nobody reads the
        output any more. A second Ctrl-C ends the process at once, with 130.
    """
    set_up()
    with shown_on_stderr(), _Interrupts():
        try:
            try:
                return work()
            finally:  # a closed pipe is noticed here, and not by the interpreter at its end
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
    """Print a line to standard error, if there is anybody to read it."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        drop_output(sys.stderr)


def _fail(line: str) -> int:
    say(f"error: {line}")
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        return EXIT_USER_ERROR
    drop_output(sys.stdout)  # such as a full disk, whose complaint would come again at exit
    return EXIT_USER_ERROR


class _Interrupts:
    """Ctrl-C while a command runs: the first one interrupts, as ever, the second one ends the process at once.

    A thread of its own takes the signal, which all other threads block. RDKit's functions would take it for
    themselves otherwise: they break off, return half a result, and Python never learns of it.
    """

    def __init__(self) -> None:
        self._main = threading.main_thread()
        self._before: Any = None
        self._count = 0
        self._over = False

    def __enter__(self) -> "_Interrupts":
        if threading.current_thread() is self._main:
            self._before = signal.getsignal(signal.SIGINT)
        if self._before is signal.default_int_handler:  # else it is ignored, as in the background of a script
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
        signal.pthread_kill(self._thread.ident or 0, signal.SIGINT)  # which it waits for
        self._thread.join()
        # What Python does at its end must not be interrupted with a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL if self._count else self._before)
        signal.signal(_WAKE, self._before_wake)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _listen(self) -> None:
        while True:
            signal.sigwait({signal.SIGINT})
            if self._over:
                return
            if signal.getsignal(signal.SIGINT) == self._interrupt:  # else somebody else has taken over, such as a run
                self._count += 1
                if self._count > 1:
                    _end()
            _thread.interrupt_main(signal.SIGINT)
            signal.pthread_kill(self._main.ident or 0, _WAKE)  # it may be waiting

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Make a waiting thread look whether there is something to do."""


def _end() -> None:
    if sys.stderr.isatty():
        os.write(2, b"\x1b[?25h\n")  # a progress bar has hidden the cursor
    os._exit(EXIT_INTERRUPTED)
