"""Divides sources into units, parts that are read on their own, so that several processes can read. Imports no Ray.

A unit is some files, or a range of a large file whose format allows that. Which units there are depends on the inputs
alone, and a unit has the same rows wherever it is read. Some sources are one unit each, which only the main process of
a build can read: with a limit or a sample, since which rows count depends on those before; files that belong together;
and sources of a user's own, whose code other processes may lack.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.file_range import WHOLE, FileRange
from conformer_gen.sources.inputs.file_names import stem
from conformer_gen.sources.inputs.locations import fetch, locate
from conformer_gen.sources.inputs.remote import is_url, local_path
from conformer_gen.sources.joint import distinct, joint_label_units, source_tags
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.reader import chosen_rows, label_units, read_files
from unimol_scale.common.plugins import is_reference
from unimol_scale.errors import SourceError

# Chunks of a build are numbered by its units, so an unfinished one needs the same when it is continued: plan.json holds
# the size and whether text is read in ranges, and the number below must stay.
UNIT_BYTES = 16 << 20  # of files, seconds of reading
MOST_RANGES = 32  # of one file, since some readers look through its index for each


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unit:
    """A part of a source that is read on its own.

    Attributes:
        number: counted over all units of the build.
        source: number of its source among those of the build.
        name: what is read, for messages.
        read: yields its rows; can be pickled if ``anywhere``.
        anywhere: whether any process that sees the files can read it, as often as it likes; otherwise only this process
            can, and once.
    """

    number: int
    source: int
    name: str
    read: Callable[[], Iterator[SourceMolecule]]
    anywhere: bool


class Part(NamedTuple):
    """A file or a range of it, and what its rows' ids begin with."""

    path: Path
    range: FileRange
    prefix: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joined:
    """How rows of one of several sources appear among those of all.

    Attributes:
        tag: of the source.
        label_at: for each label of all sources, its place among those of this source, or None.
    """

    tag: str
    label_at: tuple[int | None, ...]

    def __call__(self, rows: Iterable[SourceMolecule]) -> Iterator[SourceMolecule]:
        """Yield rows named after their source, with all labels; a row with a problem may lack its own."""
        for row in rows:
            values = (math.nan if at is None or at >= len(row.labels) else row.labels[at] for at in self.label_at)
            yield dataclasses.replace(row, id=f"{self.tag}:{row.id}", labels=tuple(values))


def plan_units(
    sources: Sequence[SourceConfig],
    downloads: Path | None,
    seed: int,
    unit_bytes: int | None = UNIT_BYTES,
    *,
    text_ranges: bool = True,
) -> Iterator[Unit]:
    """Yield the units of all sources, in the order of their rows.

    Args:
        sources: one or more.
        downloads: directory for the files of URLs, which are downloaded as units are asked for.
        seed: seed of samples.
        unit_bytes: files form a unit once they have so many bytes; None: every source is one unit.
        text_ranges: whether ranges of text files are units, too.

    Raises:
        SourceError: an input cannot be found, downloaded, or read in its format.
    """
    labels, numbers = list(joint_label_units(sources)), itertools.count()
    for place, (tag, config) in enumerate(zip(source_tags(sources), sources, strict=True)):
        joined = None
        if len(sources) > 1:
            own = list(label_units(config))
            joined = Joined(tag=tag, label_at=tuple(own.index(one) if one in own else None for one in labels))
        prefixes = _prefixes(config, downloads) if joined else {}
        paths = fetch(locate(config), config, downloads)
        if unit_bytes is None or not _is_divisible(config):
            read = functools.partial(_read_whole, config, paths, prefixes, joined, seed)
            yield Unit(number=next(numbers), source=place, name=config.name, read=read, anywhere=False)
            continue
        in_ranges = text_ranges or config.kind.read_stream is None
        for parts in _parts(config, paths, prefixes, unit_bytes, in_ranges=in_ranges):
            read = functools.partial(read_parts, config, parts, joined)
            name = str(parts[0].path) + (f" to {parts[-1].path}" if len(parts) > 1 else "")
            yield Unit(number=next(numbers), source=place, name=name, read=read, anywhere=True)


def peek(units: Iterator[Unit], most: int) -> tuple[int, Iterator[Unit]]:
    """Count the rows up to a number; return it, and the units, whose rows are still all to be read."""
    num_rows, seen = 0, list[Unit]()
    while num_rows < most and (unit := next(units, None)) is not None:
        rows = unit.read()
        first = list(itertools.islice(rows, most - num_rows))
        num_rows += len(first)
        if not unit.anywhere:
            unit = dataclasses.replace(unit, read=functools.partial(itertools.chain, first, rows))
        seen.append(unit)
    return num_rows, itertools.chain(seen, units)


def read_parts(config: SourceConfig, parts: Iterable[Part], joined: Joined | None) -> Iterator[SourceMolecule]:
    """Yield the rows of files or ranges of them, one after another.

    Raises:
        SourceError: a file cannot be read in its format.
    """
    rows = itertools.chain.from_iterable(map(functools.partial(_read_part, config), parts))
    return rows if joined is None else joined(rows)


def _read_part(config: SourceConfig, part: Part) -> Iterator[SourceMolecule]:
    rows = read_files(config, [part.path], within=part.range)
    if not part.prefix:
        return rows
    return (dataclasses.replace(row, id=f"{part.prefix}:{row.id}") for row in rows)


def _read_whole(
    config: SourceConfig, paths: Iterator[Path], prefixes: Mapping[Path, str], joined: Joined | None, seed: int
) -> Iterator[SourceMolecule]:
    if config.kind.read_files is not None:
        rows = read_files(config, paths)
    else:
        rows = read_parts(config, (Part(path, WHOLE, prefixes.get(path, "")) for path in paths), None)
    rows = chosen_rows(rows, config, seed)
    return rows if joined is None else joined(rows)


def _is_divisible(config: SourceConfig) -> bool:
    chosen = config.limit is not None or config.sample is not None
    return not chosen and config.kind.read_files is None and not is_reference(config.name)


def _prefixes(config: SourceConfig, downloads: Path | None) -> dict[Path, str]:
    """Return what the ids of each file begin with, if they are unique only within a file and there are several."""
    places = locate(config)
    if not config.kind.ids_in_files or len(places) == 1:
        return {}
    paths = [local_path(place, downloads) if is_url(place) and downloads else Path(place) for place in places]
    return dict(zip(paths, distinct([stem(path.name) for path in paths]), strict=True))


def _parts(
    config: SourceConfig, paths: Iterable[Path], prefixes: Mapping[Path, str], unit_bytes: int, *, in_ranges: bool
) -> Iterator[tuple[Part, ...]]:
    """Yield the parts of each unit: ranges of a large file one by one, other files until they are large enough."""
    waiting, size = list[Part](), 0
    for path in paths:
        prefix, ranges = prefixes.get(path, ""), [WHOLE]
        try:
            own = path.stat().st_size
            if in_ranges and config.kind.ranges is not None and own > unit_bytes:
                ranges = config.kind.ranges(path, config, min(MOST_RANGES, -(-own // unit_bytes)))
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error}") from error
        if len(ranges) > 1:
            if waiting:
                yield tuple(waiting)
                waiting, size = [], 0
            yield from ((Part(path, one, prefix),) for one in ranges)
            continue
        waiting.append(Part(path, WHOLE, prefix))
        size += own
        if size >= unit_bytes:
            yield tuple(waiting)
            waiting, size = [], 0
    if waiting:
        yield tuple(waiting)
