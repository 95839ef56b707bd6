"""Every source behind one function: a configuration in, one ``SourceMolecule`` a row out, one row in memory at a time.

A row that cannot be a molecule is still yielded, so that curation counts it as a failure; only blank lines, comment
lines and headers are not rows. Data that ends too early adds one row that says so.
"""

import collections
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from conformer_gen.sources import pcqm4mv2, qm9
from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.inputs.locations import SUFFIXES, fetch, locate
from conformer_gen.sources.inputs.remote import is_url
from conformer_gen.sources.inputs.text_streams import Opened, Reader, ignore, read_streams
from conformer_gen.sources.lines import read_lines
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.row_sample import sample_rows
from conformer_gen.sources.structures import read_sdf
from conformer_gen.sources.tables import read_csv, read_parquet
from conformer_gen.sources.unimol import read_unimol, unimol_labels
from unimol_scale.errors import SourceError, nearest

OWN_LABELS = {"pcqm4mv2": pcqm4mv2.LABELS, "qm9": qm9.LABELS}
WITH_GEOMETRY = ("sdf", "pcqm4mv2", "qm9", "unimol-lmdb")


def has_geometry(config: SourceConfig) -> bool:
    """Return whether the source's own coordinates are kept; rows of pcqm4mv2 may still lack them."""
    return config.name in WITH_GEOMETRY


def may_lack_geometry(config: SourceConfig) -> bool:
    """Return whether there can be rows for which coordinates are made."""
    return config.name == "pcqm4mv2" or not has_geometry(config)


def label_units(config: SourceConfig) -> dict[str, str]:
    """Return the names of the labels that rows of the source carry, in their order, and their units."""
    return dict(OWN_LABELS.get(config.name, config.labels))


def read_source(config: SourceConfig, downloads: Path | None = None, seed: int = 0) -> Iterator[SourceMolecule]:
    """Yield every row of every input, up to the limit, or the sample of them.

    Args:
        config: which molecules.
        downloads: directory for the files of URLs; they are fetched some ahead of the reader, and stay there.
        seed: of the sample.

    Raises:
        SourceError: an input cannot be found, fetched, or read as what it claims to be.
    """
    rows = read_files(config, fetch(locate(config), config, downloads))
    if config.sample is not None:
        return sample_rows(rows, config.sample, seed)
    return itertools.islice(rows, config.limit)


def check_source(config: SourceConfig) -> None:
    """Find out what is wrong with local inputs before anything is built.

    The first row of every file is read; all rows if labels were chosen, since a label that is no number stops a build.

    Raises:
        SourceError: as ``read_source``.
    """
    local = [Path(place) for place in locate(config) if not is_url(place)]
    if config.labels:
        collections.deque(itertools.islice(read_files(config, local), config.limit), maxlen=0)
        return
    groups = [local] if config.name in OWN_LABELS else [[path] for path in local]
    for group in groups:
        next(read_files(config, group), None)


def read_files(config: SourceConfig, paths: Iterable[Path], opened: Opened = ignore) -> Iterator[SourceMolecule]:
    """Yield every row of local files.

    Args:
        config: which molecules; its inputs and their limits are not looked at.
        paths: the files.
        opened: is given every file of text as it is opened, to watch its place.

    Raises:
        SourceError: as ``read_source``.
    """
    if config.name == "pcqm4mv2":
        yield from pcqm4mv2.read_pcqm4mv2(list(paths))
    elif config.name == "qm9":
        yield from qm9.read_qm9(list(paths))
    else:
        for path in paths:
            try:
                yield from _rows_of(path, config, opened)
            except OSError as error:
                raise SourceError(f"{path} cannot be read: {error}") from error


def _rows_of(path: Path, config: SourceConfig, opened: Opened) -> Iterator[SourceMolecule]:
    if config.name == "parquet":
        return read_parquet(path, config)
    if config.name == "unimol-lmdb":
        return _read_unimol(path, config)
    readers: dict[str, Reader] = {
        "csv": lambda stream: read_csv(stream, config),
        "sdf": lambda stream: read_sdf(stream, config),
    }
    read = readers.get(config.name, lambda stream: read_lines(stream, config))
    return read_streams(path, SUFFIXES.get(config.name, ()), read, opened)


def _read_unimol(path: Path, config: SourceConfig) -> Iterator[SourceMolecule]:
    """Read the targets if they were asked for, all of them: they have no names of their own."""
    if config.labels and (there := unimol_labels(path)) != tuple(config.labels):
        given = next((label for label in config.labels if label not in there), "")
        raise SourceError(
            f"{path} has the targets {', '.join(there) or '(none)'}, source.labels has {', '.join(config.labels)}; "
            f"{nearest(given, there)}"
        )
    return read_unimol(path, len(config.labels))
