"""The hashes of all rows, read from curated files for the passes over the whole set. Imports Arrow and NumPy."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from conformer_gen.selection.pieces import CURATED, group_pieces
from conformer_gen.selection.sampling import Int64, UInt64
from conformer_gen.selection.scaffolds import starts_of_runs

HASHES = pa.schema({"chunk": pa.int64(), "position": pa.int32(), "key": pa.uint64(), "scaffold": pa.uint64()})


def read_hashes(work: Path, group: int, *, with_labels: bool) -> pa.Table:
    """Read the hashes of the rows of 1,000 chunks, and their labels on request; hashes of a rejected row are 0."""
    schema = pa.unify_schemas([HASHES, pa.schema({"left_out": pa.int32()})])
    if with_labels:
        schema = schema.append(pa.field("labels", pa.list_(pa.float64())))
    tables = []
    for piece in group_pieces(work, CURATED, group):
        # A column that an earlier version did not write is read as null.
        table = pq.read_table(piece.path(work, CURATED), schema=schema.remove(schema.get_field_index("chunk")))
        tables.append(table.append_column("chunk", pa.array(np.full(len(table), piece.chunk, np.int64))))
    whole = pa.concat_tables([schema.empty_table(), *(table.select(schema.names) for table in tables)])
    rejected = whole["key"].is_null()
    for name in ("key", "scaffold"):
        # Nulls are filled while values are 64-bit integers: turning a null into NaN would turn all hashes into floats.
        whole = whole.set_column(
            whole.column_names.index(name), name, pc.fill_null(whole[name], pa.scalar(0, pa.uint64()))
        )
    return whole.append_column("rejected", rejected)


def first_rows(chunks: Int64, positions: npt.NDArray[np.int32], keys: UInt64) -> Int64:
    """Return the indices of the first row of each key, in the order of (chunk, position)."""
    order = np.lexsort((positions, chunks, keys))
    first: Int64 = order[starts_of_runs(keys[order])]
    return first
