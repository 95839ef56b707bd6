"""What settings were called in earlier versions, and what their absence meant. Imports no torch.

A dataclass of settings declares this in two class variables, for files and commands of earlier versions:

- ``FORMER_NAMES``: former name of a setting or group → present name, as dotted paths inside the dataclass.
- ``FORMER_DEFAULTS``: name of a setting → its former default, or what its absence meant before the setting existed, as
  YAML holds it. Files that a program of this project wrote keep that meaning. So do run folders: the command that began
  a run continues it unchanged, although today it would begin a different run.
"""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from unimol_scale.common.trees import Tree, flatten, merge, nested


def former_names(config_type: type[Any]) -> Mapping[str, str]:
    """Return former name → present name for settings and groups."""
    names: Mapping[str, str] = getattr(config_type, "FORMER_NAMES", {})
    return names


def present_name(config_type: type[Any], key: str) -> str:
    """Return the present name of a dotted key; any other key, known or not, is returned as it is."""
    former = former_names(config_type)
    groups = [name for name in former if key == name or key.startswith(f"{name}.")]
    longest = max(groups, key=len, default=None)
    return key if longest is None else former[longest] + key.removeprefix(longest)


def former_defaults(config_type: type[Any], path: str = "") -> dict[str, Any]:
    """Return dotted key → former default, for settings of a dataclass and those nested in it whose default has changed.

    Args:
        config_type: the dataclass.
        path: its dotted path, prepended to every key.
    """
    own: Mapping[str, Any] = getattr(config_type, "FORMER_DEFAULTS", {})
    former = {f"{path}.{name}".removeprefix("."): value for name, value in own.items()}
    hints = typing.get_type_hints(config_type)
    for field in dataclasses.fields(config_type):
        if isinstance(hint := hints[field.name], type) and dataclasses.is_dataclass(hint):
            former |= former_defaults(hint, f"{path}.{field.name}".removeprefix("."))
    return former


def settings_kept(config_type: type[Any], chosen: Mapping[str, Any], before: Mapping[str, Any]) -> Tree:
    """Return, as a tree, the settings that keep their former default in an existing folder.

    These are settings that are not chosen now and had the former default when the folder was begun.

    Args:
        config_type: dataclass of the settings.
        chosen: tree of the settings given now.
        before: tree of the settings recorded in the folder.
    """
    given, then = flatten(chosen), flatten(before)
    kept: Tree = {}
    for key, value in former_defaults(config_type).items():
        if key not in given and then.get(key, value) == value:
            kept = merge(kept, nested(key, value))
    return kept
