"""Tomorrow's version: settings that today's has not, added to its dataclasses while a test runs."""

import dataclasses
from typing import Any

import pytest

# What a dataclass is made of; each is taken from a subclass that has the further field.
_MADE = ("__init__", "__repr__", "__eq__", "__hash__", "__dataclass_fields__", "__match_args__")


def add_setting(monkeypatch: pytest.MonkeyPatch, kind: type[Any], name: str, hint: object, default: object) -> None:
    """Give a dataclass one more field until the test ends, in every module that has imported it.

    Args:
        monkeypatch: undoes it.
        kind: the dataclass.
        name: of the field.
        hint: its type.
        default: its default; a type is called for each object.
    """
    made = isinstance(default, type)
    field = dataclasses.field(default_factory=default) if made else dataclasses.field(default=default)
    frozen = kind.__dataclass_params__.frozen
    later = dataclasses.make_dataclass(kind.__name__, [(name, hint, field)], bases=(kind,), frozen=frozen, kw_only=True)
    for attribute in _MADE:
        monkeypatch.setattr(kind, attribute, getattr(later, attribute))
    monkeypatch.setitem(kind.__annotations__, name, hint)
    if not made:
        monkeypatch.setattr(kind, name, default, raising=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyConfig:
    """Settings of an objective of tomorrow."""

    mask_fraction: float = 0.15
    names: tuple[str, ...] = ("a", "b")
