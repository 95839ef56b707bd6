"""One build of generated rows, timed pass by pass: curation and conformers are replaced, the rest is the builder.

Jobs are cut, sent, watched and resumed by the builder's own code; what a task then does is ``generated_rows``, whose
files have the names and columns that chemistry would have written.
"""

import dataclasses
import functools
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.build.billion.generated_rows import ZINC20, curated_table, records, source_rows
from benchmarks.build.billion.memory_watch import MemoryWatch
from conformer_gen.chemistry.config import CurateConfig
from conformer_gen.config import BuildConfig
from conformer_gen.report.build_report import write_report
from conformer_gen.run import assemble, workspace
from conformer_gen.run.jobs import Job, StageWork, conformer_jobs, curate_jobs
from conformer_gen.run.ray_executor import on_ray
from conformer_gen.run.ray_tasks import run_all
from conformer_gen.run.watchdog import Starting
from conformer_gen.selection.jobs_selection import JOB_MEMORY_BYTES, SpreadJobs
from conformer_gen.selection.pieces import (
    CONFORMERS,
    CONFORMERS_FAILED,
    CURATED,
    FAILURE_SCHEMA,
    FAILURES,
    read_chunk,
)
from conformer_gen.selection.selection_passes import Passes, SliceRunner
from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.units import Unit
from unimol_scale.common.files import commit_file
from unimol_scale.store import arrow_backend
from unimol_scale.store.shards import Store, write_manifest

T = TypeVar("T")
# Calls of a SliceRunner by a selection, in their order: shuffles, and what stands between them.
SHUFFLES = ("first row of each molecule", "molecules by scaffold", "selected rows by chunk")
LOOKS = "counts and cuts"


@dataclasses.dataclass(kw_only=True)
class Pass:
    """What one pass took: time of the clock and of the processors (s), and the largest memory of a process (bytes).

    Memory is what is not a file's; of the tasks it is that of one process.
    """

    name: str
    seconds: float
    driver_s: float
    tasks_s: float
    driver_bytes: int
    task_bytes: int


@dataclasses.dataclass(kw_only=True)
class Folder:
    """What lies on disk under a name: bytes, files, and the most files of one directory."""

    name: str
    bytes: int
    files: int
    most: int


@dataclasses.dataclass(kw_only=True)
class Measured:
    """What one simulated build showed, with the counts of its store; no counts if it ended with the selection."""

    rows: int
    passes: tuple[Pass, ...]
    folders: tuple[Folder, ...]
    counts: dict[str, int]


class Clock:
    """Measures passes, one after another."""

    def __init__(self, watch: MemoryWatch) -> None:
        self._watch, self.passes = watch, list[Pass]()
        self.start()

    def start(self) -> None:
        """Begin to measure."""
        self._began = time.monotonic()
        self._watch.take()

    def done(self, name: str) -> None:
        """Take down what was used since the last call, under a name; equal names in a row are one pass."""
        used, seconds = self._watch.take(), time.monotonic() - self._began
        new = Pass(name=name, seconds=seconds, **dataclasses.asdict(used))
        if self.passes and self.passes[-1].name == name:
            last = self.passes.pop()
            for field in ("seconds", "driver_s", "tasks_s"):
                setattr(new, field, getattr(new, field) + getattr(last, field))
            for field in ("driver_bytes", "task_bytes"):
                setattr(new, field, max(getattr(new, field), getattr(last, field)))
        self.passes.append(new)
        self._began = time.monotonic()


class TimedRunner:
    """A ``SliceRunner`` whose calls are timed by name."""

    def __init__(self, runner: SliceRunner, clock: Clock) -> None:
        self._runner, self._clock, self._names = runner, clock, iter(SHUFFLES)

    def each(self, function: Callable[[T], pa.Table], items: Sequence[T]) -> Iterator[pa.Table]:
        """Yield the function's table of every item."""
        yield from self._runner.each(function, items)
        self._clock.done(f"selection: {LOOKS}")

    def shuffle(
        self, read: Callable[[T], pa.Table], items: Sequence[T], reduce: Callable[[pa.Table], pa.Table], buckets: int
    ) -> Iterator[pa.Table]:
        """Bring rows together by their bucket."""
        yield from self._runner.shuffle(read, items, reduce, buckets)
        self._clock.done(f"selection: {next(self._names)}")


