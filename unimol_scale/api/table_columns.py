"""Converts tables in memory, of any library, to columns. Imports none of these libraries.

A table is a mapping of names to columns, a pyarrow Table, or anything with ``columns`` and ``[name]``, such as a
DataFrame of pandas or polars.
"""

from collections.abc import Mapping
from typing import Any

from unimol_scale.common.text.argument_names import require_order


def columns_of(table: object) -> dict[str, list[Any]] | None:
    """Return name → values of a table's columns, in their order; None if the argument is not a table.

    Raises:
        ConfigError: a column is a set.
    """
    if isinstance(table, Mapping):
        return {str(name): _values(column, str(name)) for name, column in table.items()}
    names = getattr(table, "column_names", None)  # pyarrow
    if names is None:
        names = getattr(table, "columns", None)
    if names is None or not hasattr(table, "__getitem__"):
        return None
    return {str(name): _values(table[name], str(name)) for name in names}


def _values(column: Any, name: str) -> list[Any]:  # noqa: ANN401
    require_order(column, f"column {name}")
    for name in ("to_pylist", "to_list", "tolist"):
        if hasattr(column, name):
            values: list[Any] = getattr(column, name)()
            return values
    return list(column)
