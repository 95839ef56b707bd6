"""Rows of one molecule whose labels contradict each other. Imports Arrow and NumPy.

The first row of a molecule is stored; the others are duplicates. A duplicate conflicts if one of its labels differs
from
that of the first row, or has a value where the first row has none: it is a measurement that the store does not show.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from conformer_gen.selection.pieces import CURATED, chunk_pieces
from conformer_gen.selection.scaffolds import runs
from unimol_scale.store.schema import Int64

EXAMPLES = 5


@dataclasses.dataclass(frozen=True)
class Conflicts:
    """How many duplicates have other labels than the stored row, and the first of them.

    Attributes:
        number: number of such duplicates.
        first: [≤ 5, 4] chunk and position of the duplicate, then of the stored row.
    """

    number: int
    first: Int64

    @staticmethod
    def of(number: int, first: Int64) -> "Conflicts":
        """Return the conflicts with the first few of all places [F, 4] that were found."""
        return Conflicts(number, first[np.lexsort((first[:, 1], first[:, 0]))][:EXAMPLES])

    def examples(self, work: Path, labels: Sequence[str]) -> tuple[str, ...]:
        """Describe the first few in words, with ids and numbers."""
        return tuple(
            _in_words(_row(work, chunk, position), _row(work, kept_chunk, kept), labels)
            for chunk, position, kept_chunk, kept in self.first.tolist()
        )


def find_conflicts(rows: pa.Table, num_labels: int) -> Conflicts:
    """Find the duplicates among all rows of some molecules (chunk, position, key, and labels if there are any)."""
    if not num_labels or not len(rows):
        return Conflicts(0, np.zeros((0, 4), np.int64))
    chunks, positions, keys = (rows[name].to_numpy() for name in ("chunk", "position", "key"))
    order = np.lexsort((positions, chunks, keys))
    _, starts, lengths = runs(keys[order])
    kept = order[np.repeat(starts, lengths)]
    values = rows["labels"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(len(rows), num_labels)
    own, theirs = values[order], values[kept]
    bad = np.flatnonzero((~np.isnan(own) & (own != theirs)).any(axis=1))
    places = np.column_stack([chunks[order], positions[order], chunks[kept], positions[kept]]).astype(np.int64)
    return Conflicts.of(len(bad), places[bad])


def _row(work: Path, chunk: int, position: int) -> dict[str, Any]:
    pieces = chunk_pieces(work, CURATED, chunk)
    piece = next(piece for piece in pieces if piece.first <= position < piece.last)
    table = pq.read_table(piece.path(work, CURATED), columns=["position", "id", "smiles", "labels"])
    row: dict[str, Any] = table.slice(table["position"].to_pylist().index(position), 1).to_pylist()[0]
    return row


def _in_words(duplicate: dict[str, Any], kept: dict[str, Any], labels: Sequence[str]) -> str:
    differing = [
        f"{label} {number:g}, stored {'none' if math.isnan(stored) else format(stored, 'g')}"
        for label, number, stored in zip(labels, duplicate["labels"], kept["labels"], strict=True)
        if not math.isnan(number) and number != stored
    ]
    return f"{duplicate['id']} against {kept['id']}, {kept['smiles']}: {'; '.join(differing)}"
