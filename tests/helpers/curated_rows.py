"""Curated files without chemistry, and a selection from them in plain Python, for tests of what the whole set tells."""

import collections
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from conformer_gen.chemistry.config import CurateConfig
from conformer_gen.config import BuildConfig
from conformer_gen.run.worker import CURATED_SCHEMA
from conformer_gen.selection.pieces import CURATED, Piece
from conformer_gen.selection.selected_rows import Selection
from conformer_gen.sources.config import SourceConfig

TASK_SIZE = 20


class Row(NamedTuple):
    """The hashes of a row; None for one that was rejected."""

    key: int | None
    scaffold: int | None


def config(seed: int = 0, **curate: object) -> BuildConfig:
    return BuildConfig(
        source=SourceConfig(name="sample"), task_size=TASK_SIZE, seed=seed, curate=CurateConfig(**curate)
    )


def random_rows(number: int, seed: int = 0) -> list[Row]:
    """Rows with duplicates, rejected ones, and a long tail of scaffolds; hashes beyond 2^53 and 2^63, some adjacent."""
    random = np.random.default_rng(seed)
    bases = [3, 2**53, 2**63 - 40, 2**64 - 500]
    scaffolds = [bases[i % 4] + i for i in range(max(1, number // 8))]
    rows = []
    for _ in range(number):
        scaffold = scaffolds[int(len(scaffolds) * random.random() ** 3)]
        molecule = int(random.integers(0, 6))
        key = (scaffold * 0x9E3779B97F4A7C15 + molecule) % 2**64 | 2**60
        rows.append(Row(None, None) if random.random() < 0.05 else Row(key, scaffold))
    return rows


def write(work: Path, rows: Sequence[Row], cuts: Sequence[int] = (), first_chunk: int = 0) -> None:
    """Commit the rows as curated pieces: one a chunk, cut once more at each of the positions ``cuts``."""
    for chunk, start in enumerate(range(0, len(rows), TASK_SIZE), start=first_chunk):
        inside = rows[start : start + TASK_SIZE]
        bounds = sorted({0, len(inside), *(cut for cut in cuts if cut < len(inside))})
        for first, last in itertools.pairwise(bounds):
            table = pa.Table.from_pylist(
                [
                    {"position": position, "smiles": "Cc1ccccc1", "key": row.key, "scaffold": row.scaffold}
                    for position, row in list(enumerate(inside))[first:last]
                ],
                CURATED_SCHEMA,
            )
            path = Piece(chunk, first, last).path(work, CURATED)
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, path)


def distinct(rows: Sequence[Row]) -> list[tuple[int, int]]:
    """Return (chunk, position) of the first row with each key, in the order of the rows."""
    first: dict[int, int] = {}
    for number, row in enumerate(rows):
        if row.key is not None:
            first.setdefault(row.key, number)
    return [divmod(number, TASK_SIZE) for number in first.values()]


def selected(selection: Selection, work: Path) -> list[tuple[int, int, bool]]:
    """Return (chunk, position, valid) of every selected row, in the order in which they are read."""
    return [
        (chosen.chunk, position, valid)
        for chosen in selection.chunks(work)
        for position, valid in zip(chosen.positions.tolist(), chosen.valid.tolist(), strict=True)
    ]


def scaffold_sizes(rows: Sequence[Row], places: Sequence[tuple[int, int]]) -> collections.Counter[int]:
    """Return molecules of each scaffold among the rows at the places."""
    return collections.Counter(rows[chunk * TASK_SIZE + position].scaffold for chunk, position in places)
