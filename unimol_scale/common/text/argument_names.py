"""Messages about the arguments of a call: those that name flags of a command come to name arguments instead."""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping

from unimol_scale.errors import ConfigError, UnimolScaleError

# A command that a message recommends keeps its flags.
_COMMAND = r"(?:unimol-scale|python|deepspeed)\s[^,;()`\n]*"


def in_arguments(text: str, arguments: Mapping[str, str]) -> str:
    """Return a message of a command as one of a call.

    Args:
        text: names flags of the command.
        arguments: flag, alone or with the word behind it, such as "--from none" → what is said in a call, such as
            "model=None". The longest that fits counts.
    """
    flags = [re.escape(flag) for flag in sorted(arguments, key=len, reverse=True)]
    pattern = "|".join([_COMMAND, *(rf"(?<![\w-]){flag}(?![\w-])" for flag in flags)])
    return re.sub(pattern, lambda found: arguments.get(found[0], found[0]), text)


@contextlib.contextmanager
def naming_arguments(arguments: Mapping[str, str]) -> Iterator[None]:
    """Let errors name the arguments of a call; ``arguments`` as of ``in_arguments``."""
    try:
        yield
    except UnimolScaleError as error:
        error.args = (in_arguments(str(error), arguments),)
        raise


def path_text(value: object, name: str, wanted: str) -> str:
    """Return a path, or what stands for one, as text.

    Args:
        value: that was given.
        name: of the argument.
        wanted: what may be given, for the message.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(value, str | os.PathLike):
        raise ConfigError(f"{name}: expected {wanted}, got {type(value).__name__}")
    return os.fspath(value)


def require_order(value: object, name: str) -> None:
    """Check that an argument is not a set, whose order is another one in every process.

    Raises:
        ConfigError: it is one.
    """
    if isinstance(value, set | frozenset):
        raise ConfigError(f"{name}: expected a list, got a {type(value).__name__}, which has no order")
