"""Shows a command's messages and progress bars on standard error. Library calls only log. Imports rich.

Both packages log their messages to loggers named after their modules, and print nothing themselves. A command shows the
messages with ``shown_on_stderr``; ``terminal_bar`` draws a bar only inside such a block.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.progress import Progress, ProgressColumn

PACKAGES = ("unimol_scale", "conformer_gen")


class CommandHandler(logging.Handler):
    """Prints the text of each message, above the newest progress bar if there is one.

    Attributes:
        consoles: the consoles of the bars that are visible, newest last.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.consoles: list[Console] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message; do nothing if standard error cannot be written."""
        text = record.getMessage()
        with contextlib.suppress(OSError):  # a closed pipe or a full disk must not stop the work
            if self.consoles:
                self.consoles[-1].print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)
            else:
                print(text, file=sys.stderr, flush=True)


class CommandBar(Progress):
    """A progress bar of a command. Messages appear above it while it is visible.

    Args:
        handler: prints the messages of the command.
        columns: the columns of the bar.
    """

    def __init__(self, handler: CommandHandler, *columns: ProgressColumn) -> None:
        super().__init__(*columns, console=Console(stderr=True, highlight=False))
        self._handler = handler

    def start(self) -> None:
        """Show the bar."""
        super().start()
        self._handler.consoles.append(self.console)

    def stop(self) -> None:
        """Stop updating the bar and leave its last state on the terminal."""
        if self.console in self._handler.consoles:
            self._handler.consoles.remove(self.console)
        super().stop()


@contextlib.contextmanager
def shown_on_stderr() -> Iterator[None]:
    """Print messages on standard error and allow bars while the block runs. A nested block changes nothing."""
    if _handler() is not None:
        yield
        return
    handler = CommandHandler()
    loggers = [logging.getLogger(name) for name in PACKAGES]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False  # a library that we use may print what the root logger gets
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


def terminal_bar(*columns: ProgressColumn) -> CommandBar | None:
    """Return a bar that is not started yet; None outside a command, or without a terminal or notebook."""
    handler = _handler()
    if handler is None or not (sys.stderr.isatty() or Console(stderr=True).is_jupyter):
        return None
    return CommandBar(handler, *columns)


def _handler() -> CommandHandler | None:
    """Return the handler of the running command; None in a library call."""
    handlers = logging.getLogger(PACKAGES[0]).handlers
    return next((handler for handler in handlers if isinstance(handler, CommandHandler)), None)
