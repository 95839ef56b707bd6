"""CSV and Parquet tables: one molecule per row, with columns by name, and labels."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from conformer_gen.sources.columns import ID_NAMES, SMILES_NAMES, find_column, find_labels, find_smiles, number
from conformer_gen.sources.file_range import WHOLE, FileRange, even_ranges
from conformer_gen.sources.inputs.file_names import stem
from conformer_gen.sources.inputs.text_streams import TextStream
from conformer_gen.sources.lines import smiles_problem
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.source import Source, SourceSettings
from unimol_scale.common.text.delimited import IsRow, Record, read_records
from unimol_scale.errors import SourceError

PARQUET_ROWS = 10_000


def read_csv(stream: TextStream, config: SourceSettings) -> Iterator[SourceMolecule]:
    """Yield one row per record of a table with commas, semicolons or tabs; blank lines are skipped.

    Raises:
        SourceError: a column is missing, or a label is not a number.
    """
    columns: _Columns | None = None
    for record in csv_records(stream, config.smiles_column):
        columns = columns or _Columns(stream.name, record.names, config)
        yield columns.row(record, stream.stem)


def csv_records(stream: TextStream, smiles_column: str | None = None) -> Iterator[Record]:
    """Yield the records of a table of molecules; a record that cannot be split into fields has a problem.

    Args:
        stream: the table.
        smiles_column: name of the SMILES column; None looks for the usual names.

    Raises:
        SourceError: its header cannot be read.
    """
    return read_records(stream.name, stream.text, *molecule_rows(smiles_column))


def molecule_rows(smiles_column: str | None) -> tuple[tuple[str, ...], IsRow]:
    """Return what ``read_records`` needs for a table of molecules: usual column names, and a test for rows."""
    usual = SMILES_NAMES if smiles_column is None else (smiles_column.lower(),)

    def is_row(names: Sequence[str], fields: Sequence[str]) -> bool:
        place = next((at for at, name in enumerate(names) if name.lower() in usual), None)
        return place is None or is_smiles(fields[place].strip())

    return usual, is_row


def is_smiles(text: str) -> bool:
    """Return whether RDKit can read a text as a molecule with atoms."""
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(text) if text and not smiles_problem(text) else None
    return molecule is not None and molecule.GetNumAtoms() > 0


class _Columns:
    def __init__(self, where: str, names: Sequence[str], config: SourceSettings) -> None:
        self._where, self._width = where, len(names)
        self._smiles = find_smiles(where, names, config.smiles_column)
        self._id = find_column(where, names, config.id_column, ID_NAMES)
        self._labels = list(zip(config.labels, find_labels(where, names, config.labels), strict=True))
        self._needed = max([self._smiles, *(place for _, place in self._labels)]) + 1

    def row(self, record: Record, table: str) -> SourceMolecule:
        """Return the row of a record; with too few or too many fields, its columns may be mixed up."""
        fields = record.fields
        name = fields[self._id].strip() if self._id is not None and self._id < len(fields) else ""
        smiles = fields[self._smiles].strip() if self._smiles < len(fields) else ""
        name = name or f"{table}:{record.row}"
        if record.problem or len(fields) < self._needed or any(field.strip() for field in fields[self._width :]):
            counts = f"{len(fields)} fields, but the header has {self._width}"
            problem = record.problem or f"{record.place} of {self._where} has {counts}"
            return SourceMolecule(id=name, smiles=smiles, problem=problem)
        labels = tuple(
            number(fields[place], f"{self._where}: {record.place}, column {label!r}") for label, place in self._labels
        )
        problem = smiles_problem(smiles)
        return SourceMolecule(
            id=name, smiles=smiles, labels=labels, problem=problem and f"{self._where}: {record.place}: {problem}"
        )


def read_parquet(path: Path, config: SourceSettings, within: FileRange = WHOLE) -> Iterator[SourceMolecule]:
    """Yield one row for each row of a Parquet table.

    Args:
        path: the table.
        config: its columns.
        within: range of its row groups.

    Raises:
        SourceError: it is not a Parquet file, a column is missing or is not text, or a label is not a number.
    """
    names = parquet_names(path)
    smiles = names[find_smiles(str(path), names, config.smiles_column)]
    id_at = find_column(str(path), names, config.id_column, ID_NAMES)
    find_labels(str(path), names, config.labels)
    check_parquet_column(path, smiles, text=True)
    chosen = [smiles, *config.labels, *([] if id_at is None else [names[id_at]])]
    for name in chosen[1:]:
        check_parquet_column(path, name)
    for at, values in parquet_records(path, chosen, within):
        identifier = None if id_at is None else _text(values[names[id_at]])
        text = _text(values[smiles]).strip()
        yield SourceMolecule(
            id=identifier or f"{stem(path.name)}:{at}",
            smiles=text,
            labels=tuple(number(values[label], f"{path}: row {at}, column {label!r}") for label in config.labels),
            problem=smiles_problem(text),
        )


def _text(value: object) -> str:
    """Return a value as text; bytes that are not UTF-8 become marks that no SMILES contains."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return "" if value is None else str(value)


