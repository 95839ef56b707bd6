"""Collects a command's settings from its YAML file, the flags that stand for settings, and key=value arguments."""

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
    """Return the settings of the file, overridden by those of the command line.

    Args:
        arguments: parsed arguments with the attributes ``config`` and ``assignments``. An attribute that is None was
            not given.
        flags: name of an argument → dotted path of the setting that it stands for.
        more: settings that follow from other arguments, as a tree; they have the precedence of flags.
        flags_win: whether flags take precedence over key=value; by default key=value takes precedence.

    Returns:
        The settings, and where each of them came from.

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
