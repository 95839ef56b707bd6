"""A build on Ray: curate every row, embed every distinct molecule, survive whatever happens. Imports Ray.

The driver plans and watches; tasks write files and return counts. A piece of work is done when its file has its name,
so a build that was killed goes on with what is missing, and the result does not depend on workers or on their order.
"""

import collections
import dataclasses
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.exceptions

from conformer_gen import worker
from conformer_gen.assemble import require_molecules
from conformer_gen.config import BuildConfig
from conformer_gen.progress import StageProgress
from conformer_gen.selection import Selection, select
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.reader import read_source
from conformer_gen.worker import CURATED, EMBEDDED, EmbedJob, Piece
from unimol_scale.errors import StoreError

CALLS_PER_PROCESS = 20  # then Ray starts a fresh process: RDKit's memory creeps
TASK_MEMORY_BYTES = 500 * 2**20
OBJECT_STORE_BYTES = 100 * 2**20  # arguments of the tasks in flight; results go to files
MEMORY_RETRIES = 10
DEATHS_ALLOWED = 2
POLL_S = 1.0
IN_FLIGHT_PER_CPU = 3  # enough that no worker waits for the driver
# Everything that ends a task without its own doing: the process, its node, or what it was handed is gone.
LOST = (
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.LocalRayletDiedError,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A piece to be done: positions of a chunk and, for curation, their rows."""

    piece: Piece
    positions: tuple[int, ...]
    rows: tuple[SourceMolecule, ...] = ()
    deaths: int = 0
    memory_retries: int = 0

    def cut(self, bounds: Sequence[int]) -> list["Job"]:
        """Return the jobs between consecutive bounds (indices into ``positions``, from 0 to their number)."""
        jobs = []
        for start, stop in itertools.pairwise(bounds):
            if start < stop:
                first = self.piece.first if start == 0 else self.positions[start]
                last = self.piece.last if stop == len(self.positions) else self.positions[stop]
                piece = Piece(self.piece.chunk, first, last)
                jobs.append(Job(piece=piece, positions=self.positions[start:stop], rows=self.rows[start:stop]))
        return jobs


def bisect(job: Job, suspect: int | None) -> list[Job]:
    """Split a job whose worker died: around the suspected position if there is one, else in halves."""
    if suspect in job.positions:
        at = job.positions.index(suspect)
        return job.cut([0, at, at + 1, len(job.positions)])
    return job.cut([0, len(job.positions) // 2, len(job.positions)])


class Stage:
    """Runs the jobs of one stage with a bounded number in flight.

    Args:
        name: of the stage; its hint files lie under it.
        work: work directory of the build.
        limit_s: seconds for one molecule.
        submit: starts the task of a job.
        bury: commits a job whose single molecule killed its worker, with the reason.
    """

    def __init__(
        self,
        name: str,
        work: Path,
        limit_s: float,
        submit: Callable[[Job], ray.ObjectRef],
        bury: Callable[[Job, str], None],
    ) -> None:
        self._name, self._work, self._limit_s = name, work, limit_s
        self._submit, self._bury = submit, bury
        self._again: collections.deque[Job] = collections.deque()

    def run(self, jobs: Iterator[Job], max_in_flight: int, progress: StageProgress) -> None:
        """Run all jobs.

        Raises:
            OSError: a task could not write its files.
        """
        running: dict[ray.ObjectRef, Job] = {}
        while True:
            while len(running) < max_in_flight and (job := self._next(jobs)) is not None:
                running[self._submit(job)] = job
            if not running:
                return
            ready, _ = ray.wait(list(running), num_returns=1, timeout=POLL_S)
            for reference in ready:
                progress.advance(self._settle(reference, running.pop(reference)))
            progress.tick()

    def _next(self, jobs: Iterator[Job]) -> Job | None:
        return self._again.popleft() if self._again else next(jobs, None)

    def _settle(self, reference: ray.ObjectRef, job: Job) -> int:
        """Take the result of a task; return how many molecules it finished for good."""
        try:
            finished: int = ray.get(reference)
            return finished
        except ray.exceptions.OutOfMemoryError:
            if job.memory_retries < MEMORY_RETRIES:  # the machine's fault, not the molecule's, unless it insists
                time.sleep(POLL_S)
                self._again.append(dataclasses.replace(job, memory_retries=job.memory_retries + 1))
                return 0
            return self._died(job)
        except LOST:
            return self._died(job)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, OSError):  # of the file system; the driver says what to do about it
                raise error.cause from error
            raise

    def _died(self, job: Job) -> int:
        hint = worker.read_hint(hint_path(self._work, self._name, job.piece))
        if len(job.positions) > 1:
            self._again.extend(bisect(job, hint[0] if hint else None))
            return 0
        if job.deaths + 1 < DEATHS_ALLOWED:
            self._again.append(dataclasses.replace(job, deaths=job.deaths + 1))
            return 0
        too_slow = hint is not None and time.time() - hint[1] >= self._limit_s
        self._bury(job, "too_slow" if too_slow else "worker_died")
        return 1


def hint_path(work: Path, stage: str, piece: Piece) -> Path:
    """Return the hint file of a piece."""
    return work / "hints" / f"{stage}-{piece.stem}"


@ray.remote(num_cpus=1, max_calls=CALLS_PER_PROCESS, max_retries=0, memory=TASK_MEMORY_BYTES)  # type: ignore[untyped-decorator]
def _run_watched(function: Callable[..., int], stage: str, work: Path, job: Job, limit_s: float) -> int:
    with worker.Watch(hint_path(work, stage, job.piece), limit_s) as watch:
        return function(work, job, watch.starting)


def start_ray(workers: int, address: str | None) -> None:
    """Start a quiet local Ray, or join the cluster at ``address``.

    Raises:
        StoreError: the cluster can not be reached.
    """
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "RAY_enable_metrics_collection"):
        os.environ.setdefault(name, "0")
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            ray.init(address=address, **common)
        else:
            ray.init(
                address="local",
                num_cpus=workers,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **common,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise StoreError(f"Ray does not start{f' at {address}' if address else ''}: {error}") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the stages ended with: the selection, and how many molecules this run embedded."""

    selection: Selection
    num_embedded: int


def run_stages(config: BuildConfig, work: Path, job: EmbedJob) -> Outcome:
    """Curate and embed, on Ray, whatever is not done yet.

    Args:
        config: of the build.
        work: its work directory, absolute; on a cluster all nodes see it.
        job: how to embed.

    Raises:
        SourceError: no row is a usable molecule.
        StoreError: Ray does not start.
        OSError: files can not be written.
    """
    start_ray(config.num_workers, config.ray_address)
    try:
        in_flight = IN_FLIGHT_PER_CPU * int(ray.cluster_resources().get("CPU", 1))
        done = worker.done_pieces(work, CURATED)
        with StageProgress("curating", None, done=sum(piece.last - piece.first for piece in done)) as progress:
            _curate_stage(config, work).run(_curate_jobs(config, done), in_flight, progress)
        selection = select(work, config)
        require_molecules(selection, work.parent)
        jobs = list(_embed_jobs(selection, config.task_size, worker.done_pieces(work, EMBEDDED)))
        left = sum(len(job.positions) for job in jobs)
        with StageProgress("embedding", selection.num_kept, done=selection.num_kept - left) as progress:
            _embed_stage(config, work, job).run(iter(jobs), in_flight, progress)
        return Outcome(selection=selection, num_embedded=left)
    finally:
        ray.shutdown()


def _curate_stage(config: BuildConfig, work: Path) -> Stage:
    curate, limit_s = config.curate, config.limit_s

    def task(work: Path, job: Job, starting: worker.Starting) -> int:
        return worker.curate_piece(work, job.piece, job.positions, job.rows, curate, starting)

    def bury(job: Job, why: str) -> None:
        worker.bury_rows(work, job.piece, job.positions, job.rows, why)

    return Stage(CURATED, work, limit_s, lambda job: _run_watched.remote(task, CURATED, work, job, limit_s), bury)


def _embed_stage(config: BuildConfig, work: Path, embed_job: EmbedJob) -> Stage:
    limit_s = config.limit_s

    def task(work: Path, job: Job, starting: worker.Starting) -> int:
        return worker.embed_piece(work, job.piece, job.positions, embed_job, starting)

    def bury(job: Job, why: str) -> None:
        worker.bury_molecules(work, job.piece, job.positions, embed_job, why)

    return Stage(EMBEDDED, work, limit_s, lambda job: _run_watched.remote(task, EMBEDDED, work, job, limit_s), bury)


def _curate_jobs(config: BuildConfig, done: Iterable[Piece]) -> Iterator[Job]:
    covered = _covered(done)
    rows: list[SourceMolecule] = []
    chunk = 0
    for row in read_source(config.source):
        rows.append(row)
        if len(rows) == config.task_size:
            yield from missing_jobs(chunk, tuple(range(len(rows))), tuple(rows), len(rows), covered)
            rows, chunk = [], chunk + 1
    if rows:
        yield from missing_jobs(chunk, tuple(range(len(rows))), tuple(rows), len(rows), covered)


def _embed_jobs(selection: Selection, task_size: int, done: Iterable[Piece]) -> Iterator[Job]:
    covered = _covered(done)
    for chunk, positions in selection.kept:
        yield from missing_jobs(chunk, positions, (), task_size, covered)


def _covered(done: Iterable[Piece]) -> dict[int, list[Piece]]:
    covered: dict[int, list[Piece]] = collections.defaultdict(list)
    for piece in done:
        covered[piece.chunk].append(piece)
    return covered


def missing_jobs(
    chunk: int,
    positions: tuple[int, ...],
    rows: tuple[SourceMolecule, ...],
    size: int,
    covered: dict[int, list[Piece]],
) -> Iterator[Job]:
    """Yield jobs for the positions of a chunk that no finished piece covers; gaps stay separate."""
    start = 0
    pieces = [*sorted(covered.get(chunk, [])), Piece(chunk, size, size)]
    for piece in pieces:
        inside = [at for at, position in enumerate(positions) if start <= position < piece.first]
        if inside:
            yield Job(
                piece=Piece(chunk, start, piece.first),
                positions=tuple(positions[at] for at in inside),
                rows=tuple(rows[at] for at in inside) if rows else (),
            )
        start = piece.last