def parquet_names(path: Path) -> list[str]:
    """Return the names of the columns.

    Raises:
        SourceError: it is not a Parquet file.
    """
    names: list[str] = _parquet_schema(path).names
    return names


def check_parquet_column(path: Path, name: str, *, text: bool = False) -> None:
    """Check that a column of a Parquet file can hold SMILES (if ``text``), or a name or number.

    Raises:
        SourceError: it cannot; the message names its type.
    """
    import pyarrow as pa

    kind = _parquet_schema(path).field(name).type
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_nested(plain):
        raise SourceError(f"{path}: the column {name!r} holds {kind}, not one value per row; write one text or number")
    if text and not (is_text(plain) or pa.types.is_null(plain)):
        raise SourceError(f"{path}: the column {name!r} holds {kind}, not SMILES; name the column that does")


def is_text(kind: Any) -> bool:  # noqa: ANN401 - a type of Arrow
    """Return whether a type of Arrow is text, or bytes of text."""
    import pyarrow as pa

    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, *binary)
    return any(test(kind) for test in tests)


def _parquet_schema(path: Path) -> Any:  # noqa: ANN401 - Arrow's
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(path)
    except pa.ArrowInvalid as error:
        raise SourceError(f"{path} is not a Parquet file, or not all of one: {error}") from error


def parquet_records(
    path: Path, columns: Sequence[str], within: FileRange = WHOLE
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number, from 1, and the chosen columns of each row, a few thousand rows in memory at a time.

    Args:
        path: the table.
        columns: names of the columns.
        within: range of its row groups.

    Raises:
        SourceError: the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            first = max(0, within.first)
            some = list(range(first, min(within.last, file.num_row_groups)))
            row = 1 + sum(file.metadata.row_group(group).num_rows for group in range(first))
            for batch in file.iter_batches(PARQUET_ROWS, some, columns=list(dict.fromkeys(columns))):
                yield from enumerate(batch.to_pylist(), start=row)
                row += batch.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise SourceError(f"{path} cannot be read to its end: {error}") from error


def parquet_ranges(path: Path, config: SourceSettings, most: int) -> list[FileRange]:
    """Return ranges of the row groups."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return even_ranges(0, pq.read_metadata(path).num_row_groups, most)
    except pa.ArrowInvalid:  # the reader says what is wrong
        return [WHOLE]


def _count_parquet(path: Path) -> int:
    import pyarrow.parquet as pq

    rows: int = pq.read_metadata(path).num_rows
    return rows


CSV = Source(name="csv", suffixes=(".csv", ".tsv"), read_stream=read_csv, takes_labels=True, takes_columns=True)
PARQUET = Source(
    name="parquet",
    suffixes=(".parquet",),
    read_file=read_parquet,
    ranges=parquet_ranges,
    read_range=read_parquet,
    takes_labels=True,
    takes_columns=True,
    count_file=_count_parquet,
)
