"""Collects rows computed by several ranks: each computes a share of every chunk, and the first rank restores the order.

Each rank writes its rows to its own part file, in a folder that all of them see, since results may exceed memory. The
first rank reads the parts when all are complete.
"""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from unimol_scale.engine.parallel.ranks import Ranks

_FOLDER_SUFFIX = ".parts"


def parts_folder(output: Path) -> Path:
    """Return the folder of the parts of an output file, beside it."""
    return output.with_name(f".{output.name}{_FOLDER_SUFFIX}")


@contextmanager
def open_parts(output: Path, ranks: Ranks) -> Iterator[Path]:
    """Yield the folder of the parts, which is removed when all ranks are done.

    Raises:
        OSError: the folder cannot be made.
    """
    folder = parts_folder(output)
    folder.mkdir(exist_ok=True)
    yield folder
    ranks.barrier()
    if ranks.is_main:
        shutil.rmtree(folder, ignore_errors=True)


def share_of(rows: int, ranks: Ranks) -> slice:
    """Return the rows of a chunk that a rank computes; the shares of ranks differ by at most one row."""
    return slice(rows * ranks.rank // ranks.world_size, rows * (ranks.rank + 1) // ranks.world_size)


def put_together(
    chunks: Iterable[Iterable[pa.Table]], schema: pa.Schema, folder: Path, ranks: Ranks
) -> Iterator[pa.Table]:
    """Yield the rows of all ranks in order on the first rank, and nothing on the others. Every rank must exhaust it.

    Args:
        chunks: tables of this rank's share of each chunk; all ranks have the same number of chunks.
        schema: schema of the tables.
        folder: folder of the parts.
        ranks: all ranks, including this process.
    """
    counts = []
    with pa.OSFile(str(_part(folder, ranks.rank)), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for tables in chunks:
            rows = 0
            for table in tables:
                writer.write_table(table)
                rows += len(table)
            counts.append(rows)
    every = ranks.gather(counts)
    if not ranks.is_main:
        return
    parts = [_batches(_part(folder, rank)) for rank in range(ranks.world_size)]
    for of_chunk in zip(*every, strict=True):
        for part, rows in zip(parts, of_chunk, strict=True):
            left = rows
            while left:
                batch = next(part)
                left -= len(batch)
                yield pa.Table.from_batches([batch], schema=schema)


def _part(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.arrow"


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the written batches; no batch has rows of two chunks."""
    with pa.OSFile(str(path), "rb") as file, pa.ipc.open_stream(file) as reader:
        for batch in reader:
            if len(batch):
                yield batch
