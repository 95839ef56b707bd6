"""Reads every source through one function, which yields one ``SourceMolecule`` per row, one row in memory at a time.

A row that cannot be a molecule is still yielded, so that curation counts it as a failure. Only blank lines, comments
and headers are not rows. If data ends too early, an additional row reports it.
"""

import collections
import dataclasses
import itertools
import numbers
from collections.abc import Iterable, Iterator
from pathlib import Path

from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.file_range import WHOLE, FileRange
from conformer_gen.sources.inputs.locations import fetch, locate
from conformer_gen.sources.inputs.remote import is_url
from conformer_gen.sources.inputs.text_streams import Opened, ignore, read_streams
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.row_sample import sample_rows
from conformer_gen.sources.source import Source
from unimol_scale.common.plugins import is_reference
from unimol_scale.errors import SourceError


def label_units(config: SourceConfig) -> dict[str, str]:
    """Return the names of the labels that rows of the source carry, in their order, with their units."""
    return dict(config.kind.labels or config.labels)


def read_source(config: SourceConfig, downloads: Path | None = None, seed: int = 0) -> Iterator[SourceMolecule]:
    """Yield every row of every input up to the limit, or a sample of the rows.

    Args:
        config: which molecules.
        downloads: directory for the files of URLs, which are downloaded ahead of the reader and kept.
        seed: seed of the sample.

    Raises:
        SourceError: an input cannot be found, downloaded, or read in its format.
    """
    return chosen_rows(read_files(config, fetch(locate(config), config, downloads)), config, seed)


def chosen_rows(rows: Iterator[SourceMolecule], config: SourceConfig, seed: int) -> Iterator[SourceMolecule]:
    """Return the rows up to the limit, or the sample of them."""
    if config.sample is not None:
        return sample_rows(rows, config.sample, seed)
    return itertools.islice(rows, config.limit)


def check_source(config: SourceConfig) -> None:
    """Check local inputs before anything is built.

    The first row of every file is read, or all rows if labels were chosen, since a label must be a number.

    Raises:
        SourceError: as ``read_source``.
    """
    local = [Path(place) for place in locate(config) if not is_url(place)]
    if config.labels:
        collections.deque(itertools.islice(read_files(config, local), config.limit), maxlen=0)
        return
    groups = [local] if config.kind.read_files is not None else [[path] for path in local]
    for group in groups:
        next(read_files(config, group), None)


def read_files(
    config: SourceConfig, paths: Iterable[Path], opened: Opened = ignore, within: FileRange = WHOLE
) -> Iterator[SourceMolecule]:
    """Yield every row of local files.

    Args:
        config: which molecules; its inputs and their limits are ignored.
        paths: the files.
        opened: called with every text file when it is opened, to follow the position in it.
        within: range of each file, for sources that have ``Source.ranges``.

    Raises:
        SourceError: as ``read_source``.
    """
    rows = _rows(config, config.kind, paths, opened, within)
    rows = _checked(rows, config) if is_reference(config.name) else rows
    if config.geometry == "make":
        return (dataclasses.replace(row, geometry=None, origin=None) for row in rows)
    return rows


def _rows(
    config: SourceConfig, kind: Source, paths: Iterable[Path], opened: Opened, within: FileRange
) -> Iterator[SourceMolecule]:
    if kind.read_files is not None:
        yield from _yielded(kind.read_files(list(paths), config), config)
        return
    for path in paths:
        try:
            if within != WHOLE and kind.read_range is not None:
                yield from kind.read_range(path, config, within)
            elif kind.read_file is not None:
                yield from _yielded(kind.read_file(path, config), config)
            elif (read := kind.read_stream) is not None:
                yield from read_streams(
                    path, kind.suffixes, lambda stream: _yielded(read(stream, config), config), opened, within
                )
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error}") from error


def _yielded(rows: Iterator[SourceMolecule], config: SourceConfig) -> Iterator[SourceMolecule]:
    """Check that a reader returned an iterator of rows, and return it.

    Raises:
        SourceError: it did not, for example because it lacks a ``yield``.
    """
    if not isinstance(rows, Iterable):
        raise SourceError(f"the reader of the source {config.name} must yield rows; it returned {rows!r}")
    return rows


def _checked(rows: Iterator[SourceMolecule], config: SourceConfig) -> Iterator[SourceMolecule]:
    """Yield the rows of a user's own source after checks for what would otherwise fail later.

    Raises:
        SourceError: a row is not a ``SourceMolecule``, has fields of other types, or lacks the labels or coordinates
            that its source declares.
    """
    names, geometry = list(label_units(config)), config.kind.geometry
    for at, row in enumerate(rows, start=1):
        if type(row) is not SourceMolecule:  # rows go to workers, which may lack the user's code
            kind = "conformer_gen.sources.molecule.SourceMolecule"
            raise SourceError(f"the source {config.name} must yield {kind}, but its row {at} is {row!r}")
        where = f"the source {config.name}: row {at} ({row.id!r})"
        has = row.geometry is not None or row.origin is not None
        for name in ("id", "smiles", "block", "problem"):
            if not isinstance(value := getattr(row, name), str):
                raise SourceError(f"{where}: {name} must be text, not {value!r}")
        for name, label in zip(names, row.labels, strict=False):
            if not isinstance(label, numbers.Real):
                raise SourceError(f"{where}: the label {name} must be a number (NaN if missing), not {label!r}")
        if not row.problem and len(row.labels) != len(names):
            known = f"{len(names)} ({', '.join(names) or 'none'})"
            raise SourceError(f"{where} has {len(row.labels)} labels, but the source has {known}")
        if not row.problem and geometry == ("none" if has else "all"):
            raise SourceError(f"{where} has {'' if has else 'no '}coordinates, but the source declares {geometry=}")
        yield row
