"""A build from start to finish: claim the directory, curate, select, make conformers, assemble, report, commit.

An ``Executor`` runs the jobs: Ray, a child process, or this process. The result does not depend on the executor, on the
number of workers or their order, or on how often the build was killed. Ray is imported only if the build needs it.
"""

import contextlib
import dataclasses
import functools
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from conformer_gen.chemistry import nvmolkit_engine
from conformer_gen.chemistry.config import CurateConfig
from conformer_gen.chemistry.conformers import generate_conformers
from conformer_gen.config import BuildConfig
from conformer_gen.report.build_report import write_report
from conformer_gen.report.progress_samples import SAMPLES_NAME, SampleLog
from conformer_gen.report.stage_rates import CURATING, DRAWING, GENERATING
from conformer_gen.run import assemble, child_executor, worker, workspace
from conformer_gen.run.jobs import Executor, Job, StageWork, conformer_jobs, curate_jobs
from conformer_gen.run.watchdog import Starting
from conformer_gen.run.worker import ConformerGenerator, ConformerJob
from conformer_gen.selection.exclusions import NO_EXCLUSIONS, Exclusions, read_exclusions
from conformer_gen.selection.pieces import CONFORMERS, CURATED
from conformer_gen.selection.selected_rows import Selection, read_selection
from conformer_gen.sources.units import Unit, peek, plan_units
from unimol_scale.common.machine.system_limits import explain
from unimol_scale.common.output_checks import require_folder
from unimol_scale.errors import StoreError
from unimol_scale.store.manifest import MANIFEST_NAME, Manifest
from unimol_scale.store.shards import Store, open_store, write_manifest

DOWNLOADS = "downloads"  # folder in the work directory


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildResult:
    """The outcome of a build.

    Attributes:
        store: the finished store.
        seconds: wall time of this run; None if the store had been finished before.
        molecules: molecules whose conformers this run made; fewer than stored if it resumed a build.
    """

    store: Store
    seconds: float | None
    molecules: int

    def describe(self) -> str:
        """Return the text that the command prints at the end."""
        counts = self.store.manifest.counts
        splits = ", ".join(f"{split.rows:,} {name}" for name, split in self.store.manifest.splits.items())
        lines = [
            f"store: {self.store.path}",
            f"{counts.read:,} rows read = {counts.stored:,} stored ({splits}) + {counts.left_out}",
        ]
        if self.seconds is None:
            return "\n".join([*lines, "this store was already finished: nothing to do"])
        rate = self.molecules / self.seconds
        return "\n".join([*lines, f"{self.molecules:,} molecules in {self.seconds:,.1f} s ({rate:,.0f} molecules/s)"])


def build(
    config: BuildConfig,
    generator: ConformerGenerator = generate_conformers,
    executor: Executor | None = None,
    *,
    with_report: bool = True,
) -> BuildResult:
    """Build a store, or finish one that an earlier run began.

    Args:
        config: configuration of the build.
        generator: makes one record; may be replaced by another than RDKit's.
        executor: runs the jobs; None: Ray, or a child process for a small build.
        with_report: write report.md and its pictures into the store.

    Raises:
        ConfigError: the requested engine does not work on this machine.
        SourceError: an input is missing, or holds no usable molecule.
        ConformerError: no molecule got a conformer.
        StoreError: the output directory holds something else, is in use, or is not writable.
    """
    try:
        return _build(config, generator, executor, with_report)
    except OSError as error:
        raise StoreError(f"the build cannot write to {config.directory}: {explain(error) or error}") from error


def _build(
    config: BuildConfig, generator: ConformerGenerator, executor: Executor | None, with_report: bool
) -> BuildResult:
    began = time.monotonic()
    if config.conformers.engine == "nvmolkit":
        nvmolkit_engine.require_gpus(config.conformers)
    output = config.directory
    require_folder(output)
    plan = workspace.plan_build(config)
    finished = (output / MANIFEST_NAME).is_file()
    exclusions = NO_EXCLUSIONS if finished else read_exclusions(config.curate)  # before anything is written
    if workspace.claim(output, plan, config.task_size):
        return BuildResult(store=open_store(output), seconds=None, molecules=0)
    work = output / workspace.WORK_NAME
    job = ConformerJob(
        config=config.conformers, seed=config.seed, layout=workspace.layout_of(plan), generator=generator
    )
    with workspace.locked(output):
        unit_bytes, text_ranges = workspace.units_of(output)
        num_rows, units = _units(config, work, unit_bytes, text_ranges=text_ranges)
        with contextlib.nullcontext(executor) if executor else _executor(config, num_rows, generator) as running:
            selection, molecules = _run_stages(
                config, work.absolute(), job, units, exclusions, running, by_unit=unit_bytes is not None
            )
            manifest = assemble.assemble(output, config, plan, selection, running)
            if with_report:
                store = _unfinished_store(config, manifest)
                write_report(store, output / assemble.FAILURES_NAME, work, running.run_all)
        workspace.sweep(output)
        write_manifest(output, manifest)
        shutil.rmtree(work)
    return BuildResult(store=open_store(output), seconds=time.monotonic() - began, molecules=molecules)


