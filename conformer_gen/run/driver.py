"""A build from beginning to end: claim the directory, run the stages, assemble, report, commit. The order of things."""

import contextlib
import dataclasses
import itertools
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from conformer_gen.chemistry import nvmolkit_engine
from conformer_gen.chemistry.conformers import embed_molecule
from conformer_gen.config import BuildConfig
from conformer_gen.report import report
from conformer_gen.run import assemble, local_pipeline, workspace
from conformer_gen.run.stages import Executor, run_stages
from conformer_gen.run.worker import Embedder, EmbedJob
from conformer_gen.selection.exclusions import NO_EXCLUSIONS, read_exclusions
from conformer_gen.selection.selection import read_selection
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.reader import read_source
from unimol_scale.common.machine.system_limits import explain
from unimol_scale.common.output_checks import require_folder
from unimol_scale.errors import StoreError
from unimol_scale.store.manifest import MANIFEST_NAME, Manifest
from unimol_scale.store.shards import Store, open_store, write_manifest

DOWNLOADS = "downloads"  # in the work directory


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
        ConfigError: the engine asked for cannot work here.
        SourceError: an input is missing, or holds no usable molecule.
        ConformerError: no molecule got a conformer.
        StoreError: the output directory is not free, or cannot be written.
    """
    try:
        return _build(config, embedder)
    except OSError as error:
        raise StoreError(f"the build cannot write to {config.directory}: {explain(error) or error}") from error


def _build(config: BuildConfig, embedder: Embedder) -> BuildResult:
    began = time.monotonic()
    if config.embed.engine == "nvmolkit":
        nvmolkit_engine.require_gpus(config.embed)
    output = config.directory
    require_folder(output)
    plan = workspace.plan_build(config)
    finished = (output / MANIFEST_NAME).is_file()
    exclusions = NO_EXCLUSIONS if finished else read_exclusions(config.curate)  # before anything is written
    if workspace.claim(output, plan, config.task_size):
        return BuildResult(store=open_store(output), seconds=None, molecules=0)
    work = output / workspace.WORK_NAME
    job = EmbedJob(
        config=config.embed,
        seed=config.seed,
        layout=workspace.layout_of(plan),
        embedder=embedder,
    )
    with workspace.locked(output):
        num_rows, rows = _rows(config, work)
        with _executor(config, num_rows, embedder) as executor:
            outcome = run_stages(config, work.absolute(), job, rows, exclusions, executor)
            manifest = assemble.assemble(output, config, plan, outcome.selection, executor.run_all)
        report.write_report(_unfinished_store(config, manifest), output / assemble.FAILURES_NAME, work)
        workspace.sweep(output)
        write_manifest(output, manifest)
        shutil.rmtree(work)
    return BuildResult(store=open_store(output), seconds=time.monotonic() - began, molecules=outcome.num_embedded)


def _rows(config: BuildConfig, work: Path) -> tuple[int, Iterable[SourceMolecule]]:
    """Return the rows of the source, and how many there are, or of many at least how many."""
    if (selection := read_selection(work)) is not None:
        return selection.num_read, ()
    rows = read_source(config.source, work / DOWNLOADS, config.seed)
    first = list(itertools.islice(rows, local_pipeline.FEW_CONFORMERS + 1))
    return len(first), itertools.chain(first, rows)


@contextlib.contextmanager
def _executor(config: BuildConfig, num_rows: int, embedder: Embedder) -> Iterator[Executor]:
    if local_pipeline.suits(config, num_rows, embedder):
        with local_pipeline.InChild(config) as executor:
            yield executor
    else:
        from conformer_gen.run import ray_pipeline

        with ray_pipeline.on_ray(config) as executor:
            yield executor


def _unfinished_store(config: BuildConfig, manifest: Manifest) -> Store:
    return Store(config.directory, manifest, manifest.to_json())
