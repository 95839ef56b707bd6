"""Reads a benchmark of Therapeutics Data Commons (Huang et al. 2021, arXiv 2102.09548) from its downloaded group."""

from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from unimol_scale.errors import SourceError

TDC_FILES = ("train_val.csv", "test.csv")
_PARTS = ("train", "test")
_DRUG, _LABEL = "Drug", "Y"


def read_tdc(folder: Path) -> tuple[pa.Table, tuple[str, ...]]:
    """Return the rows of both files, and the name of the label, which is the name of the folder (the benchmark).

    Columns: ``smiles``, the label, ``split``, and Drug_ID and others unchanged.

    Raises:
        SourceError: a file cannot be read, or lacks a column.
    """
    tables = [_read(folder / name, part) for name, part in zip(TDC_FILES, _PARTS, strict=True)]
    try:
        together = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise SourceError(f"{folder}: its files differ in their columns: {error}") from error
    names = {_DRUG: "smiles", _LABEL: folder.resolve().name}
    renamed = together.rename_columns([names.get(name, name) for name in together.column_names])
    return renamed, (names[_LABEL],)


def _read(path: Path, part: str) -> pa.Table:
    try:
        table = pyarrow.csv.read_csv(path)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
    for name in (_DRUG, _LABEL):
        if name not in table.column_names:
            raise SourceError(
                f"{path} has no column {name!r}, only {', '.join(table.column_names)}; only benchmarks of single "
                "molecules, which have this column, can be used"
            )
    return table.append_column("split", pa.array([part] * len(table)))
