"""The examples of tests/extensions, as somebody who has put their folder on PYTHONPATH has them."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

EXTENSIONS = Path(__file__).parents[1] / "extensions"
OBJECTIVE = "toy_objective:SmoothedElements"


@contextlib.contextmanager
def importable() -> Iterator[None]:
    """Let this process, and those that it starts, import the examples inside, and forget them afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(EXTENSIONS), prepend=":")
        patch.syspath_prepend(EXTENSIONS)
        yield
    forget()


def forget() -> None:
    """Let this process have imported none of the examples."""
    for name in imported():
        del sys.modules[name]


def imported() -> list[str]:
    """Return the examples that this process has imported."""
    return [name for name in sys.modules if name.startswith("toy_")]
