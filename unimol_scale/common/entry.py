"""How every command begins and ends: its surroundings are set up once, and whatever stops it is said in one line."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

from unimol_scale.common.streams import drop_output, prepare_streams
from unimol_scale.common.system_limits import explain, raise_file_limit
from unimol_scale.common.threads import wait_passively
from unimol_scale.errors import UnimolScaleError

EXIT_USER_ERROR = 2
# Of a run that was stopped after it had saved its state: the same command goes on (sysexits' EX_TEMPFAIL).
EXIT_STOPPED = 75
EXIT_INTERRUPTED = 130  # as shells say of Ctrl-C
EXIT_NO_READER = 141  # as shells say of a closed pipe
GOES_ON = "Stopped. The same command goes on where it was."


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
    with _second_interrupt_ends():
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


@contextlib.contextmanager
def _second_interrupt_ends() -> Iterator[None]:
    """Make the first Ctrl-C interrupt, as ever, and the second one end the process without waiting for anything."""
    try:
        before = signal.getsignal(signal.SIGINT)
        if before is not signal.default_int_handler:  # ignored, as after nohup, or somebody else's
            yield
            return
        signal.signal(signal.SIGINT, _interrupt)
    except ValueError:  # not the main thread, which alone is interrupted
        yield
        return
    try:
        yield
    finally:
        # Once interrupted, nothing that runs at the end of the interpreter may hold it up or print a traceback.
        if signal.getsignal(signal.SIGINT) is _interrupt:
            signal.signal(signal.SIGINT, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, _end)
    raise KeyboardInterrupt


def _end(number: int, frame: FrameType | None) -> None:
    if sys.stderr.isatty():
        os.write(2, b"\x1b[?25h\n")  # a progress bar has hidden the cursor
    os._exit(EXIT_INTERRUPTED)
