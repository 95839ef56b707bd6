"""How many rows a source has: counted if it is small, otherwise estimated from its bytes. Imports no Ray.

Some rows are read from a few evenly spaced files; the other files are assumed to have as many rows per byte.
"""

import contextlib
import dataclasses
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.inputs.file_names import bare_suffix
from conformer_gen.sources.inputs.locations import locate
from conformer_gen.sources.inputs.remote import is_url, local_path
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.reader import read_files
from conformer_gen.sources.registry import SOURCES
from unimol_scale.common.fetching.choose_transport import transport_for
from unimol_scale.common.fetching.transport import MissingError, NetworkError
from unimol_scale.common.progress import StageProgress

FILES_READ = 10
URLS_READ = 4
ROWS_READ = 200_000  # over all files; takes about a second for lines
SECONDS_READ = 10.0
REMOTE_BYTES = 2**20  # downloaded from each URL
FIRST_ROWS = 2000  # rows kept in memory
ROWS_A_LOOK = 256  # rows between two looks at the clock
# The position in a file moves in blocks that are read ahead, so rows per byte are computed from the later moves.
STEPS, FIRST_STEPS = 6, 2
STALL_S = 10.0

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowCount:
    """The number of rows of a source.

    Attributes:
        rows: the number, at most the configured limit or sample.
        how: how the number is known, as text; "" if every row was counted.
        first: some rows, from the beginning of the files that were read.
    """

    rows: int
    how: str
    first: list[SourceMolecule]

    def describe(self) -> str:
        """Return the number in words."""
        return f"about {self.rows:,} rows" if self.how else f"{self.rows:,} rows"


@dataclasses.dataclass(frozen=True)
class _Looked:
    """What was seen of one file: the number of rows read, and its total if known or estimated."""

    read: int
    total: float | None
    size: int
    ended: bool


def count_rows(config: SourceConfig) -> RowCount:
    """Count or estimate the rows of a source. For URLs, only the beginnings of a few are downloaded.

    Raises:
        SourceError: an input is missing or unreadable.
        NetworkError: none of the URLs that were tried can be read at present.
    """
    places = locate(config)
    urls = [place for place in places if is_url(place)]
    first: list[SourceMolecule] = []
    with StageProgress("counting rows", None) as progress, tempfile.TemporaryDirectory() as folder:
        counter = _Counter(config, first, progress)
        if urls:
            num_files = len(places)
            looked = counter.look_at_urls(_spaced(urls, URLS_READ), Path(folder))
            size = num_files * sum(one.size for one in looked) // len(looked)
        else:
            paths = _with_rows(config, [Path(place) for place in places])
            num_files, size = len(paths), sum(path.stat().st_size for path in paths)
            looked = counter.look_at(_spaced(paths, FILES_READ))
        if config.kind.counted_as and not urls:  # the rows were counted as those of another kind of source
            first = list(itertools.islice(read_files(config, [Path(place) for place in places]), FIRST_ROWS))
    read = sum(one.read for one in looked)
    exact = len(looked) == num_files and all(one.ended for one in looked)
    rows, how = _total(looked, size), f"estimated from {read:,} rows of {len(looked):,} of {num_files:,} files"
    if any(one.total is None for one in looked):
        how = f"at least: counting stopped after {SECONDS_READ:.0f} s"
    wanted = config.limit or config.sample
    if wanted is not None and wanted <= max(rows, read):
        rows, exact = wanted, exact or wanted <= read
    return RowCount(rows=rows, how="" if exact else how, first=first[: config.limit])


def _total(looked: Sequence[_Looked], size: int) -> int:
    """Return the total number of rows of all files, whose total size in bytes is given."""
    seen = sum(one.read if one.total is None else one.total for one in looked)
    bytes_seen = sum(one.size for one in looked)
    return round(seen * (size / bytes_seen if bytes_seen else 1.0))


def _with_rows(config: SourceConfig, paths: list[Path]) -> list[Path]:
    """Return the files that hold rows, without those that only hold accompanying data."""
    if not config.kind.counted_as:
        return paths
    suffixes = SOURCES[config.kind.counted_as].suffixes
    return [path for path in paths if bare_suffix(path.name) in suffixes] or paths


