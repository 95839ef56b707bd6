"""Between curation and embedding: which rows are distinct molecules, and which of them are for validation.

Looks at 64-bit hashes only, read from the curated files. Imports Arrow and NumPy.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from conformer_gen.config import BuildConfig
from conformer_gen.curate import UInt64, choose_valid, first_occurrences
from conformer_gen.worker import CURATED, CURATED_SCHEMA, done_pieces

EMPTY = CURATED_SCHEMA.empty_table().select(["position", "key", "scaffold"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """What the curated rows amount to.

    Attributes:
        num_read: rows of the source.
        num_rejected: rows that are no molecule.
        num_kept: distinct molecules.
        kept: for each chunk in order, the positions of its distinct molecules.
        valid_groups: sorted hashes of what makes up validation: scaffolds, or molecules if the split is random.
    """

    num_read: int
    num_rejected: int
    num_kept: int
    kept: list[tuple[int, tuple[int, ...]]]
    valid_groups: UInt64


def select(work: Path, config: BuildConfig) -> Selection:
    """Read the hashes of all curated rows and choose."""
    pieces = done_pieces(work, CURATED)
    tables = [pq.read_table(piece.path(work, CURATED), columns=EMPTY.column_names) for piece in pieces]
    chunks = np.repeat(
        np.array([piece.chunk for piece in pieces], np.int64), np.array([table.num_rows for table in tables], np.int64)
    )
    table = pa.concat_tables([EMPTY, *tables])
    good = table["key"].is_valid().to_numpy()
    usable = table.filter(pa.array(good))
    keep = first_occurrences(usable["key"].to_numpy())
    groups = usable["scaffold" if config.curate.split == "scaffold" else "key"].to_numpy()[keep]
    positions, chunks = usable["position"].to_numpy()[keep], chunks[good][keep]
    names, starts = np.unique(chunks, return_index=True)
    parts = np.split(positions, starts[1:]) if len(names) else []
    return Selection(
        num_read=table.num_rows,
        num_rejected=int(np.count_nonzero(~good)),
        num_kept=len(positions),
        kept=[(int(name), tuple(part.tolist())) for name, part in zip(names, parts, strict=True)],
        valid_groups=choose_valid(groups, config.curate.valid_fraction, config.seed),
    )
