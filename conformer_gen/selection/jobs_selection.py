"""Runs the passes over the whole set as jobs that exchange data through files, or as one job for a small set. No Ray.

At a billion rows, a thousand jobs deal their rows into a thousand buckets. As objects in a cluster's memory these would
be a million, each tracked by the driver. Here they are a thousand files, and the job of a bucket reads its part of
each:

    selected/dealt/NNNNNN.arrow    rows of one slice, a record batch for each bucket; removed after each pass
"""

import functools
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from conformer_gen.config import BuildConfig
from conformer_gen.selection.replacements import RunJobs
from conformer_gen.selection.selected_rows import SELECTED, Selection, read_selection
from conformer_gen.selection.selection_passes import BUCKET, BUCKET_ROWS, InProcess, Passes
from unimol_scale.common.files import commit_file

T = TypeVar("T")
DEALT = "dealt"
# Memory of a job: one bucket and what sorting it takes, or the slice being read.
JOB_MEMORY_BYTES = 1024 * 2**20


def select(work: Path, config: BuildConfig, run: RunJobs, bucket_rows: int = BUCKET_ROWS) -> Selection:
    """Choose among all curated rows, or return the choice of an earlier run.

    Args:
        work: work directory of the build; every process that runs a job sees it.
        config: configuration of the build.
        run: runs the jobs, each with ``JOB_MEMORY_BYTES`` of memory.
        bucket_rows: rows that one job holds in memory.

    Raises:
        OSError: files cannot be written.
    """
    selection = read_selection(work)
    if selection is not None:
        return selection
    passes = Passes(work=work, config=config, bucket_rows=bucket_rows)
    if passes.num_buckets(passes.num_rows()) > 1:
        return passes.run(SpreadJobs(work, run))
    return next(run(functools.partial(_select_at_once, passes), [0]))


def _select_at_once(passes: Passes, _: int) -> Selection:
    return passes.run(InProcess())


class SpreadJobs:
    """A ``SliceRunner`` on jobs: some read slices and deal their rows into files, others read one bucket of all files.

    Args:
        work: work directory of the build.
        run: runs the jobs.
    """

    def __init__(self, work: Path, run: RunJobs) -> None:
        self._folder, self._run = work / SELECTED / DEALT, run

    def each(self, function: Callable[[T], pa.Table], items: Sequence[T]) -> Iterator[pa.Table]:
        """Yield the function's table of every item."""
        return self._run(function, items)

    def shuffle(
        self, read: Callable[[T], pa.Table], items: Sequence[T], reduce: Callable[[pa.Table], pa.Table], buckets: int
    ) -> Iterator[pa.Table]:
        """Group the rows by their column "bucket" and yield the result of ``reduce`` for each bucket."""
        folder = self._folder  # so that the runner itself is not pickled

        def deal(job: tuple[int, T]) -> int:
            number, item = job
            return _deal(folder / f"{number:06d}.arrow", read(item), buckets)

        def collect(bucket: int) -> pa.Table | None:
            table = _collect(folder, bucket)
            return reduce(table) if len(table) else None

        shutil.rmtree(folder, ignore_errors=True)
        if sum(self._run(deal, enumerate(items))):
            yield from (table for table in self._run(collect, range(buckets)) if table is not None)
        shutil.rmtree(folder, ignore_errors=True)


def _deal(path: Path, table: pa.Table, buckets: int) -> int:
    """Write rows, one record batch per bucket; return the number of rows."""
    dealt = table[BUCKET].to_numpy()
    order = np.argsort(dealt, kind="stable")
    bounds = np.searchsorted(dealt[order], np.arange(buckets + 1)).tolist()
    whole = pa.record_batch(
        [table[name].combine_chunks().take(pa.array(order)) for name in table.column_names], schema=table.schema
    )

    def write(temporary: Path) -> None:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            for start, stop in itertools.pairwise(bounds):
                writer.write_batch(whole.slice(start, stop - start))

    commit_file(path, write)
    return len(table)


def _collect(folder: Path, bucket: int) -> pa.Table:
    """Read the rows of one bucket from all files, in the order of the files."""
    batches = []
    for path in sorted(folder.glob("[0-9]*.arrow")):
        with pa.memory_map(str(path)) as source:
            batches.append(pa.ipc.open_file(source).get_batch(bucket))
    return pa.Table.from_batches(batches)
