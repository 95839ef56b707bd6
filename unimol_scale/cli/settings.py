"""From a command's arguments to its settings: the YAML file, the flags that stand for a setting, and key=value."""

import argparse
from collections.abc import Mapping
from typing import Any

from unimol_scale.config import Origin, Tree, merge, read_settings


def settings_of(
    arguments: argparse.Namespace, flags: Mapping[str, str], more: Mapping[str, Any] | None = None
) -> tuple[Tree, Origin]:
    """Lay the file under the flags that were given, and key=value over both.

    Args:
        arguments: with ``config`` and ``assignments``.
        flags: name of an argument → dotted path of the setting that it stands for; None says that it was not given.
        more: settings that follow from other arguments, as a tree.

    Returns:
        The settings, and where each came from.

    Raises:
        ConfigError: the file or an assignment cannot be read.
    """
    given = tree_of_flags(arguments, flags)
    return read_settings(arguments.config, merge(given, more or {}), arguments.assignments)


def tree_of_flags(arguments: argparse.Namespace, flags: Mapping[str, str]) -> Tree:
    """Return the flags that were given, of those that stand for a setting, as a tree of settings."""
    tree: Tree = {}
    for name, path in flags.items():
        value = getattr(arguments, name, None)
        if value is not None:
            node = value
            for key in reversed(path.split(".")):
                node = {key: node}
            tree = merge(tree, node)
    return tree
