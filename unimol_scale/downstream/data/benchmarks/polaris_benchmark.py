"""Reads a Polaris benchmark (polarishub.io) written by ``benchmark.to_json(folder)``.

benchmark.json names the dataset's JSON file, which names the Parquet table. If these paths belong to another machine,
the files are searched beside benchmark.json. Keys are snake_case or camelCase, depending on the version of Polaris.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unimol_scale.common.text.json_files import NotJsonError, read_json
from unimol_scale.errors import SourceError

POLARIS_FILE = "benchmark.json"
_DATASET_FILE, _TABLE_FILE = "dataset.json", "table.parquet"
TEST_SET = "test_set"  # column with the name of the test set, if there are several


def read_polaris(file: Path) -> tuple[pa.Table, str, tuple[str, ...]]:
    """Return the table with ``split`` ("train", "test", or "unused"), the column of molecules, and the targets.

    Raises:
        SourceError: a file is missing or damaged, or the benchmark has several inputs or a split in binary form.
    """
    benchmark = _read(file)
    table = _table_of(file, benchmark)
    inputs = _listed(file, benchmark, "input_cols")
    targets = _listed(file, benchmark, "target_cols")
    for name in (*inputs, *targets):
        if name not in table.column_names:
            raise SourceError(f"{file}: the table has no column {name!r}, only {', '.join(table.column_names)}")
    if len(inputs) != 1:
        raise SourceError(f"{file} has the inputs {', '.join(inputs)}; only one column of SMILES is supported")
    split = _value(file, benchmark, "split")
    if not isinstance(split, Sequence) or len(split) != 2 or not isinstance(split[0], Sequence):
        raise SourceError(f"{file}: its split is not a pair of lists of rows, as in benchmarks of version 1")
    return _with_split(file, table.select([*inputs, *targets]), split), inputs[0], tuple(targets)


def _with_split(file: Path, table: pa.Table, split: Sequence[Any]) -> pa.Table:
    train, test = split
    sets: Mapping[str, Sequence[int]] = test if isinstance(test, Mapping) else {"test": test}
    part_M = np.full(len(table), "unused", object)
    set_M = np.full(len(table), None, object)
    for name, rows in {"": train, **sets}.items():
        row_R = np.asarray(rows, np.int64)
        if len(row_R) and not 0 <= row_R.min() <= row_R.max() < len(table):
            raise SourceError(f"{file}: its split names rows that the table of {len(table):,} rows does not have")
        part_M[row_R] = "test" if name else "train"
        set_M[row_R] = name or None
    table = table.append_column("split", pa.array(part_M.tolist(), pa.string()))
    return table.append_column(TEST_SET, pa.array(set_M.tolist(), pa.string())) if len(sets) > 1 else table


def _table_of(file: Path, benchmark: Mapping[str, Any]) -> pa.Table:
    dataset = _value(file, benchmark, "dataset")
    if isinstance(dataset, str):
        place = _found(file, Path(dataset), _DATASET_FILE)
        dataset, file = _read(place), place
    path = _found(file, Path(str(_value(file, dataset, "table"))), _TABLE_FILE)
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{path} cannot be read: {error}") from error


def _found(file: Path, named: Path, name: str) -> Path:
    """Return a file at its named path, relative to the file that names it, or beside that file."""
    beside = (named.name, name, f"dataset/{name}")
    for path in (file.parent / named, *(file.parent / place for place in beside)):
        if path.is_file():
            return path
    raise SourceError(f"{file} names {named}, which does not exist, and there is no {name} next to the file")


def _value(file: Path, tree: Mapping[str, Any], key: str) -> Any:  # noqa: ANN401
    first, *rest = key.split("_")
    for name in (key, first + "".join(map(str.capitalize, rest))):
        if name in tree:
            return tree[name]
    raise SourceError(f"{file} has no key {key!r}, so it is not a benchmark of Polaris")


def _listed(file: Path, tree: Mapping[str, Any], key: str) -> list[str]:
    value = _value(file, tree, key)
    return [value] if isinstance(value, str) else [str(name) for name in value]


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return read_json(path)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    except NotJsonError as error:
        raise SourceError(f"{path} is damaged: it {error}") from error
