"""Writes representations as Parquet, or vectors of molecules as CSV or NPZ for programs that cannot read Parquet.

Shapes: R rows, D channels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from unimol_scale.errors import ConfigError

SUFFIXES = (".parquet", ".csv", ".npz")
VECTORS = "embedding"  # column of the vectors of molecules


class TableWriter(Protocol):
    """Accepts tables of one schema, one after another."""

    def write_table(self, table: pa.Table) -> None:
        """Append the rows of a table."""


def check_suffix(path: Path, kind: str) -> None:
    """Refuse a name whose format is unknown, or cannot hold a kind of representation.

    Raises:
        ConfigError: the name is unsuitable. The message says which names are valid.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"--output {path}: the name must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if kind != "molecule" and path.suffix != ".parquet":
        raise ConfigError(
            f"--output {path}: {path.suffix} can hold only vectors of molecules; for the representation {kind!r} the "
            "name must end in .parquet"
        )


@contextmanager
def open_writer(path: Path, suffix: str, schema: pa.Schema) -> Iterator[TableWriter]:
    """Yield a writer of a new file.

    parquet: the schema unchanged, with its metadata; written as a stream.
    csv: the columns before the vector, then ``v0`` … ``v<D-1>``; written as a stream.
    npz: an array [R] for each column, and ``embedding``, float32 [R, D]; loads without pickle. All rows are held in
        memory until the end.

    Args:
        path: the file to write; its name does not matter.
        suffix: one of ``SUFFIXES``, which determines the format.
        schema: schema of every table; for csv and npz its last column is the vector.
    """
    if suffix == ".parquet":
        with pq.ParquetWriter(path, schema) as parquet:
            yield parquet
    elif suffix == ".csv":
        with pc.CSVWriter(str(path), _flat_schema(schema)) as lines:
            yield _CsvVectors(lines)
    else:
        arrays = _NpzArrays()
        yield arrays
        arrays.save(path)


class _CsvVectors:
    def __init__(self, lines: pc.CSVWriter) -> None:
        self._lines = lines

    def write_table(self, table: pa.Table) -> None:
        vector_RD = _vectors(table)
        columns = [table[name] for name in table.column_names[:-1]]
        columns += [pa.array(channel_R) for channel_R in np.ascontiguousarray(vector_RD.T)]
        self._lines.write_table(pa.table(columns, schema=_flat_schema(table.schema)))


class _NpzArrays:
    def __init__(self) -> None:
        self._tables: list[pa.Table] = []

    def write_table(self, table: pa.Table) -> None:
        self._tables.append(table)

    def save(self, path: Path) -> None:
        table = pa.concat_tables(self._tables)
        columns: dict[str, Any] = {}
        for name in table.column_names[:-1]:
            values = table[name].to_numpy()
            # Fixed-width text, since arrays of objects would be pickled.
            columns[name] = values.astype(str) if pa.types.is_string(table.schema.field(name).type) else values
        columns[VECTORS] = _vectors(table)
        with path.open("wb") as file:  # given a name, savez would add a suffix to it
            np.savez_compressed(file, **columns)


def _flat_schema(schema: pa.Schema) -> pa.Schema:
    vector = schema.field(schema.names[-1]).type
    channels = [pa.field(f"v{number}", pa.float32()) for number in range(vector.list_size)]
    return pa.schema([*list(schema)[:-1], *channels])


def _vectors(table: pa.Table) -> np.ndarray:
    """Return the vectors of a table, float32 [R, D]."""
    column = table[table.column_names[-1]].combine_chunks()
    vectors = column.flatten().to_numpy(zero_copy_only=False)
    reshaped: np.ndarray = vectors.reshape(len(table), -1)
    return reshaped
