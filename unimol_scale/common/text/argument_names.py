"""Rewrites messages of a command for callers of the Python API: arguments instead of command-line flags."""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping

from unimol_scale.errors import ConfigError, UnimolScaleError

# Flags inside a recommended command are left as they are.
_COMMAND = r"(?:unimol-scale|python|deepspeed)\s[^,;()`\n]*"


def in_arguments(text: str, arguments: Mapping[str, str]) -> str:
    """Return a message with command-line flags replaced by arguments of a Python call.

    Args:
        text: a message that names flags of the command.
        arguments: a flag, alone or with its value, such as "--from none" → its form in a call, such as "model=None".
            The longest match is used.
    """
    flags = [re.escape(flag) for flag in sorted(arguments, key=len, reverse=True)]
    pattern = "|".join([_COMMAND, *(rf"(?<![\w-]){flag}(?![\w-])" for flag in flags)])
    return re.sub(pattern, lambda found: arguments.get(found[0], found[0]), text)


@contextlib.contextmanager
def naming_arguments(arguments: Mapping[str, str]) -> Iterator[None]:
    """Make errors raised in the block name arguments of a call; for ``arguments`` see ``in_arguments``."""
    try:
        yield
    except UnimolScaleError as error:
        error.args = (in_arguments(str(error), arguments),)
        raise


def path_text(value: object, name: str, wanted: str) -> str:
    """Return a path-like argument as text.

    Args:
        value: the value given.
        name: name of the argument.
        wanted: what the argument accepts, for the message.

    Raises:
        ConfigError: the value is neither a string nor a path.
    """
    if not isinstance(value, str | os.PathLike):
        raise ConfigError(f"{name}: expected {wanted}, got {type(value).__name__}")
    return os.fspath(value)


def require_order(value: object, name: str) -> None:
    """Check that an argument is not a set, whose order differs between processes.

    Raises:
        ConfigError: the argument is a set.
    """
    if isinstance(value, set | frozenset):
        raise ConfigError(f"{name}: expected a list, got a {type(value).__name__}, which has no order")
