"""Several sources as one: tags that distinguish them, the labels of all, and rows that carry both.

A build from one source uses its rows as they are. With several, every row is named ``tag:id`` and has the labels of all
sources, NaN where its own source has none of that name.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.inputs.file_names import stem
from conformer_gen.sources.inputs.locations import fetch, locate
from conformer_gen.sources.inputs.remote import is_url, local_path
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.reader import chosen_rows, label_units, read_files, read_source
from unimol_scale.errors import ConfigError


def source_tags(sources: Sequence[SourceConfig]) -> tuple[str, ...]:
    """Return a distinct short name for each source: that of its kind, with its number in the list if kinds repeat."""
    return _distinct([source.kind.name for source in sources])


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
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


def read_sources(sources: Sequence[SourceConfig], downloads: Path | None, seed: int) -> list[Iterator[SourceMolecule]]:
    """Return the rows of each source, in the order of the sources.

    Args:
        sources: one or more.
        downloads: directory for the files of URLs; those of a source are downloaded when its rows are read.
        seed: seed of samples.

    Raises:
        SourceError: an input cannot be found, downloaded, or read in its format.
    """
    if len(sources) == 1:
        return [read_source(sources[0], downloads, seed)]
    labels = list(joint_label_units(sources))
    return [
        _tagged(_read_with_file_names(source, downloads, seed), tag, labels, list(label_units(source)))
        for tag, source in zip(source_tags(sources), sources, strict=True)
    ]


def _tagged(
    rows: Iterator[SourceMolecule], tag: str, labels: Sequence[str], own: Sequence[str]
) -> Iterator[SourceMolecule]:
    """Yield rows named after their source, with all labels; a row with a problem may lack its own."""
    at = [own.index(label) if label in own else None for label in labels]
    for row in rows:
        values = (math.nan if n is None or n >= len(row.labels) else row.labels[n] for n in at)
        yield dataclasses.replace(row, id=f"{tag}:{row.id}", labels=tuple(values))


def _read_with_file_names(config: SourceConfig, downloads: Path | None, seed: int) -> Iterator[SourceMolecule]:
    """Read a source; if ids are unique only within a file and there are several files, prefix them with its name."""
    places = locate(config)
    if not config.kind.ids_in_files or len(places) == 1:
        return read_source(config, downloads, seed)
    paths = [local_path(place, downloads) if is_url(place) and downloads else Path(place) for place in places]
    names = dict(zip(paths, _distinct([stem(path.name) for path in paths]), strict=True))

    def rows() -> Iterator[SourceMolecule]:
        for path in fetch(places, config, downloads):
            for row in read_files(config, [path]):
                yield dataclasses.replace(row, id=f"{names[path]}:{row.id}")

    return chosen_rows(rows(), config, seed)
