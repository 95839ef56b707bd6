"""The errors a user can meet: one root, one child for each thing that can be wrong. Imports nothing of the project.

A message says what was wrong, where, and what to do. Invariants that only a programming mistake can break are
``assert``, never one of these.
"""

import difflib
from collections.abc import Iterable


class UnimolScaleError(Exception):
    """Root of every error meant for a user; the command line prints it without a traceback and exits with status 2."""


class ConfigError(UnimolScaleError):
    """A configuration key or value is wrong; the message holds its dotted path and, if read from a file, its line."""


class SourceError(UnimolScaleError):
    """An input of molecules is missing, unreadable or not what it claims to be."""


class ConformerError(UnimolScaleError):
    """A molecule, or a whole build, ended without a usable conformer."""


class StoreError(UnimolScaleError):
    """A conformer store is missing, unfinished or damaged, or an output directory holds something else."""


class CheckpointError(UnimolScaleError):
    """A checkpoint is missing, incomplete or damaged, or belongs to another model."""


class RunError(UnimolScaleError):
    """A training run, or a set of runs to be compared, is unfit for what was asked of it."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return the tail of an error message that helps with an unknown name: the closest valid ones, then all of them.

    Args:
        name: what the user wrote.
        valid: the names that would have been accepted.
    """
    names = sorted(str(choice) for choice in valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}valid: {', '.join(names)}"
