"""Reads files of SMILES and labels as one table, and infers the task from the labels. Molecules are not parsed here.

CSV, TSV and Parquet files have a header; lines of SMILES (.smi, .txt) may have one. Column names, missing values and
numbers are read by the rules of the builder, so that a file has the same meaning here as in a build.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from conformer_gen.sources.columns import ID_NAMES, SMILES_NAMES, find_column, find_smiles, has_decimal_comma
from conformer_gen.sources.lines import split as split_line
from conformer_gen.sources.inputs.file_names import bare_suffix, stem
from conformer_gen.sources.registry import SOURCES
from conformer_gen.sources.tables import check_parquet_column, is_text, molecule_rows, parquet_names
from unimol_scale.common.text.delimited import EXCEL_SEPARATOR, Record, place_of, read_records
from unimol_scale.common.text.text_files import Unpacked, check_decoded, is_parquet, open_text
from unimol_scale.downstream.data import sdf_table
from unimol_scale.downstream.config import Task
from unimol_scale.downstream.labels.bounds import Bounds
from unimol_scale.downstream.labels.label_columns import (
    NUMBERS_OR_NAMES,
    LabelColumn,
    LabelReading,
    named_rows,
    numbers,
    read_labels,
    refuse,
)
from unimol_scale.downstream.labels.outputs import BY_CLASS
from unimol_scale.errors import ConfigError, SourceError

Float64 = npt.NDArray[np.float64]

_LINES = SOURCES["smiles"].suffixes
SUFFIXES = (".csv", ".tsv", ".parquet", *_LINES, *sdf_table.SUFFIXES)  # as ``bare_suffix`` gives them
ALL_TARGETS = ("all",)
# Columns that identify a row and are not labels. The last one, and names with the prefix below, are a pandas index.
ROW_NAMES = (*ID_NAMES, "", "__index_level_0__")
UNNAMED = "unnamed: "
ROWS_TOGETHER = 50_000  # rows of text that are converted to Arrow together


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledTable:
    """The rows of a file: M molecules with L labels.

    Attributes:
        name: name of the file, without folders and suffixes.
        smiles: [M] SMILES as in the file, without surrounding white space; "" for empty cells.
        labels_ML: labels, float64, NaN for missing ones; L is 0 for a table without labels, for predict or embed.
        targets: [L] names of the labels.
        splits: [M] content of the split column, such as "train", "valid" or "test", if one was requested.
        columns: all columns of the file, unchanged.
        problems: row → why it could not be read, for rows whose SMILES is empty for that reason.
        classes: target → names of its classes; their indices from 0 are the labels. Targets with numbers are absent.
        bounds: bounds of labels such as ">10", which have no value; None if there are none.
    """

    name: str
    smiles: tuple[str, ...]
    labels_ML: Float64
    targets: tuple[str, ...]
    splits: tuple[str, ...] | None
    columns: pa.Table = dataclasses.field(default_factory=lambda: pa.table({}))
    problems: Mapping[int, str] = dataclasses.field(default_factory=dict)
    classes: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    bounds: Bounds | None = None

    def __post_init__(self) -> None:
        assert self.labels_ML.shape == (len(self.smiles), len(self.targets)), "one label a molecule and target"
        assert self.splits is None or len(self.splits) == len(self.smiles), "one split a molecule"


def read_table(
    path: Path,
    *,
    smiles_column: str | None,
    targets: tuple[str, ...],
    split_column: str | None = None,
    how: LabelReading = NUMBERS_OR_NAMES,
) -> LabelledTable:
    """Read a file of molecules.

    Args:
        path: .csv, .tsv, .smi or .txt, plain or compressed, .parquet, or .sdf, whose data fields are columns.
            Compression is detected from the content.
        smiles_column: column of the SMILES; None finds it by common names. In lines without a header it is the first
            column by default, and columns are named by their numbers, from 1.
        targets: columns of labels; ("all",) means every column of numbers except row names and the split.
        split_column: column with train, valid or test.
        how: how labels are read.

    Raises:
        SourceError: the file is missing, unreadable or empty; a column is missing or occurs twice; the SMILES column
            cannot be identified; a label is neither a number nor a class; a target has no labels.
        ConfigError: a target is requested twice.
    """
    path = Path(path)
    if not path.is_file():
        raise SourceError(f"{path} does not exist, or is not a file")
    if sdf_table.is_sdf(path):
        if smiles_column is not None:
            raise ConfigError(f"{path}: smiles_column applies to tables; an SDF has the structures in its records")
        return _labelled_sdf(path, targets, split_column, how)
    readers: dict[str, Callable[[Path], pa.Table]] = {
        ".csv": lambda path: _read_delimited(path, smiles_column),
        ".tsv": lambda path: _read_delimited(path, smiles_column),
        ".parquet": lambda path: _read_parquet(
            path, smiles_column, [*targets, *([split_column] if split_column else [])]
        ),
        **dict.fromkeys(
            _LINES, lambda path: _read_lines(path, smiles_column, whole=bool(targets) or split_column is not None)
        ),
    }
    suffix = ".parquet" if is_parquet(path) else bare_suffix(path.name)
    if suffix not in readers:
        with path.open("rb") as file:
            Unpacked(str(path), file)  # raises a specific error for workbooks and archives
        raise SourceError(
            f"{path}: its name must end in {', '.join(SUFFIXES)}; text files may be compressed, such as .csv.gz"
        )
    table = readers[suffix](path)
    if not table.num_rows:
        raise SourceError(f"{path} has no rows")
    return _labelled(path, table, smiles_column, targets, split_column, how)


def _labelled_sdf(
    path: Path, targets: tuple[str, ...], split_column: str | None, how: LabelReading
) -> LabelledTable:
    table, problems = sdf_table.read_sdf_table(path)
    labelled = _labelled(path, table, sdf_table.STRUCTURE, targets, split_column, how)
    columns = table.drop_columns([sdf_table.STRUCTURE])
    return dataclasses.replace(labelled, columns=columns, problems=problems)


def _labelled(
    path: Path,
    table: pa.Table,
    smiles_column: str | None,
    targets: tuple[str, ...],
    split_column: str | None,
    how: LabelReading,
) -> LabelledTable:
    names = [name.strip() for name in table.column_names]
    smiles_at = find_smiles(str(path), names, smiles_column)
    split_at = None if split_column is None else _place(path, names, split_column)
    classes: dict[str, tuple[str, ...]] = {}
    found_columns: list[LabelColumn] = []
    smiles = _texts(table.column(smiles_at))
    if targets == ALL_TARGETS:
        labels = _every_label(path, table, {smiles_at, split_at}, smiles)
    else:
        if len(set(targets)) < len(targets):
            raise ConfigError(f"targets: one is named twice in {', '.join(targets)}")
        labels = {}
        for target in targets:
            column = table.column(_place(path, names, target))
            found = read_labels(str(path), target, column, smiles, how)
            found_columns.append(found)
            labels[target] = found.value_M
            if found.classes:
                classes[target] = found.classes
            if np.isnan(labels[target]).all():
                if found.bound_M is not None:
                    raise SourceError(f"{path}: all labels of the target {target!r} are bounds: none has a value")
                raise SourceError(f"{path}: all {len(smiles):,} labels of the target {target!r} are missing")
    return LabelledTable(
        name=stem(path.name),
        smiles=tuple(smiles),
        labels_ML=np.stack(list(labels.values()), axis=1) if labels else np.zeros((len(smiles), 0)),
        targets=tuple(labels),
        splits=None if split_at is None else tuple(_texts(table.column(split_at))),
        columns=table,
        classes=classes,
        bounds=Bounds.of(found_columns),
    )


def _place(path: Path, names: Sequence[str], wanted: str) -> int:
    place = find_column(str(path), names, wanted, ())
    assert place is not None, "find_column raises an error if a requested column is missing"
    return place


def _texts(column: pa.ChunkedArray) -> list[str]:
    return ["" if value is None else str(value).strip() for value in column.to_pylist()]


def _every_label(path: Path, table: pa.Table, taken: set[int | None], smiles: Sequence[str]) -> dict[str, Float64]:
    """Return every column of numbers; a column of mostly numbers with some text is an error."""
    labels: dict[str, Float64] = {}
    for at, name in enumerate(name.strip() for name in table.column_names):
        if at in taken or name.lower() in ROW_NAMES or name.lower().startswith(UNNAMED):
            continue
        values, wrong = numbers(table.column(at))
        present = int(np.count_nonzero(~np.isnan(values)))
        commas = len(wrong) and has_decimal_comma(table.column(at)[int(wrong[0])].as_py())
        if not commas and (not present or len(wrong) >= present):
            continue
        if len(wrong):
            refuse(str(path), name, table.column(at), wrong, smiles)
        if name in labels:
            raise SourceError(f"{path} has several columns {name!r}; rename all but one")
        labels[name] = values
    if not labels:
        raise SourceError(f"{path}: none of the columns {', '.join(table.column_names)[:500]} holds labels")
    return labels


def _read_delimited(path: Path, smiles_column: str | None) -> pa.Table:
    """Read a table with a header and commas, semicolons or tabs; all columns are read as text."""
    expected, is_row = molecule_rows(smiles_column)
    names: list[str] = []
    pieces: list[list[pa.Array]] = []
    with open_text(path, errors="surrogateescape") as lines:
        records = read_records(str(path), lines, expected, is_row)
        while rows := list(itertools.islice(records, ROWS_TOGETHER)):
            names = rows[0].names
            check_decoded(str(path), 1, ", ".join(names))
            fields = [_whole_row(path, record) for record in rows]
            pieces.append([pa.array(column, pa.string()) for column in zip(*fields, strict=True)])
    if not pieces:
        raise SourceError(f"{path} is empty, or has no rows below its header")
    return pa.table([pa.chunked_array(chunks) for chunks in zip(*pieces, strict=True)], names)


def _whole_row(path: Path, record: Record) -> list[str]:
    """Return the fields of a record, as many as in the header; surplus empty fields are ignored."""
    fields, width = record.fields, len(record.names)
    if record.problem:
        raise SourceError(record.problem)
    if len(fields) < width or any(field.strip() for field in fields[width:]):
        shown = ",".join(fields)[:200]
        raise SourceError(
            f"{path} cannot be read: {record.place} has {len(fields)} fields, the header has {width} ({shown!r}); "
            "check for an unclosed quote or an unquoted comma"
        )
    check_decoded(str(path), record.line, ",".join(fields))
    return fields[:width]


def _read_parquet(path: Path, smiles_column: str | None, wanted: Sequence[str]) -> pa.Table:
    """Read a Parquet file; binary columns of text become text. Nested columns are kept unchanged.

    Args:
        path: the file.
        smiles_column: column of the SMILES; None finds it by common names.
        wanted: further columns that will be needed.
    """
    names = parquet_names(path)
    check_parquet_column(path, names[find_smiles(str(path), names, smiles_column)], text=True)
    for name in set(wanted).intersection(names):
        check_parquet_column(path, name)
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
    except (pa.ArrowInvalid, OSError) as error:
        raise SourceError(f"{path} cannot be read to its end: {error}") from error
    for at, field in enumerate(table.schema):
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if is_text(kind) and not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            values = [_decoded(value) for value in table.column(at).to_pylist()]
            table = table.set_column(at, field.name, pa.array(values, pa.string()))
    return table


def _decoded(value: bytes | str | None) -> str | None:
    """Return text; bytes that are not UTF-8 become U+FFFD, which no SMILES and no number contains."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _read_lines(path: Path, smiles_column: str | None, *, whole: bool) -> pa.Table:
    """Read lines of SMILES and further columns; all columns are read as text.

    Args:
        path: the file; blank lines and comments (#) are skipped.
        smiles_column: a column name that identifies a header, in addition to the common ones.
        whole: refuse lines whose number of columns differs from the header. If only SMILES are read, names may be
            missing.
    """
    with open_text(path) as lines:
        taken = [(at, split_line(line)) for at, line in enumerate(lines, start=1)]
    rows = [(at, fields) for at, fields in taken if fields and not fields[0].startswith("#")]
    if rows and EXCEL_SEPARATOR.fullmatch(" ".join(rows[0][1])):
        raise SourceError(f"{path} is a table for Excel (sep=…): rename it to end in .csv")
    names = [name.strip() for name in rows[0][1]] if rows else []
    if {name.lower() for name in names} & set(SMILES_NAMES) or smiles_column in names:
        del rows[0]
        for row, (line, fields) in enumerate(rows, start=1):
            if whole and len(fields) != len(names):
                counts = f"{len(fields)} columns, the header has {len(names)}"
                raise SourceError(f"{path}: {place_of(row, line)} has {counts}")
    else:
        # Columns are named by number; the first one gets a common name of SMILES unless another column was requested.
        names = [str(at + 1) for at in range(max((len(fields) for _, fields in rows), default=0))]
        if smiles_column is None and names:
            names[0] = SMILES_NAMES[0]
    columns = {
        name: [fields[at].strip() if at < len(fields) else "" for _, fields in rows] for at, name in enumerate(names)
    }
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def infer_task(table: LabelledTable) -> Task:
    """Return the task that the labels suggest.

    It is "multiclass" if they are names of more than two classes; "classification" (or "multilabel" for several
    targets) if all are 0 or 1, or names of two classes; otherwise "regression".

    Raises:
        ConfigError: the table has no labels.
    """
    _require_labels(table)
    if any(len(classes) > 2 for classes in table.classes.values()):
        return "multiclass"
    if table.bounds is not None:
        return "regression"
    if not np.isin(table.labels_ML[~np.isnan(table.labels_ML)], (0.0, 1.0)).all():
        return "regression"
    return "classification" if len(table.targets) == 1 else "multilabel"


