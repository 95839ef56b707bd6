"""A build from beginning to end: claim the directory, run the stages, assemble, report, commit. The order of things."""

import dataclasses
import errno
import itertools
import shutil
import time

from conformer_gen import assemble, nvmolkit_engine, pipeline, report, workspace
from conformer_gen.config import BuildConfig
from conformer_gen.embed import embed_molecule
from conformer_gen.sources.locations import locate
from conformer_gen.sources.reader import read_source
from conformer_gen.worker import Embedder, EmbedJob
from unimol_scale.errors import StoreError
from unimol_scale.store.manifest import Manifest
from unimol_scale.store.schema import Layout
from unimol_scale.store.shards import Store, open_store, write_manifest

# Of drug-sized molecules (~20 heavy atoms), measured on one core: for the estimate of --dry-run only.
FIRST_CONFORMER_S, NEXT_CONFORMER_S = 0.020, 0.012
BYTES_WITHOUT_COORDINATES, BYTES_OF_CONFORMER = 550, 125


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildResult:
    """What a build ended with.

    Attributes:
        store: the finished store.
        seconds: wall time of this run; None when the store was finished before.
        molecules: embedded in this run; fewer than stored when it resumed.
    """

    store: Store
    seconds: float | None
    molecules: int

    def describe(self) -> str:
        """Return what the command prints at its end."""
        counts = self.store.manifest.counts
        splits = ", ".join(f"{split.rows:,} {name}" for name, split in self.store.manifest.splits.items())
        lines = [
            f"store: {self.store.path}",
            f"{counts.read:,} rows read = {counts.stored:,} stored ({splits}) + {counts.left_out}",
        ]
        if self.seconds is None:
            return "\n".join([*lines, "finished before: nothing to do"])
        rate = self.molecules / self.seconds
        return "\n".join([*lines, f"{self.molecules:,} molecules in {self.seconds:,.1f} s ({rate:,.0f} molecules/s)"])


def build(config: BuildConfig, embedder: Embedder = embed_molecule) -> BuildResult:
    """Build a store, or finish one that an earlier run began.

    Args:
        config: of the build.
        embedder: makes one record; another one than RDKit's may be given.

    Raises:
        ConfigError: the engine asked for can not work here.
        SourceError: an input is missing, or holds no usable molecule.
        ConformerError: no molecule got a conformer.
        StoreError: the output directory is not free, or can not be written.
    """
    try:
        return _build(config, embedder)
    except OSError as error:
        full = error.errno == errno.ENOSPC
        remedy = "the disk is full: make room and run the same command again, it resumes" if full else str(error)
        raise StoreError(f"the build can not write to {config.directory}: {remedy}") from error


def _build(config: BuildConfig, embedder: Embedder) -> BuildResult:
    began = time.monotonic()
    if config.embed.engine == "nvmolkit":
        nvmolkit_engine.require_gpus(config.embed)
    output = config.directory
    plan = workspace.plan_build(config)
    if workspace.claim(output, plan, config.task_size):
        return BuildResult(store=open_store(output), seconds=None, molecules=0)
    work = output / workspace.WORK_NAME
    job = EmbedJob(
        config=config.embed,
        seed=config.seed,
        layout=Layout(plan["coordinate_scale"], tuple(plan["labels"])),
        embedder=embedder,
    )
    with workspace.locked(output):
        with pipeline.on_ray(config):
            outcome = pipeline.run_stages(config, work.absolute(), job)
            manifest = assemble.assemble(output, config, plan, outcome.selection, pipeline.runner(config))
        report.write_report(_unfinished_store(config, manifest), output / assemble.FAILURES_NAME, work)
        write_manifest(output, manifest)
        shutil.rmtree(work)
    return BuildResult(store=open_store(output), seconds=time.monotonic() - began, molecules=outcome.num_embedded)


def _unfinished_store(config: BuildConfig, manifest: Manifest) -> Store:
    return Store(config.directory, manifest, manifest.to_json())


def estimate(config: BuildConfig) -> str:
    """Return what a build would take, from the number of rows alone; touches nothing.

    Raises:
        SourceError: an input is missing or unreadable.
    """
    files = locate(config.source)
    rows = sum(1 for _ in read_source(config.source))
    conformers = config.embed.conformers
    hours = rows * (FIRST_CONFORMER_S + NEXT_CONFORMER_S * (conformers - 1)) / 3600
    size = rows * (BYTES_WITHOUT_COORDINATES + BYTES_OF_CONFORMER * conformers)
    names = ", ".join(file.rsplit("/", 1)[-1] for file in itertools.islice(files, 3)) + (
        ", …" if len(files) > 3 else ""
    )
    return "\n".join(
        [
            f"would read {rows:,} rows from {len(files)} file{'s' if len(files) != 1 else ''} ({names})",
            f"would take about {hours:,.2f} core-hours, {hours / config.num_workers:,.2f} h with "
            f"{config.num_workers} workers (if molecules have about 20 heavy atoms)",
            f"would write about {size / 2**20:,.1f} MiB to {config.directory}, and twice that while building",
        ]
    )