def _spaced(places: Sequence[T], count: int) -> list[T]:
    """Return at most ``count`` of the places, evenly spaced."""
    count = min(count, len(places))
    return [places[at * len(places) // count] for at in range(count)]


class _Counter:
    def __init__(self, config: SourceConfig, first: list[SourceMolecule], progress: StageProgress) -> None:
        self._config, self._first, self._progress = config, first, progress
        self._deadline = time.monotonic() + SECONDS_READ

    def look_at(self, paths: Sequence[Path]) -> list[_Looked]:
        """Read some rows of each file, or of all together if they cannot be read separately."""
        kind = self._config.kind
        together = kind.read_files is not None and not kind.counted_as
        groups = [list(paths)] if together else [[path] for path in paths]
        looked: list[_Looked] = []
        for group in groups:
            if looked and looked[-1].total is not None and time.monotonic() > self._deadline:
                break
            looked.append(self._look(group, ROWS_READ // len(groups), FIRST_ROWS // len(groups)))
        known = [one for one in looked if one.total is not None]
        return known or looked

    def _look(self, paths: Sequence[Path], most: int, kept: int) -> _Looked:
        count = self._config.kind.count_file
        known = None if count is None else count(paths[0])
        most = most if known is None else kept
        size = sum(path.stat().st_size for path in paths)
        files: list[BinaryIO] = []
        steps: list[tuple[int, int]] = []  # rows read before the file position moved, and the new position
        read, ended = 0, True
        for read, row in enumerate(self._rows(paths, files.append), start=1):
            if read <= kept:
                self._first.append(row)
            if files and (not steps or files[-1].tell() != steps[-1][1]):
                steps.append((read - 1, files[-1].tell()))
            if self._enough(read, most, believed=known is not None or len(steps) >= STEPS):
                ended = False
                break
        self._progress.advance(read % ROWS_A_LOOK)
        if known is not None:
            return _Looked(read=known, total=known, size=size, ended=True)
        return _Looked(read=read, total=read if ended else _guess(size, read, steps), size=size, ended=ended)

    def _enough(self, read: int, most: int, *, believed: bool) -> bool:
        """Return whether enough rows have been read; show progress."""
        if read % ROWS_A_LOOK == 0:
            self._progress.advance(ROWS_A_LOOK)
            self._progress.tick()
            if time.monotonic() > self._deadline:
                return True
        return believed and read >= most

    def _rows(self, paths: Sequence[Path], opened: Callable[[BinaryIO], None]) -> Iterator[SourceMolecule]:
        if self._config.kind.counted_as:
            config = SourceConfig(name=self._config.kind.counted_as, input=tuple(map(str, paths)))
            return read_files(config, paths, opened)
        return read_files(self._config, paths, opened)

    def look_at_urls(self, urls: Sequence[str], folder: Path) -> list[_Looked]:
        """Read the rows at the beginning of each URL."""
        looked: list[_Looked] = []
        reasons: list[str] = []
        for url in urls:
            try:
                path, size = self._fetch_head(url, folder)
            except (NetworkError, MissingError) as error:
                if isinstance(error, MissingError) and not self._config.missing_ok:
                    raise
                reasons.append(f"{url}: {error}")
                continue
            one = self._look([path], ROWS_READ // len(urls), FIRST_ROWS // len(urls))
            part = path.stat().st_size
            if part >= size:
                looked.append(one)
            else:  # its last row is cut off, or reports that the rest is missing
                rows = (one.total or one.read) - 1.0
                looked.append(_Looked(read=one.read - 1, total=size * rows / part, size=size, ended=False))
        self._first[:] = [row for row in self._first if not row.ends_early]
        if not looked:
            raise NetworkError(
                f"none of the {len(urls)} URLs that were tried can be read at present ({'; '.join(reasons)})"
            )
        return looked

    def _fetch_head(self, url: str, folder: Path) -> tuple[Path, int]:
        """Download the beginning of a URL; return the file and the size of the whole."""
        transport = transport_for(url, 1, STALL_S)
        try:
            body = transport.open(url, 0, None)
            with contextlib.closing(body):
                data = bytearray()
                while len(data) < REMOTE_BYTES and (block := body.read()):
                    data += block
        finally:
            transport.close()
        path = local_path(url, folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path, len(data) if body.version.size is None else body.version.size


def _guess(size: int, read: int, steps: Sequence[tuple[int, int]]) -> float | None:
    """Return the rows of a file of ``size`` bytes, from how many lay between positions in it; None if unknown."""
    if len(steps) < STEPS:
        return None
    (rows_before, start), (rows_after, end) = steps[FIRST_STEPS], steps[-1]
    return max(float(read), size * (rows_after - rows_before) / (end - start))