def check_task(table: LabelledTable, task: Task) -> None:
    """Check that the labels fit a task.

    Args:
        table: table with at least one target.
        task: "regression" accepts any numbers; "classification" 0 and 1 of one target, "multilabel" of one or more;
            "multiclass" and "ordinal" the classes of one target.

    Raises:
        ConfigError: there are no targets, or more than the task accepts.
        SourceError: a label is neither 0 nor 1. The message names the first rows.
    """
    _require_labels(table)
    if task == "regression":
        return
    if task in ("classification", *BY_CLASS) and len(table.targets) > 1:
        remedy = "use task multilabel" if task == "classification" else "fine-tune on each of them separately"
        raise ConfigError(f"task {task} applies to one target, but {table.name} has {len(table.targets)}: {remedy}")
    if task in BY_CLASS:  # every label became a class when it was read
        return
    for at, target in enumerate(table.targets):
        labels = table.labels_ML[:, at]
        if len(classes := table.classes.get(target, ())) > 2:
            raise SourceError(
                f"{table.name}: the target {target!r} has {len(classes)} classes, {', '.join(classes)}; task {task} "
                "needs two, --task multiclass accepts more"
            )
        wrong = np.flatnonzero(~np.isnan(labels) & ~np.isin(labels, (0.0, 1.0)))
        if len(wrong):
            shown = named_rows(wrong, table.smiles, labels[wrong].tolist())
            raise SourceError(
                f"{table.name}: {len(wrong):,} labels of the target {target!r} are neither 0 nor 1, which task {task} "
                f"requires: {shown}"
            )


def _require_labels(table: LabelledTable) -> None:
    if not table.targets:
        raise ConfigError(f"{table.name} was read without a target; name at least one")
