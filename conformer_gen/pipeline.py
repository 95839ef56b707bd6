"""A build on Ray: curate every row, select, embed every molecule, whatever is not done yet. Imports Ray.

The driver plans and watches; tasks write files and return counts. A piece of work is done when its file has its name,
so a build that was killed goes on with what is missing, and the result does not depend on workers or on their order.
The driver reads rows, names of pieces and the selection as streams, so its memory does not grow with them.
"""

import contextlib
import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.exceptions

import unimol_scale
from conformer_gen import assemble, worker
from conformer_gen.config import BuildConfig
from conformer_gen.exclusions import read_exclusions
from conformer_gen.pieces import CURATED, EMBEDDED, Piece, beside, done_pieces
from conformer_gen.progress import SAMPLES_NAME, SampleLog, StageProgress
from conformer_gen.ray_selection import select
from conformer_gen.selection import Selection, read_selection
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.reader import read_source
from conformer_gen.stage import Job, Stage, run_all, run_light_watched, run_watched
from conformer_gen.watch import Starting
from conformer_gen.worker import EmbedJob
from unimol_scale.errors import StoreError

OBJECT_STORE_BYTES = 100 * 2**20  # arguments of the tasks in flight; results go to files
DOWNLOADS = "downloads"  # in the work directory
RAY_FILES = "for its own files, which lie in RAY_TMPDIR or else in /tmp/ray"
IN_FLIGHT_PER_CPU = 3  # enough that no worker waits for the driver


@contextlib.contextmanager
def on_ray(config: BuildConfig) -> Iterator[None]:
    """Start a quiet local Ray, or join the cluster of the configuration, while the block runs.

    The nodes of a cluster get this very code; what it imports, RDKit first of all, they must have.

    Raises:
        StoreError: Ray does not start, the cluster can not be reached, or Ray has no room for its own files.
    """
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "RAY_enable_metrics_collection"):
        os.environ.setdefault(name, "0")
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = config.ray_address
    try:
        if address:
            packages = [str(Path(worker.__file__).parent), str(Path(unimol_scale.__file__).parent)]
            ray.init(address=address, runtime_env={"py_modules": packages}, **common)
        else:
            ray.init(
                address="local",
                num_cpus=config.num_workers,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **common,
            )
    except Exception as error:  # Ray raises the bare class when a node is too slow to start
        where = f" at {address}" if address else ""
        raise StoreError(f"Ray does not start{where}: {error}") from error
    try:
        yield
    except ray.exceptions.OutOfDiskError as error:
        raise StoreError(
            f"Ray has no room {RAY_FILES}: make room and run the same command again, it resumes"
        ) from error
    finally:
        ray.shutdown()


def _max_in_flight() -> int:
    return IN_FLIGHT_PER_CPU * int(ray.cluster_resources().get("CPU", 1))


