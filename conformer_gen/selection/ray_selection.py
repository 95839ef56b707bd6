"""Runs the passes over the whole set: on Ray Data, or in one task where the set is small. Imports Ray."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import ray
import ray.exceptions

from conformer_gen.config import BuildConfig
from conformer_gen.selection.selected_rows import Selection, read_selection
from conformer_gen.selection.selection_passes import BUCKET, BUCKET_ROWS, InProcess, Passes

T = TypeVar("T")
ITEM = "item"
# What a task may hold: a bucket and what sorting it takes, or the slice that is read.
TASK_MEMORY_BYTES = 1024 * 2**20
# Blocks that are dealt into buckets together; Ray Data's own 1 GiB would take a small node's object store.
SHUFFLE_BATCH_BYTES = 64 * 2**20


def select(work: Path, config: BuildConfig, bucket_rows: int = BUCKET_ROWS) -> Selection:
    """Choose among all curated rows, on the Ray that runs, or return what an earlier run chose.

    A set of one bucket is one task: starting Ray Data's operators takes longer than its passes.

    Args:
        work: directory of the build; on a cluster all nodes see it.
        config: of the build.
        bucket_rows: of the set that one task holds in memory.

    Raises:
        OSError: files cannot be written.
    """
    selection = read_selection(work)
    if selection is not None:
        return selection
    passes = Passes(work=work, config=config, bucket_rows=bucket_rows)
    try:
        if passes.num_buckets(passes.num_rows()) > 1:
            return passes.run(RayData())
        done: Selection = ray.get(_run_in_process.remote(passes))
        return done
    except ray.exceptions.RayTaskError as error:
        cause: BaseException | None = error
        while cause is not None:  # Ray Data wraps what a task raised, more than once
            if isinstance(cause, OSError) and not isinstance(cause, ray.exceptions.RayTaskError):
                raise cause from error
            cause = getattr(cause, "cause", None) or cause.__cause__
        raise


@ray.remote(num_cpus=1, memory=TASK_MEMORY_BYTES)  # type: ignore[untyped-decorator]
def _run_in_process(passes: Passes) -> Selection:
    return passes.run(InProcess())


class RayData:
    """A ``SliceRunner`` on Ray Data: items are read by tasks, and meet in others after a hash shuffle."""

    def __init__(self) -> None:
        import ray.data  # a second, and only large sets need it

        self._data = ray.data
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.shuffle_strategy = ray.data.context.ShuffleStrategy.SHUFFLE_V2  # of tasks only: no actors to place
        context.shuffle_input_batch_bytes = SHUFFLE_BATCH_BYTES
        logging.getLogger("ray.data").setLevel(logging.ERROR)

    def each(self, function: Callable[[T], pa.Table], items: Sequence[T]) -> Iterator[pa.Table]:
        """Yield the function's table of every item."""
        if items:
            yield from _tables(self._read(function, items))

    def shuffle(
        self, read: Callable[[T], pa.Table], items: Sequence[T], reduce: Callable[[pa.Table], pa.Table], buckets: int
    ) -> Iterator[pa.Table]:
        """Bring the rows that were read together by their column "bucket"; yield the result of each bucket."""
        if not items:
            return
        grouped = self._read(read, items).groupby(BUCKET, num_partitions=buckets)
        yield from _tables(grouped.map_groups(reduce, batch_format="pyarrow", memory=TASK_MEMORY_BYTES))

    def _read(self, function: Callable[[T], pa.Table], items: Sequence[T]) -> Any:  # noqa: ANN401
        def read(batch: pa.Table) -> pa.Table:
            return function(batch[ITEM][0].as_py())

        rows = self._data.from_items([{ITEM: item} for item in items], override_num_blocks=max(1, len(items)))
        return rows.map_batches(read, batch_size=1, batch_format="pyarrow", memory=TASK_MEMORY_BYTES)


def _tables(dataset: Any) -> Iterator[pa.Table]:  # noqa: ANN401
    yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")
