"""Tables as callers have them, of whatever library → columns. Imports no such library.

A table is a mapping of names to columns, a pyarrow Table, or anything with ``columns`` and ``[name]``, as DataFrames of
pandas and polars have them.
"""

from collections.abc import Mapping
from typing import Any


def columns_of(table: object) -> dict[str, list[Any]] | None:
    """Return name → values of a table's columns, in their order; None for what is no table."""
    if isinstance(table, Mapping):
        return {str(name): _values(column) for name, column in table.items()}
    names = getattr(table, "column_names", None)  # of pyarrow
    if names is None:
        names = getattr(table, "columns", None)
    if names is None or not hasattr(table, "__getitem__"):
        return None
    return {str(name): _values(table[name]) for name in names}


def _values(column: Any) -> list[Any]:  # noqa: ANN401
    for name in ("to_pylist", "to_list", "tolist"):
        if hasattr(column, name):
            values: list[Any] = getattr(column, name)()
            return values
    return list(column)
