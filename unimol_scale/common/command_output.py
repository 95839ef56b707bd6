"""Where a command's messages and bars appear: on standard error. A call of the library only logs. Imports rich.

The code of both packages logs its messages, to loggers that are named after its modules, and prints nothing. A command
shows them with ``shown_on_stderr``; ``terminal_bar`` draws a bar inside such a block only.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.progress import Progress, ProgressColumn

PACKAGES = ("unimol_scale", "conformer_gen")


class CommandHandler(logging.Handler):
    """Prints the text of every message in one line, above the newest bar if there is one.

    Attributes:
        consoles: of the bars on show, the newest last.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.consoles: list[Console] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message, if there is anybody to read it."""
        text = record.getMessage()
        with contextlib.suppress(OSError):  # whoever read it is gone, or the disk is full: the work goes on
            if self.consoles:
                self.consoles[-1].print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)
            else:
                print(text, file=sys.stderr, flush=True)


class CommandBar(Progress):
    """A bar of a command, above which its messages appear while it is on show.

    Args:
        handler: of the command.
        columns: of the bar.
    """

    def __init__(self, handler: CommandHandler, *columns: ProgressColumn) -> None:
        super().__init__(*columns, console=Console(stderr=True, highlight=False))
        self._handler = handler

    def start(self) -> None:
        """Show it."""
        super().start()
        self._handler.consoles.append(self.console)

    def stop(self) -> None:
        """Leave it as it stands."""
        if self.console in self._handler.consoles:
            self._handler.consoles.remove(self.console)
        super().stop()


@contextlib.contextmanager
def shown_on_stderr() -> Iterator[None]:
    """Print messages on standard error while the block runs, and allow bars; inside such a block it does nothing."""
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
    """Return a bar, not yet on show; None where no command shows its messages, or there is no terminal or notebook."""
    handler = _handler()
    if handler is None or not (sys.stderr.isatty() or Console(stderr=True).is_jupyter):
        return None
    return CommandBar(handler, *columns)


def _handler() -> CommandHandler | None:
    """Return the handler of the command that runs; None in a call of the library."""
    handlers = logging.getLogger(PACKAGES[0]).handlers
    return next((handler for handler in handlers if isinstance(handler, CommandHandler)), None)
