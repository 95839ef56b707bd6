"""Several sources as one: tags that distinguish them, and the labels of all.

A build from one source uses its rows as they are. With several, every row is named ``tag:id`` and has the labels of all
sources, NaN where its own source has none of that name.
"""

from collections.abc import Sequence

from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.reader import label_units
from unimol_scale.errors import ConfigError


def source_tags(sources: Sequence[SourceConfig]) -> tuple[str, ...]:
    """Return a distinct short name for each source: that of its kind, with its number in the list if kinds repeat."""
    return distinct([source.kind.name for source in sources])


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names; if any occurs twice, all get their number in the list, which makes them distinct."""
    if len(set(names)) == len(names):
        return tuple(names)
    return tuple(f"{name}-{place}" for place, name in enumerate(names, start=1))


def joint_label_units(sources: Sequence[SourceConfig]) -> dict[str, str]:
    """Return the labels that rows of any of the sources carry, with units, in the order of their first occurrence.

    Raises:
        ConfigError: two sources have a label of the same name in different units, which one column cannot hold.
    """
    units: dict[str, str] = {}
    owner: dict[str, str] = {}
    for tag, source in zip(source_tags(sources), sources, strict=True):
        for label, unit in label_units(source).items():
            if units.setdefault(label, unit) != unit:
                raise ConfigError(
                    f"sources: the label {label!r} is in {units[label] or 'no unit'} in {owner[label]} and in "
                    f"{unit or 'no unit'} in {tag}; one column holds one unit: build separate stores, or, where "
                    "labels can be chosen, rename the column"
                )
            owner.setdefault(label, tag)
    return units
