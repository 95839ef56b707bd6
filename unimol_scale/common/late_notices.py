"""Something that is told only if a block of code takes long. Imports the standard library only."""

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def told_after(seconds: float, tell: Callable[[], object]) -> Iterator[None]:
    """Call ``tell`` once, in another thread, if the block takes longer than so many seconds."""
    timer = threading.Timer(seconds, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
