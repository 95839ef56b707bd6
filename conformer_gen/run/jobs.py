"""The rows of a build in chunks, the jobs on them that remain, and the interface of what runs them. Imports no Ray.

A piece is done once its file has its final name, so a killed build continues with the missing pieces. Chunks, piece
names and the selection come as streams, so memory does not grow with them.
"""

import dataclasses
import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from conformer_gen.config import BuildConfig
from conformer_gen.report.progress_samples import SampleLog
from conformer_gen.run.watchdog import Starting
from conformer_gen.selection.pieces import (
    CHUNKS_PER_GROUP,
    CHUNKS_PER_UNIT,
    CONFORMERS,
    CURATED,
    Piece,
    PiecesInOrder,
    beside,
    done_pieces,
    groups,
    pieces_of,
)
from conformer_gen.selection.selected_rows import Selection
from conformer_gen.selection.source_chunks import commit_first_chunks
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.units import Unit
from unimol_scale.common.progress import StageProgress

J = TypeVar("J")
R = TypeVar("R")
Rows = Callable[[], Sequence[SourceMolecule]]  # returns the rows of a chunk in any process of the build


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chunk:
    """Some rows of a unit, one after another.

    Attributes:
        unit: that they belong to.
        place: number of the chunk in its unit.
        size: number of rows.
        rows: returns them.
    """

    unit: Unit
    place: int
    size: int
    rows: Rows


@dataclasses.dataclass(frozen=True)
class HeldRows:
    """Rows in memory."""

    held: tuple[SourceMolecule, ...]

    def __call__(self) -> tuple[SourceMolecule, ...]:
        """Return them."""
        return self.held