def build_config(rows: int, output: Path, workers: int, task_size: int) -> BuildConfig:
    """Return the settings of ``configs/build/uni-mol2.yaml`` for so many rows of one source."""
    share = 838_000_000 / 884_000_000
    return BuildConfig(
        source=SourceConfig(name="sample", limit=rows),
        curate=CurateConfig(
            split="random",
            valid_count=max(1, rows * 520_000 // 884_000_000),
            target=int(share * rows),
            temperature=0.005,
        ),
        output=output,
        workers=workers,
        task_size=task_size,
    )


@dataclasses.dataclass(frozen=True)
class Curate:
    """Writes the file of a curated piece; stands in for the chemistry of curation."""

    task_size: int

    def __call__(self, work: Path, job: Job, starting: Starting) -> int:
        """Do a job; return how many rows it had."""
        starting(None, len(job.positions))
        table = curated_table(job.piece.chunk * self.task_size, np.array(job.positions, np.int64))
        commit_file(job.piece.path(work, CURATED), lambda path: pq.write_table(table, path))
        return len(job.positions)


@dataclasses.dataclass(frozen=True)
class Generate:
    """Writes the files of a piece with random conformers; stands in for ETKDG and MMFF94."""

    task_size: int

    def __call__(self, work: Path, job: Job, starting: Starting) -> int:
        """Do a job; return how many molecules it had."""
        starting(None, len(job.positions))
        chunk, positions = job.piece.chunk, np.array(job.positions, np.int64)
        curated = read_chunk(work, chunk).take(pa.array(positions))
        failed = ZINC20.fails((positions + chunk * self.task_size).astype(np.uint64))
        valid = np.isin(positions, np.fromiter(job.valid, np.int64, len(job.valid)))
        order = np.concatenate([np.flatnonzero(~failed & ~valid), np.flatnonzero(~failed & valid)])
        counts = (int((~failed & ~valid).sum()), int((~failed & valid).sum()), int(failed.sum()))
        done = dataclasses.replace(job.piece, counts=counts)
        if counts[-1]:
            commit_file(done.path(work, FAILURES), lambda path: pq.write_table(_failures(curated.filter(failed)), path))
        batch = records(curated.take(pa.array(order)), seed=chunk)
        commit_file(done.path(work, CONFORMERS), lambda path: arrow_backend.write(path, batch))
        return len(positions)


def _failures(curated: pa.Table) -> pa.Table:
    same = {"stage": CONFORMERS_FAILED, "reason": "etkdg_failed", "detail": "no coordinates after 16 attempts"}
    columns = {name: curated[name] for name in ("position", "id", "smiles")}
    repeated = {name: pa.array([text] * len(curated), pa.string()) for name, text in same.items()}
    return pa.table({**columns, **repeated}).select(FAILURE_SCHEMA.names).cast(FAILURE_SCHEMA)


def _no_burial(job: Job, why: str) -> None:
    raise AssertionError(f"a task of a simulated build died ({why}): {job.piece}")


def generated_unit(rows: int) -> Unit:
    """Return generated rows as a unit of a source, read in this process."""
    read = functools.partial(source_rows, 0, rows)
    return Unit(number=0, source=0, name="generated rows", read=read, anywhere=False)


def simulate(config: BuildConfig, *, selection_only: bool = False) -> Measured:
    """Build a store of generated rows, ``source.limit`` of them.

    Args:
        config: of the build.
        selection_only: stop before conformers, which need a hundred times the disk.
    """
    assert config.source is not None
    assert config.source.limit is not None
    output, rows = config.directory.absolute(), config.source.limit
    plan, work = workspace.plan_build(config), output / workspace.WORK_NAME
    workspace.claim(output, plan, config.task_size)
    with MemoryWatch() as watch, workspace.locked(output), on_ray(config) as executor:
        clock = Clock(watch)
        with executor.show(CURATED, None, None) as progress:
            chunks = executor.read(iter([generated_unit(rows)]))
            jobs = curate_jobs(work, chunks, progress.skip, num_sources=1, by_unit=True)
            executor.run_stage(
                StageWork(name=CURATED, task=Curate(config.task_size), bury=_no_burial), jobs, work, progress
            )
        clock.done("curation: jobs and files, no chemistry")
        run = functools.partial(run_all, max_in_flight=3 * config.num_workers, memory=JOB_MEMORY_BYTES)
        selection = Passes(work=work, config=config).run(TimedRunner(SpreadJobs(work, run), clock))
        clock.done("selection: names of scaffolds, summary")
        if selection_only:
            folders = [on_disk(work / kind) for kind in (CURATED, "selected")]
            return Measured(rows=rows, passes=tuple(clock.passes), folders=tuple(folders), counts={})
        with executor.show(CONFORMERS, selection.num_kept, None) as progress:
            jobs = conformer_jobs(config, work, selection, progress.skip)
            stage = StageWork(name=CONFORMERS, task=Generate(config.task_size), bury=_no_burial)
            executor.run_stage(stage, jobs, work, progress)
        clock.done("conformers: jobs and files, no chemistry")
        manifest = assemble.assemble(output, config, plan, selection, executor)
        clock.done("assembly")
        store = Store(output, manifest, manifest.to_json())
        write_report(store, output / assemble.FAILURES_NAME, work, executor.run_all)
        clock.done("report")
        folders = [on_disk(work / kind) for kind in (CURATED, CONFORMERS, FAILURES, "selected")]
        folders += [on_disk(output / name) for name in manifest.splits]
        clock.start()
        workspace.sweep(output)
        write_manifest(output, manifest)
        shutil.rmtree(work)
        clock.done("removal of the work directory")
    counts = {name: int(value) for name, value in dataclasses.asdict(manifest.counts).items()}
    return Measured(rows=rows, passes=tuple(clock.passes), folders=tuple(folders), counts=counts)


def on_disk(folder: Path) -> Folder:
    """Return what lies in a folder and in those below it."""
    size = files = most = 0
    for place, _, names in os.walk(folder):
        size += sum((Path(place) / name).stat().st_size for name in names)
        files, most = files + len(names), max(most, len(names))
    return Folder(name=folder.name, bytes=size, files=files, most=most)
