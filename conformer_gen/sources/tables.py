"""CSV and Parquet tables: one molecule a row, columns by name, labels."""

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from conformer_gen.sources.columns import ID_NAMES, find_column, find_labels, find_smiles, number
from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.lines import smiles_problem
from conformer_gen.sources.locations import stem
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.streams import TextStream
from unimol_scale.errors import SourceError

PARQUET_ROWS = 10_000
QUOTED = re.compile(r'"[^"]*"')


class Record(NamedTuple):
    """One record of a table: the names of its columns, its fields, and what is wrong with it, if anything."""

    names: list[str]
    fields: list[str]
    problem: str = ""


def read_csv(stream: TextStream, config: SourceConfig) -> Iterator[SourceMolecule]:
    """Yield one row for each record of a table with commas, semicolons or tabs; blank lines are none.

    Raises:
        SourceError: a column is not there, or a label is no number.
    """
    columns: _Columns | None = None
    for at, record in enumerate(csv_records(stream), start=1):
        columns = columns or _Columns(stream.name, record.names, config)
        yield columns.row(record, at, stream.stem)


def csv_records(stream: TextStream) -> Iterator[Record]:
    """Yield the records of a table; lines that can not be taken apart are one record with a problem."""
    skipped = 1
    header = ""
    for header in stream.text:
        if header.strip():
            break
        skipped += 1
    delimiter = delimiter_of(header)
    names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
    reader = csv.reader(stream.text, delimiter=delimiter)
    while True:
        line = skipped + reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:  # the reader goes on with the next line
            lines = f"lines {line} to {skipped + reader.line_num}"
            yield Record(names, [], f"{stream.name}: {lines} can not be read ({error}): is a quote not closed?")
            continue
        if fields is None:
            return
        if fields:
            yield Record(names, fields)


def delimiter_of(header: str) -> str:
    """Return what separates the names in the first line of a table: comma, tab or semicolon."""
    return max(",\t;", key=QUOTED.sub("", header).count)


class _Columns:
    def __init__(self, where: str, names: Sequence[str], config: SourceConfig) -> None:
        self._where, self._width = where, len(names)
        self._smiles = find_smiles(where, names, config.smiles_column)
        self._id = find_column(where, names, config.id_column, ID_NAMES)
        self._labels = list(zip(config.labels, find_labels(where, names, config.labels), strict=True))
        self._needed = max([self._smiles, *(place for _, place in self._labels)]) + 1

    def row(self, record: Record, at: int, table: str) -> SourceMolecule:
        """Return the row of record ``at``; one with too few or too many fields may have its columns mixed up."""
        fields = record.fields
        name = fields[self._id].strip() if self._id is not None and self._id < len(fields) else ""
        smiles = fields[self._smiles].strip() if self._smiles < len(fields) else ""
        name = name or f"{table}:{at}"
        if record.problem or len(fields) < self._needed or any(field.strip() for field in fields[self._width :]):
            problem = (
                record.problem or f"row {at} of {self._where} has {len(fields)} fields, the header has {self._width}"
            )
            return SourceMolecule(id=name, smiles=smiles, problem=problem)
        labels = tuple(
            number(fields[place], f"{self._where}: row {at}, column {label!r}") for label, place in self._labels
        )
        return SourceMolecule(id=name, smiles=smiles, labels=labels, problem=smiles_problem(smiles))


def read_parquet(path: Path, config: SourceConfig) -> Iterator[SourceMolecule]:
    """Yield one row for each of a Parquet table.

    Raises:
        SourceError: it is no Parquet file, a column is not there, or a label is no number.
    """
    names = parquet_names(path)
    smiles = names[find_smiles(str(path), names, config.smiles_column)]
    id_at = find_column(str(path), names, config.id_column, ID_NAMES)
    find_labels(str(path), names, config.labels)
    chosen = [smiles, *config.labels, *([] if id_at is None else [names[id_at]])]
    for at, values in enumerate(parquet_records(path, chosen), start=1):
        identifier = None if id_at is None else values[names[id_at]]
        text = "" if values[smiles] is None else str(values[smiles]).strip()
        yield SourceMolecule(
            id=f"{stem(path.name)}:{at}" if identifier is None else str(identifier),
            smiles=text,
            labels=tuple(number(values[label], f"{path}: row {at}, column {label!r}") for label in config.labels),
            problem=smiles_problem(text),
        )


def parquet_names(path: Path) -> list[str]:
    """Return the names of the columns.

    Raises:
        SourceError: it is no Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names: list[str] = pq.read_schema(path).names
        return names
    except pa.ArrowInvalid as error:
        raise SourceError(f"{path} is no Parquet file, or not all of one: {error}") from error


def parquet_records(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the chosen columns of each row, a few thousand rows in memory at a time.

    Raises:
        SourceError: the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(PARQUET_ROWS, columns=list(dict.fromkeys(columns))):
                yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise SourceError(f"{path} can not be read to its end: {error}") from error
