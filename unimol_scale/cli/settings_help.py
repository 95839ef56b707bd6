"""Describes the settings of a verb: every key with its default, type and meaning, as read from the dataclasses."""

import dataclasses
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, Union

import yaml

from unimol_scale.common.trees import group_of
from unimol_scale.config import NAMES_OF_TYPES, to_tree

WIDTH = 80


def settings_text(config_type: type[Any], told: Mapping[str, str]) -> str:
    """Return the lines that ``--help-settings`` prints, at most 80 columns wide.

    Args:
        config_type: dataclass of the whole configuration.
        told: key, or group of keys → where its value comes from, for settings that the command fills in itself.
    """
    lines: list[str] = []
    for setting in described_settings(config_type, told):
        lines += _wrapped(
            f"{setting.key}  ({setting.source})" if setting.source else f"{setting.key}={setting.default}", ""
        )
        lines += _wrapped(f"({setting.type_name}) {setting.meaning}", "    ")
    return "\n".join(lines)


class DescribedSetting(NamedTuple):
    """One setting as shown in help and documentation.

    Attributes:
        key: its dotted path.
        default: its default, as it would be written on the command line.
        type_name: its type in words.
        meaning: its description in the docstring of its dataclass.
        source: where its value comes from if the command fills it in itself; "" otherwise.
    """

    key: str
    default: str
    type_name: str
    meaning: str
    source: str


def described_settings(config_type: type[Any], told: Mapping[str, str]) -> list[DescribedSetting]:
    """Return every setting of a configuration in the order of its dataclasses.

    Args:
        config_type: dataclass of the whole configuration.
        told: key, or group of keys → where its value comes from, for settings that the command fills in itself.
    """
    found = []
    for key, field, hint, meaning in _fields(config_type):
        source = next((text for start, text in told.items() if key == start or key.startswith(f"{start}.")), "")
        found.append(DescribedSetting(key, _default(field), _type_name(hint), meaning, source))
    return found


def _fields(config_type: type[Any], path: str = "") -> Iterator[tuple[str, "dataclasses.Field[Any]", Any, str]]:
    """Yield dotted key, field, type hint and meaning of every key, including the keys inside groups."""
    hints = typing.get_type_hints(config_type)
    meanings = _meanings(config_type)
    for field in dataclasses.fields(config_type):
        hint, key = hints[field.name], f"{path}.{field.name}".removeprefix(".")
        if group := group_of(hint):
            yield from _fields(group, key)
        else:
            yield key, field, hint, meanings.get(field.name, "")


def _meanings(config_type: type[Any]) -> dict[str, str]:
    """Return name of a field → its description in the section "Attributes:" of the docstring."""
    found: dict[str, str] = {}
    for one in reversed(config_type.__mro__):
        found |= _own_meanings(inspect.cleandoc(one.__doc__ or ""))
    return found


def _own_meanings(text: str) -> dict[str, str]:
    section = text.partition("Attributes:\n")[2]
    section = textwrap.dedent(re.split(r"\n(?=\S)", section)[0])
    pairs = (entry.partition(": ") for entry in re.split(r"^(?=\w+: )", section, flags=re.MULTILINE))
    return {name: re.sub(r"\bNone\b", "null", " ".join(text.replace("``", "").split())) for name, _, text in pairs}


def _default(field: "dataclasses.Field[Any]") -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "…  (required)"
    # A value is written on the command line in YAML's flow style too.
    text: str = yaml.safe_dump(to_tree(value), default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _type_name(hint: Any) -> str:  # noqa: ANN401
    outer, inner = typing.get_origin(hint), typing.get_args(hint)
    if outer in (Union, types.UnionType):
        return " or ".join("null" if choice is type(None) else _type_name(choice) for choice in inner)
    if outer is Literal:
        return " | ".join(str(choice) for choice in inner)
    if outer is tuple:
        each = "a group of keys" if group_of(inner[0]) else _type_name(inner[0])
        return f"list, each {each}"
    if outer is not None:
        return f"keys, each {_type_name(inner[1])}"
    return "anything" if hint is Any else NAMES_OF_TYPES[hint]


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent or "    ", break_on_hyphens=False)
