"""The stages of a build in their order: curate every row, select, embed; whatever is not done yet. Imports no Ray.

What runs the jobs is brought by an ``Executor``: Ray, or child processes of this one. A piece of work is done when its
file has its name, so a build that was killed goes on with what is missing, and the result does not depend on what ran
it, on workers or on their order. Rows, names of pieces and the selection are read as streams, so that memory does not
grow with them.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from conformer_gen.chemistry.curate import CurateConfig
from conformer_gen.chemistry.watch import Starting
from conformer_gen.config import BuildConfig
from conformer_gen.report.progress_samples import SAMPLES_NAME, SampledProgress, SampleLog
from conformer_gen.run import assemble, worker
from conformer_gen.run.jobs import Job, curate_jobs, embed_jobs
from conformer_gen.run.worker import EmbedJob
from conformer_gen.selection.exclusions import Exclusions
from conformer_gen.selection.pieces import CURATED, EMBEDDED
from conformer_gen.selection.selection import Selection, read_selection
from conformer_gen.sources.molecule import SourceMolecule
from unimol_scale.common.progress import StageProgress


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageWork:
    """What is to be done with each job of a stage.

    Attributes:
        name: of the stage.
        task: does a job in the work directory and returns how many molecules it had; runs in another process.
        bury: commits a job whose single molecule killed its process, with the reason.
        capped: whether the memory of a task has a limit.
    """

    name: str
    task: Callable[[Path, Job, Starting], int]
    bury: Callable[[Job, str], None]
    capped: bool = True


class Executor(Protocol):
    """What runs the jobs of a build."""

    def run_stage(self, stage: StageWork, jobs: Iterator[Job], work: Path, progress: StageProgress) -> None:
        """Run all jobs of a stage; a molecule that kills its process, or hangs in it, is buried."""

    def select(self, work: Path) -> Selection:
        """Choose among all curated rows, or return what an earlier run chose."""

    @property
    def run_all(self) -> assemble.Runner:
        """What runs the jobs of assembly."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the stages ended with: the selection, and how many molecules this run embedded."""

    selection: Selection
    num_embedded: int


def run_stages(
    config: BuildConfig,
    work: Path,
    job: EmbedJob,
    rows: Iterable[SourceMolecule],
    exclusions: Exclusions,
    executor: Executor,
) -> Outcome:
    """Curate, select and embed whatever is not done yet.

    Args:
        config: of the build.
        work: its work directory, absolute; every process that runs a job sees it.
        job: how to embed.
        rows: of the source; not read where the selection is done already.
        exclusions: what must not enter.
        executor: runs the jobs.

    Raises:
        SourceError: no row is a usable molecule.
        StoreError: the cluster does not hold together.
        OSError: files cannot be written.
    """
    with SampleLog(work / SAMPLES_NAME) as log:
        if read_selection(work) is None:  # else every row was curated, and the source need not be read again
            with SampledProgress("curating", None, log) as progress:
                jobs = curate_jobs(config, work, rows, progress.skip)
                executor.run_stage(_curation(config, work, exclusions), jobs, work, progress)
        selection = executor.select(work)
        assemble.require_molecules(selection, work.parent, executor.run_all)
        with SampledProgress("embedding", selection.num_kept, log) as progress:
            jobs = embed_jobs(config, work, selection, progress.skip)
            executor.run_stage(_embedding(config, work, job), jobs, work, progress)
        return Outcome(selection=selection, num_embedded=progress.advanced)


def _curation(config: BuildConfig, work: Path, exclusions: Exclusions) -> StageWork:
    def bury(job: Job, why: str) -> None:
        worker.bury_rows(work, job.piece, job.positions, job.rows, why)

    return StageWork(name=CURATED, task=functools.partial(_curate, config.curate, exclusions), bury=bury)


def _curate(config: CurateConfig, exclusions: Exclusions, work: Path, job: Job, starting: Starting) -> int:
    return worker.curate_piece(work, job.piece, job.positions, job.rows, config, exclusions, starting)


def _embedding(config: BuildConfig, work: Path, embed_job: EmbedJob) -> StageWork:
    def bury(job: Job, why: str) -> None:
        worker.bury_molecules(work, job.piece, job.positions, embed_job, why)

    # The driver of a GPU maps far more than it uses.
    capped = config.embed.engine != "nvmolkit"
    return StageWork(name=EMBEDDED, task=functools.partial(_embed, embed_job), bury=bury, capped=capped)


def _embed(embed_job: EmbedJob, work: Path, job: Job, starting: Starting) -> int:
    return worker.embed_piece(work, job.piece, job.positions, job.valid, embed_job, starting)
