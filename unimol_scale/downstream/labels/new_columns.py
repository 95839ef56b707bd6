"""Adds columns to a user's table without changing its own columns."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv


def free_name(name: str, taken: Collection[str], prefix: str | None) -> str:
    """Return the name if no column has it; otherwise the name with the prefix, if given, or with a number."""
    if name not in taken:
        return name
    if prefix is not None and (prefixed := f"{prefix}{name}") not in taken:
        return prefixed
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"


def write_csv(table: pa.Table, path: Path) -> None:
    """Write a table as CSV; lists and other nested values are written as text."""
    for at, field in enumerate(table.schema):
        if not (pa.types.is_primitive(field.type) or pa.types.is_string(field.type)):
            texts = [None if value is None else str(value) for value in table.column(at).to_pylist()]
            table = table.set_column(at, field.name, pa.array(texts, pa.string()))
    pyarrow.csv.write_csv(table, path)


def spread_out(value_R: npt.NDArray[Any], row_R: npt.NDArray[np.int64], rows: int) -> pa.Array:
    """Return a column of ``rows`` values: floats, bools or texts in ``row_R``, null elsewhere and for NaN."""
    is_number = value_R.dtype.kind == "f"
    value_M: npt.NDArray[Any] = np.full(rows, np.nan) if is_number else np.full(rows, None, object)
    value_M[row_R] = value_R
    kind = {"f": pa.float64(), "b": pa.bool_()}.get(value_R.dtype.kind, pa.string())
    return pa.array(value_M, kind, from_pandas=True)
