"""A setting whose default was changed keeps its former one in what earlier versions wrote, and only there."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import pytest

from unimol_scale.config import Origin, build, defaults_of, identifying, recorded_defaults_of
from unimol_scale.errors import ConfigError
from unimol_scale.former_settings import settings_kept


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    FORMER_DEFAULTS: ClassVar[Mapping[str, Any]] = MappingProxyType({"shown": "all", "sizes": [1]})

    first: int = 0
    shown: str = "some"
    sizes: tuple[int, ...] = (1, 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    rate: float = 1.0


FORMER = Inner(shown="all", sizes=(1,))


@pytest.mark.parametrize(
    ("tree", "here", "recorded"),
    [
        ({}, Inner(), FORMER),  # written before there was the group
        ({"inner": {"first": 3}}, Inner(first=3), dataclasses.replace(FORMER, first=3)),
        ({"inner": {"shown": "some", "sizes": [1, 2]}}, Inner(), Inner()),
    ],
)
def test_an_absent_setting_means_in_a_recorded_file_what_it_meant_then(tree, here, recorded):
    assert build(Outer, tree, Origin(name="a user's file")).inner == here
    assert build(Outer, tree, Origin(name="config.yaml", recorded=True)).inner == recorded


def test_a_wrong_group_in_a_recorded_file_is_still_told():
    with pytest.raises(ConfigError, match="expected a group of keys"):
        build(Outer, {"inner": 3}, Origin(name="config.yaml", recorded=True))


def test_what_identifies_earlier_settings_stays_as_it_was():
    assert identifying(FORMER, ("first",)) == {"first": 0}
    assert identifying(Inner(), ("first",)) == {"first": 0, "shown": "some", "sizes": [1, 2]}
    assert defaults_of(Outer)["inner.shown"] == "some"
    assert recorded_defaults_of(Outer) == {"inner.first": 0, "inner.shown": "all", "inner.sizes": [1], "rate": 1.0}


@pytest.mark.parametrize(
    ("chosen", "before", "kept"),
    [
        ({}, {"rate": 1.0}, {"inner": {"shown": "all", "sizes": [1]}}),
        ({}, {"inner": {"shown": "all", "sizes": [1, 2]}}, {"inner": {"shown": "all"}}),
        ({"inner": {"shown": "some"}}, {}, {"inner": {"sizes": [1]}}),
        ({}, {"inner": {"shown": "some", "sizes": [1, 2]}}, {}),
    ],
)
def test_a_folder_keeps_what_it_was_begun_with_unless_it_is_chosen(chosen, before, kept):
    assert settings_kept(Outer, chosen, before) == kept
