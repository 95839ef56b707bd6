"""What settings were called before, and what they meant when they were not given. Imports no torch.

A dataclass of settings says it in two class variables, for files and commands of earlier versions:

- ``FORMER_NAMES``: former name of a setting or of a group of them → present name, dotted paths inside the dataclass.
- ``FORMER_DEFAULTS``: name of a setting → its default before it was changed, or what its absence meant before there was
  such a setting, as YAML holds it. A file that a program of this project wrote keeps that meaning, and so does a run
  folder: the command that began it goes on with it, although it would begin another run today.
"""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from unimol_scale.common.trees import Tree, flatten, merge, nested


def former_names(config_type: type[Any]) -> Mapping[str, str]:
    """Return the former names of settings and of groups of them → their present names."""
    names: Mapping[str, str] = getattr(config_type, "FORMER_NAMES", {})
    return names


def present_name(config_type: type[Any], key: str) -> str:
    """Return the name that a dotted key has now; any other key, known or not, as it is."""
    former = former_names(config_type)
    groups = [name for name in former if key == name or key.startswith(f"{name}.")]
    longest = max(groups, key=len, default=None)
    return key if longest is None else former[longest] + key.removeprefix(longest)


def former_defaults(config_type: type[Any], path: str = "") -> dict[str, Any]:
    """Return dotted key → former default, of a dataclass of settings and of those inside it, where it is another now.

    Args:
        config_type: the dataclass.
        path: its dotted path, put before every key.
    """
    own: Mapping[str, Any] = getattr(config_type, "FORMER_DEFAULTS", {})
    former = {f"{path}.{name}".removeprefix("."): value for name, value in own.items()}
    hints = typing.get_type_hints(config_type)
    for field in dataclasses.fields(config_type):
        if isinstance(hint := hints[field.name], type) and dataclasses.is_dataclass(hint):
            former |= former_defaults(hint, f"{path}.{field.name}".removeprefix("."))
    return former


def settings_kept(config_type: type[Any], chosen: Mapping[str, Any], before: Mapping[str, Any]) -> Tree:
    """Return the settings that go on in a folder with their former default, as a tree.

    They are those that are not chosen and that had the former default when the folder was begun.

    Args:
        config_type: dataclass of the settings.
        chosen: tree of what is given now.
        before: tree of what the folder records.
    """
    given, then = flatten(chosen), flatten(before)
    kept: Tree = {}
    for key, value in former_defaults(config_type).items():
        if key not in given and then.get(key, value) == value:
            kept = merge(kept, nested(key, value))
    return kept
