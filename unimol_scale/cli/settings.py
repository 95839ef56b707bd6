"""From a command's arguments to its settings: the YAML file, the flags that stand for a setting, and key=value."""

import argparse
from collections.abc import Mapping
from typing import Any

from unimol_scale.common.trees import Tree, merge, nested
from unimol_scale.config import Origin, parse_overrides, read_settings


def settings_of(
    arguments: argparse.Namespace,
    flags: Mapping[str, str],
    more: Mapping[str, Any] | None = None,
    *,
    flags_win: bool = False,
) -> tuple[Tree, Origin]:
    """Lay the file under what the command line gives.

    Args:
        arguments: with ``config`` and ``assignments``.
        flags: name of an argument → dotted path of the setting that it stands for; None says that it was not given.
        more: settings that follow from other arguments, as a tree; they count as flags.
        flags_win: over key=value; otherwise key=value wins over them.

    Returns:
        The settings, and where each came from.

    Raises:
        ConfigError: the file or an assignment cannot be read.
    """
    given: Tree = dict(more or {})
    for name, path in flags.items():
        value = getattr(arguments, name)
        if value is not None:
            given = merge(given, nested(path, value))
    if flags_win:
        return read_settings(arguments.config, merge(parse_overrides(arguments.assignments), given))
    return read_settings(arguments.config, given, arguments.assignments)
