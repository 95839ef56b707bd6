"""Converts molecules given in memory or in files to the input of fine-tuning and prediction. Imports RDKit."""

import csv
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from conformer_gen.sources.columns import find_smiles
from conformer_gen.sources.inputs.file_names import bare_suffix
from unimol_scale.api.table_columns import columns_of
from unimol_scale.common.files import commit_text
from unimol_scale.common.output_checks import require_folder
from unimol_scale.common.text.argument_names import require_order
from unimol_scale.downstream.data.labelled_tables import SUFFIXES
from unimol_scale.downstream.data.molecule_files import is_store
from unimol_scale.downstream.data.molecules import listed
from unimol_scale.errors import SourceError

SMILES = "smiles"
WEIGHT = "sample weight"


def file_or_smiles(molecules: Any, smiles_column: str | None) -> Path | list[str]:  # noqa: ANN401
    """Return the path of molecules in a file, or the SMILES of molecules in memory.

    A string is a path if that file exists, or if it ends in the suffix of a molecule file, compressed or not.

    Args:
        molecules: a SMILES, a list of SMILES, a table in memory, or a path.
        smiles_column: column of the SMILES in a table in memory; None finds it by common names.

    Raises:
        SourceError: ``molecules`` is none of these.
    """
    if isinstance(molecules, PathLike):
        return Path(molecules)
    if isinstance(molecules, str):
        return Path(molecules) if _is_path(molecules) else [molecules]
    columns = columns_of(molecules)
    if columns is None:
        return listed(molecules, "predict")
    names = list(columns)
    return listed(columns[names[find_smiles("the table", names, smiles_column)]], "predict")


def _is_path(text: str) -> bool:
    path = Path(text)
    try:
        return path.is_file() or is_store(path) or bare_suffix(path.name) in SUFFIXES
    except OSError:  # a SMILES may be longer than the longest file name
        return False


def labelled_columns(data: Any, names: list[str]) -> tuple[dict[str, list[Any]], list[str]]:  # noqa: ANN401
    """Return the columns of labelled molecules in memory, and the names of the labels if they are known.

    Args:
        data: a table, or (SMILES, values) with values [M] or [M, L].
        names: names of the labels; if empty, the labels of (SMILES, values) are named "value" or "value_1", …

    Raises:
        SourceError: the data is neither a table nor SMILES with values, or lengths differ.
        ConfigError: a set was given, which has no order.
    """
    columns = columns_of(data)
    if columns is not None:
        lengths = {len(values) for values in columns.values()}
        if len(lengths) > 1:
            raise SourceError(f"data: its columns have different lengths: {sorted(lengths)}")
        return columns, names
    if not isinstance(data, tuple) or len(data) != 2:
        raise SourceError(
            f"data: expected a path, a table or (SMILES, values), got {type(data).__name__}; a table is a DataFrame, a "
            "pyarrow Table or a dict of columns"
        )
    smiles = listed(data[0], "finetune")
    require_order(data[1], "data")
    values = _values(data[1])
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or len(values) != len(smiles):
        raise SourceError(
            f"data: {len(smiles):,} SMILES and {len(values):,} rows of values; give one row of values per SMILES"
        )
    names = names or (["value"] if values.shape[1] == 1 else [f"value_{at}" for at in range(1, values.shape[1] + 1)])
    if len(names) != values.shape[1]:
        raise SourceError(f"target: {len(names)} names for {values.shape[1]} columns of values")
    return {SMILES: smiles, **{name: values[:, at].tolist() for at, name in enumerate(names)}}, names


def add_weights(columns: dict[str, list[Any]], weights: Any) -> str:  # noqa: ANN401
    """Add a column with the weights of the rows to columns in memory, and return its name.

    Raises:
        SourceError: there is not exactly one number per row.
    """
    require_order(weights, "weights")
    rows = len(next(iter(columns.values())))
    try:
        values = np.asarray(weights, np.float64)
    except (TypeError, ValueError) as error:
        raise SourceError(f"weights: expected numbers: {error}") from error
    if values.shape != (rows,):
        raise SourceError(f"weights: expected one for each of {rows:,} rows, got shape {values.shape}")
    name = WEIGHT
    while name in columns:
        name += "_"
    columns[name] = values.tolist()
    return name


def _values(given: Any) -> np.ndarray[Any, Any]:  # noqa: ANN401
    """Return labels in memory as float64, or as objects if all of them are class names."""
    try:
        return np.asarray(given, np.float64)
    except (TypeError, ValueError) as error:
        names = np.asarray(given, object)
        if names.ndim in (1, 2) and all(value is None or isinstance(value, str) for value in names.ravel().tolist()):
            return names
        raise SourceError(
            f"data: the values are neither numbers nor class names: {error}; classes are names, or 0 and 1"
        ) from error


def write_columns(columns: Mapping[str, Sequence[Any]], folder: Path) -> Path:
    """Write a table and return its path; the name contains a hash, so that different data has a different name."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in zip(*columns.values(), strict=True))
    digest = hashlib.sha256(text.getvalue().encode()).hexdigest()[:8]
    require_folder(folder, "output")
    path = folder / f"molecules-{digest}.csv"
    commit_text(path, text.getvalue())
    return path


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return int(value)
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value
