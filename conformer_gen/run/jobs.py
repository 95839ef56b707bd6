"""The jobs of a build: which pieces remain, with which rows, and the interface of what runs them. Imports no Ray.

A piece is done once its file has its final name, so a killed build continues with the missing pieces. Rows, piece names
and the selection are read as streams, so memory does not grow with them.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from conformer_gen.config import BuildConfig
from conformer_gen.report.progress_samples import SampleLog
from conformer_gen.run.watchdog import Starting
from conformer_gen.selection.pieces import CONFORMERS, CURATED, Piece, beside, done_pieces
from conformer_gen.selection.selected_rows import Selection
from conformer_gen.selection.source_chunks import commit_first_chunks
from conformer_gen.sources.molecule import SourceMolecule
from unimol_scale.common.progress import StageProgress

J = TypeVar("J")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A piece to be done.

    Attributes:
        piece: which piece.
        positions: positions in the chunk, ascending.
        rows: rows of the source at these positions, for curation.
        valid: the positions that are for validation, for making conformers.
        deaths: names of the nodes on which the worker of its single molecule died.
        retries: how often it was repeated after failures that were not its fault.
    """

    piece: Piece
    positions: tuple[int, ...]
    rows: tuple[SourceMolecule, ...] = ()
    valid: frozenset[int] = frozenset()
    deaths: tuple[str, ...] = ()
    retries: int = 0

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
                        rows=self.rows[start:stop],
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
    """Runs the jobs of a build."""

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
    config: BuildConfig, work: Path, sources: Sequence[Iterable[SourceMolecule]], skip: Callable[[int], None]
) -> Iterator[Job]:
    """Yield jobs for the rows that no finished piece covers; report the covered rows to ``skip`` by their number."""
    first: list[int] = []

    def chunks() -> Iterator[tuple[int, list[SourceMolecule]]]:
        number = 0
        for source in sources:
            first.append(number)
            rows = iter(source)
            while some := list(itertools.islice(rows, config.task_size)):
                yield number, some
                number += 1

    for chunk, some, done in beside(chunks(), done_pieces(work, CURATED)):
        left = 0
        for job in missing_jobs(chunk, range(len(some)), len(some), done):
            left += len(job.positions)
            yield dataclasses.replace(job, rows=tuple(some[position] for position in job.positions))
        skip(len(some) - left)
    if len(sources) > 1:
        commit_first_chunks(work, first)


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