def read_here(units: Iterable[Unit], size: int) -> Iterator[Chunk]:
    """Yield the chunks of all units, in order, read in this process."""
    for unit in units:
        rows = unit.read()
        for place in itertools.count():
            held = tuple(itertools.islice(rows, size))
            if not held:
                break
            yield Chunk(unit=unit, place=place, size=len(held), rows=HeldRows(held))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A piece to be done.

    Attributes:
        piece: which piece.
        positions: positions in the chunk, ascending.
        chunk_rows: returns the rows of the whole chunk, for curation.
        valid: the positions that are for validation, for making conformers.
        deaths: names of the nodes on which the worker of its single molecule died.
        retries: how often it was repeated after failures that were not its fault.
    """

    piece: Piece
    positions: tuple[int, ...]
    chunk_rows: Rows = tuple
    valid: frozenset[int] = frozenset()
    deaths: tuple[str, ...] = ()
    retries: int = 0

    @property
    def rows(self) -> tuple[SourceMolecule, ...]:
        """Rows of the source at these positions."""
        rows = self.chunk_rows()
        return tuple(rows[position] for position in self.positions)

    def cut(self, bounds: Sequence[int]) -> list["Job"]:
        """Return the jobs between consecutive bounds (indices into ``positions``, from 0 to their number)."""
        jobs = []
        for start, stop in itertools.pairwise(bounds):
            if start < stop:
                first = self.piece.first if start == 0 else self.positions[start]
                last = self.piece.last if stop == len(self.positions) else self.positions[stop]
                positions = self.positions[start:stop]
                jobs.append(
                    Job(
                        piece=Piece(self.piece.chunk, first, last),
                        positions=positions,
                        chunk_rows=self.chunk_rows,
                        valid=self.valid.intersection(positions),
                    )
                )
        return jobs


def bisect(job: Job, suspect: int | None) -> list[Job]:
    """Split a job whose worker died: around the suspected position if there is one, otherwise in half."""
    if suspect in job.positions:
        at = job.positions.index(suspect)
        return job.cut([0, at, at + 1, len(job.positions)])
    return job.cut([0, len(job.positions) // 2, len(job.positions)])


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageWork:
    """What to do with each job of a stage.

    Attributes:
        name: name of the stage.
        task: runs a job in the work directory and returns its number of molecules; may run in another process.
        bury: records a job whose single molecule killed its process as failed, with the reason.
        capped: whether a task's memory is limited.
    """

    name: str
    task: Callable[[Path, Job, Starting], int]
    bury: Callable[[Job, str], None]
    capped: bool = True


class UnorderedMap(Protocol):
    """Runs a function on every job and yields the results in any order, like ``map``."""

    def __call__(self, function: Callable[[J], R], jobs: Iterable[J], /) -> Iterator[R]:
        """Run them."""


class ShowProgress(Protocol):
    """Creates the progress display of a stage from its label, its number of molecules if known, and a sample log."""

    def __call__(self, label: str, total: int | None, log: SampleLog | None, /) -> StageProgress:
        """Make it."""


class Executor(Protocol):
    """Reads the rows of a build and runs its jobs."""

    def read(self, units: Iterator[Unit]) -> Iterator[Chunk]:
        """Yield the chunks of all units; those of one unit in order."""

    def run_stage(self, stage: StageWork, jobs: Iterator[Job], work: Path, progress: StageProgress) -> None:
        """Run all jobs of a stage; a molecule that kills or hangs its process is recorded as failed."""

    def select(self, work: Path) -> Selection:
        """Choose among all curated rows, or return the choice of an earlier run."""

    @property
    def run_all(self) -> UnorderedMap:
        """Runs the jobs of assembly."""

    @property
    def show(self) -> ShowProgress:
        """Creates the progress display of a stage."""


def hint_path(work: Path, stage: str, piece: Piece) -> Path:
    """Return the hint file of a piece."""
    return work / "hints" / f"{stage}-{piece.stem}"


def curate_jobs(
    work: Path, chunks: Iterable[Chunk], skip: Callable[[int], None], num_sources: int, *, by_unit: bool
) -> Iterator[Job]:
    """Yield jobs for the rows that no finished piece covers; report the covered rows to ``skip`` by their number.

    Args:
        work: work directory of the build.
        chunks: of all units; those of one unit in order.
        skip: called with a number of rows.
        num_sources: of the build.
        by_unit: whether chunks are numbered by their unit; if not, one after another, as earlier versions did.
    """
    listed = groups(work, CURATED)
    done: dict[int, PiecesInOrder] = {}
    first: dict[int, int] = {}  # source → number of its first chunk
    following = 0  # number of the first chunk of what comes after all units so far
    for chunk in chunks:
        unit = chunk.unit
        number = unit.number * CHUNKS_PER_UNIT + chunk.place if by_unit else following
        following = max(following, (unit.number + 1) * CHUNKS_PER_UNIT) if by_unit else number + 1
        first[unit.source] = min(number, first.get(unit.source, number))
        if unit.number not in done:
            own = listed[bisect_left(listed, number // CHUNKS_PER_GROUP) :]
            done[unit.number] = PiecesInOrder(pieces_of(work, CURATED, own))
        left = 0
        for job in missing_jobs(number, range(chunk.size), chunk.size, done[unit.number].of(number)):
            left += len(job.positions)
            yield dataclasses.replace(job, chunk_rows=chunk.rows)
        skip(chunk.size - left)
    if num_sources > 1:
        starts = [following] * num_sources
        for source in reversed(range(num_sources)):
            starts[source] = following = first.get(source, following)
        commit_first_chunks(work, starts)


def conformer_jobs(config: BuildConfig, work: Path, selection: Selection, skip: Callable[[int], None]) -> Iterator[Job]:
    """Yield jobs for the selected molecules that no finished piece covers; report the number covered to ``skip``."""
    selected = ((chosen.chunk, chosen) for chosen in selection.chunks(work))
    for chunk, chosen, done in beside(selected, done_pieces(work, CONFORMERS)):
        valid = frozenset(chosen.positions[chosen.valid].tolist())
        left = 0
        for job in missing_jobs(chunk, chosen.positions.tolist(), config.task_size, done):
            left += len(job.positions)
            yield dataclasses.replace(job, valid=valid.intersection(job.positions))
        skip(len(chosen.positions) - left)


def missing_jobs(chunk: int, positions: Sequence[int], size: int, done: Iterable[Piece]) -> Iterator[Job]:
    """Yield jobs for the positions of a chunk that no finished piece covers; separate gaps give separate jobs.

    Args:
        chunk: number of the chunk.
        positions: ascending.
        size: size of the chunk; every position is smaller.
        done: finished pieces of the chunk, in order and disjoint.
    """
    start = 0
    for piece in [*done, Piece(chunk, size, size)]:
        inside = tuple(position for position in positions if start <= position < piece.first)
        if inside:
            yield Job(piece=Piece(chunk, start, piece.first), positions=inside)
        start = piece.last