def _units(config: BuildConfig, work: Path, unit_bytes: int | None, *, text_ranges: bool) -> tuple[int, Iterator[Unit]]:
    """Return the number of rows, or a lower bound where there are many, and the units that have them."""
    if (selection := read_selection(work)) is not None:
        return selection.num_read, iter(())
    units = plan_units(config.each_source, work / DOWNLOADS, config.seed, unit_bytes, text_ranges=text_ranges)
    return peek(units, child_executor.FEW_CONFORMERS + 1)


@contextlib.contextmanager
def _executor(config: BuildConfig, num_rows: int, generator: ConformerGenerator) -> Iterator[Executor]:
    if child_executor.suits(config, num_rows, generator):
        with child_executor.ChildExecutor(config) as executor:
            yield executor
    else:
        from conformer_gen.run import ray_executor

        with ray_executor.on_ray(config) as executor:
            yield executor


def _run_stages(
    config: BuildConfig,
    work: Path,
    job: ConformerJob,
    units: Iterator[Unit],
    exclusions: Exclusions,
    executor: Executor,
    *,
    by_unit: bool,
) -> tuple[Selection, int]:
    """Curate, select and make conformers, skipping what is already done.

    Args:
        config: configuration of the build.
        work: its work directory, as an absolute path that every process running a job can see.
        job: how to make conformers.
        units: of all sources; not read if the selection is already done.
        exclusions: molecules that must not enter.
        executor: runs the jobs.
        by_unit: whether chunks are numbered by their unit.

    Returns:
        The selection, and the number of molecules whose conformers this run made.

    Raises:
        SourceError: no row is a usable molecule.
        StoreError: the cluster keeps losing tasks.
        OSError: files cannot be written.
    """
    with SampleLog(work / SAMPLES_NAME) as log:
        # Otherwise every row is curated already, and the source need not be read again.
        if read_selection(work) is None:
            with executor.show(CURATING, None, log) as progress:
                chunks = executor.read(units)
                jobs = curate_jobs(work, chunks, progress.skip, len(config.each_source), by_unit=by_unit)
                executor.run_stage(_curation(config, work, exclusions), jobs, work, progress)
        selection = executor.select(work)
        assemble.require_molecules(config, selection, work.parent, executor.run_all)
        making = DRAWING if config.conformers.engine == "depiction" else GENERATING
        with executor.show(making, selection.num_kept, log) as progress:
            jobs = conformer_jobs(config, work, selection, progress.skip)
            executor.run_stage(_generation(config, work, job), jobs, work, progress)
        return selection, progress.advanced


def _curation(config: BuildConfig, work: Path, exclusions: Exclusions) -> StageWork:
    def bury(job: Job, why: str) -> None:
        worker.bury_rows(work, job.piece, job.positions, job.rows, why)

    return StageWork(name=CURATED, task=functools.partial(_curate, config.curate, exclusions), bury=bury)


def _curate(config: CurateConfig, exclusions: Exclusions, work: Path, job: Job, starting: Starting) -> int:
    return worker.curate_piece(work, job.piece, job.positions, job.rows, config, exclusions, starting)


def _generation(config: BuildConfig, work: Path, conformer_job: ConformerJob) -> StageWork:
    def bury(job: Job, why: str) -> None:
        worker.bury_molecules(work, job.piece, job.positions, conformer_job, why)

    # A GPU driver maps far more memory than it uses.
    capped = config.conformers.engine != "nvmolkit"
    return StageWork(name=CONFORMERS, task=functools.partial(_generate, conformer_job), bury=bury, capped=capped)


def _generate(conformer_job: ConformerJob, work: Path, job: Job, starting: Starting) -> int:
    return worker.generate_piece(work, job.piece, job.positions, job.valid, conformer_job, starting)


def _unfinished_store(config: BuildConfig, manifest: Manifest) -> Store:
    return Store(config.directory.absolute(), manifest, manifest.to_json())
