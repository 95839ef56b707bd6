"""Which chunks belong to which source in a build from several; no chunk has rows of two sources. Imports NumPy.

first_chunks.json    number of the first chunk of each source; written once all rows are read
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unimol_scale.common.text.json_files import read_json, write_json
from unimol_scale.store.schema import Int64

FIRST_CHUNKS_NAME = "first_chunks.json"


def commit_first_chunks(work: Path, first: Sequence[int]) -> None:
    """Write the number of each source's first chunk; a source without rows has that of the next source."""
    write_json(work / FIRST_CHUNKS_NAME, {"first_chunks": list(first)})


def read_first_chunks(work: Path, num_sources: int) -> tuple[int, ...]:
    """Return the number of each source's first chunk; a single source has all chunks."""
    if num_sources == 1:
        return (0,)
    first: list[int] = read_json(work / FIRST_CHUNKS_NAME)["first_chunks"]
    assert len(first) == num_sources, (first, num_sources)
    return tuple(first)


def rows_by_source(chunks: Int64, first: Sequence[int]) -> Int64:
    """Count rows by source.

    Args:
        chunks: [R] chunk of each row.
        first: [S] first chunk of each source, ascending.

    Returns:
        [S] rows of each source.
    """
    source = np.searchsorted(np.asarray(first, np.int64), chunks, side="right") - 1
    return np.bincount(source, minlength=len(first)).astype(np.int64)