def runner(config: BuildConfig) -> assemble.Runner:
    """Return what runs the jobs of assembly on Ray."""
    return functools.partial(run_all, max_in_flight=_max_in_flight(), memory=config.task_bytes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the stages ended with: the selection, and how many molecules this run embedded."""

    selection: Selection
    num_embedded: int


def run_stages(config: BuildConfig, work: Path, job: EmbedJob) -> Outcome:
    """Curate, select and embed whatever is not done yet, on the Ray of ``on_ray``.

    Args:
        config: of the build.
        work: its work directory, absolute; on a cluster all nodes see it.
        job: how to embed.

    Raises:
        SourceError: no row is a usable molecule.
        StoreError: the cluster does not hold together.
        OSError: files can not be written.
    """
    in_flight = _max_in_flight()
    with SampleLog(work / SAMPLES_NAME) as log:
        if read_selection(work) is None:  # else every row was curated, and the source need not be read again
            with StageProgress("curating", None, log) as progress:
                _curate_stage(config, work).run(_curate_jobs(config, work, progress.skip), in_flight, progress)
        selection = select(work, config)
        assemble.require_molecules(selection, work.parent, runner(config))
        with StageProgress("embedding", selection.num_kept, log) as progress:
            jobs = _embed_jobs(config, work, selection, progress.skip)
            _embed_stage(config, work, job).run(jobs, in_flight, progress)
        return Outcome(selection=selection, num_embedded=progress.advanced)


def _curate_stage(config: BuildConfig, work: Path) -> Stage:
    curate, exclusions = config.curate, read_exclusions(config.curate)

    def task(work: Path, job: Job, starting: Starting) -> int:
        return worker.curate_piece(work, job.piece, job.positions, job.rows, curate, exclusions, starting)

    def bury(job: Job, why: str) -> None:
        worker.bury_rows(work, job.piece, job.positions, job.rows, why)

    return _stage(CURATED, config, work, task, bury)


def _embed_stage(config: BuildConfig, work: Path, embed_job: EmbedJob) -> Stage:
    def task(work: Path, job: Job, starting: Starting) -> int:
        return worker.embed_piece(work, job.piece, job.positions, job.valid, embed_job, starting)

    def bury(job: Job, why: str) -> None:
        worker.bury_molecules(work, job.piece, job.positions, embed_job, why)

    # The driver of a GPU maps far more than it uses.
    return _stage(EMBEDDED, config, work, task, bury, capped=config.embed.engine != "nvmolkit")


def _stage(
    name: str,
    config: BuildConfig,
    work: Path,
    task: Callable[[Path, Job, Starting], int],
    bury: Callable[[Job, str], None],
    capped: bool = True,
) -> Stage:
    cap = config.task_bytes if capped else None
    remote = (run_light_watched if name == CURATED else run_watched).options(memory=config.task_bytes)
    shared = ray.put(task)  # once, not with every job

    def submit(job: Job) -> ray.ObjectRef:
        return remote.remote(shared, name, work, job, config.limit_s, cap)

    return Stage(name, work, config.limit_s, submit, bury)


def _curate_jobs(config: BuildConfig, work: Path, skip: Callable[[int], None]) -> Iterator[Job]:
    """Read the source; yield jobs for the rows that no finished piece covers, and ``skip`` those that one does."""

    def chunks() -> Iterator[tuple[int, list[SourceMolecule]]]:
        rows: list[SourceMolecule] = []
        chunk = 0
        for row in read_source(config.source, work / DOWNLOADS):
            rows.append(row)
            if len(rows) == config.task_size:
                yield chunk, rows
                rows, chunk = [], chunk + 1
        if rows:
            yield chunk, rows

    for chunk, rows, done in beside(chunks(), done_pieces(work, CURATED)):
        left = 0
        for job in missing_jobs(chunk, range(len(rows)), len(rows), done):
            left += len(job.positions)
            yield dataclasses.replace(job, rows=tuple(rows[position] for position in job.positions))
        skip(len(rows) - left)


def _embed_jobs(config: BuildConfig, work: Path, selection: Selection, skip: Callable[[int], None]) -> Iterator[Job]:
    """Yield jobs for the selected molecules that no finished piece covers, and ``skip`` those that one does."""
    selected = ((chosen.chunk, chosen) for chosen in selection.chunks(work))
    for chunk, chosen, done in beside(selected, done_pieces(work, EMBEDDED)):
        valid = frozenset(chosen.positions[chosen.valid].tolist())
        left = 0
        for job in missing_jobs(chunk, chosen.positions.tolist(), config.task_size, done):
            left += len(job.positions)
            yield dataclasses.replace(job, valid=valid.intersection(job.positions))
        skip(len(chosen.positions) - left)


def missing_jobs(chunk: int, positions: Sequence[int], size: int, done: Iterable[Piece]) -> Iterator[Job]:
    """Yield jobs for the positions of a chunk that no finished piece covers; gaps stay separate.

    Args:
        chunk: its number.
        positions: ascending.
        size: of the chunk; every position is below.
        done: finished pieces of the chunk, in order and disjoint.
    """
    start = 0
    for piece in [*done, Piece(chunk, size, size)]:
        inside = tuple(position for position in positions if start <= position < piece.first)
        if inside:
            yield Job(piece=Piece(chunk, start, piece.first), positions=inside)
        start = piece.last
