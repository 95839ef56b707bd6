"""The rows that were selected for the store, on disk and in memory. Imports Arrow and NumPy.

selected/part-NNNNNN.parquet    chunk, position, valid of every selected row, in that order over all parts;
                                no chunk lies in two parts
selected/summary.json           counts and scaffold statistics, written last: with it the selection is done
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

import unimol_scale.config as strict
from unimol_scale.common.files import commit_file
from unimol_scale.common.text.json_files import read_json, write_json

SELECTED = "selected"
SUMMARY_NAME = "summary.json"
PART_SCHEMA = pa.schema({"chunk": pa.int64(), "position": pa.int32(), "valid": pa.bool_()})


class ChunkSelection(NamedTuple):
    """The selected rows of one chunk: ``positions`` int32 [S], ascending, and whether each is for validation, [S]."""

    chunk: int
    positions: npt.NDArray[np.int32]
    valid: npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceSelection:
    """Counts for the rows of one of several sources.

    Attributes:
        first_chunk: number of the source's first chunk.
        num_read: rows.
        num_rejected: rows without a valid molecule.
        num_distinct: molecules that do not occur in an earlier row, of this source or of one before it.
    """

    first_chunk: int
    num_read: int
    num_rejected: int
    num_distinct: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """Counts for all curated rows: read = rejected + duplicates + not sampled + kept.

    Attributes:
        num_read: rows of all sources.
        num_rejected: rows without a valid molecule.
        num_duplicates: rows whose molecule had already been read.
        num_not_sampled: distinct molecules left out by temperature sampling.
        num_kept: selected molecules.
        num_valid: selected molecules for validation.
        num_scaffolds: different scaffolds among the selected; molecules without rings share one.
        num_single_scaffolds: scaffolds with a single molecule.
        scaffold_curve: (rank, molecules) of scaffolds from the largest, rank 1, to the smallest, at ranks about evenly
            spaced in their logarithm.
        num_conflicting: duplicates with a label that the stored row lacks or has with another value.
        conflicts: the first of them, in words.
        num_left_out: conformers of the source that are not a plausible geometry of their molecule.
        top_scaffolds: SMILES of the ten largest scaffolds, and how many selected molecules have each.
        sources: counts by source for a build from several, in their order; empty for one.
    """

    num_read: int
    num_rejected: int
    num_duplicates: int
    num_not_sampled: int
    num_kept: int
    num_valid: int
    num_scaffolds: int
    num_single_scaffolds: int
    num_conflicting: int = 0
    conflicts: tuple[str, ...] = ()
    num_left_out: int = 0
    scaffold_curve: tuple[tuple[int, int], ...] = ()
    top_scaffolds: Mapping[str, int] = dataclasses.field(default_factory=dict)
    sources: tuple[SourceSelection, ...] = ()

    def __post_init__(self) -> None:
        left_out = self.num_rejected + self.num_duplicates + self.num_not_sampled
        assert self.num_read == left_out + self.num_kept, self

    def chunks(self, work: Path) -> Iterator[ChunkSelection]:
        """Yield the selected rows chunk by chunk, in order, with one part in memory at a time."""
        for path in sorted((work / SELECTED).glob("part-*.parquet")):
            table = pq.read_table(path, schema=PART_SCHEMA)
            columns = [table[name].to_numpy() for name in PART_SCHEMA.names]
            starts = np.flatnonzero(np.diff(columns[0], prepend=-1))
            for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(columns[0])], strict=True):
                chunk, positions, valid = (column[start:stop] for column in columns)
                yield ChunkSelection(int(chunk[0]), positions, valid)


def read_selection(work: Path) -> Selection | None:
    """Return the selection of a build, or None if it is not done yet."""
    path = work / SELECTED / SUMMARY_NAME
    if not path.is_file():
        return None
    return strict.build(Selection, read_json(path), strict.Origin(name=str(path), recorded=True))


def commit_part(work: Path, number: int, rows: pa.Table) -> None:
    """Write one part: rows of ``PART_SCHEMA`` in any order."""
    ordered = rows.select(PART_SCHEMA.names).sort_by([("chunk", "ascending"), ("position", "ascending")])
    commit_file(work / SELECTED / f"part-{number:06d}.parquet", lambda path: pq.write_table(ordered, path))


def commit_selection(work: Path, selection: Selection) -> None:
    """Write the summary, which marks the selection as done."""
    write_json(work / SELECTED / SUMMARY_NAME, strict.to_tree(selection))
