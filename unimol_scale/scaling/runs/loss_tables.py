"""Reads runs from tables of losses, in files or in memory: each row is a run, or one validation of a run."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from unimol_scale.common.text.delimited import read_records
from unimol_scale.common.text.text_files import check_decoded, is_parquet, open_text
from unimol_scale.errors import RunError, SourceError, nearest
from unimol_scale.scaling.runs.counts import flops_per_molecule, groups_of_size
from unimol_scale.scaling.runs.run_records import GROUPS, LOSS, RunRecord, curve_of, diverged
from unimol_scale.scaling.runs.table_checks import check_units_agree, numbers_of

# Columns that a table can have. The column of a loss term is named "loss/TERM".
COLUMNS = ("N", "D", "C", "S", "U", "lr", "batch", "loss", "weight", "name", "size")
SUFFIXES = (".csv", ".tsv", ".parquet")
D_FROM_C = "C/(6N)"
C_FROM_ND = "6ND"
C_FROM_MODEL = "model@"
EXPRESSIONS = {"C/(6N)": D_FROM_C, "C/6N": D_FROM_C, "C/6/N": D_FROM_C, "C/6/(N)": D_FROM_C, "6ND": C_FROM_ND}
TERM = "loss/"
COUNTS = ("N", "D", "C", "S", "U", "batch")  # columns whose values may be written as 84M or 1.1B


@dataclass(frozen=True)
class TableRow:
    """One row: where it comes from, its number from 1 below the header, and its values by header."""

    source: str
    number_in_table: int
    values: Mapping[str, Any]

    def text(self, header: str) -> str:
        value = self.values.get(header)
        return "" if value is None else str(value)


@dataclass(frozen=True)
class ColumnTable:
    """A table in memory: its name in messages, and header → values, all of equal length."""

    name: str
    columns: Mapping[str, Sequence[Any]]

    def __str__(self) -> str:
        return self.name


def read_table(
    path: Path | ColumnTable, headers: Mapping[str, str], trajectories: bool = False
) -> tuple[list[RunRecord], list[str]]:
    """Read a table of losses.

    Args:
        path: a .csv or .tsv file with a header line, a .parquet file, or a table in memory.
        headers: one of ``COLUMNS`` or "loss/TERM" → the header of that column; by default the header equals the name.
            Three values can be computed: D as "C/(6N)" and C as "6ND", as for language models, and C as "model@ATOMS"
            from the computed FLOPs of the preset in the column ``size`` for molecules of that many atoms. Without a
            column N, the number of parameters of the preset is used.
        trajectories: rows of the same name are validations of one run.

    Returns:
        The runs, and a note on every run that was left out.

    Raises:
        RunError: there are no rows, a column is unknown or missing, or a value is not a number.
    """
    for key in headers:
        if key not in COLUMNS and not key.startswith(TERM):
            raise RunError(f"unknown column {key!r}; {nearest(key, COLUMNS)}, or loss/TERM")
    found, rows = rows_of(path)
    if not rows:
        raise RunError(f"{path} has no rows below its header")
    chosen = {key: _expression(headers.get(key, key)) for key in (*COLUMNS, *headers)}
    chosen |= {header: header for header in found if header.startswith(TERM)}
    _check_columns(path, found, headers, chosen, trajectories)
    records = _records(rows, found, chosen)
    records, notes = _join(path, records) if trajectories else (records, [])
    check_units_agree(records)
    return records, notes


def rows_of(path: Path | ColumnTable) -> tuple[list[str], list[TableRow]]:
    """Return the headers and rows of a table, in a file or in memory.

    Raises:
        RunError: the table cannot be read.
    """
    if isinstance(path, ColumnTable):
        return _read_columns(path)
    if not path.is_file():
        raise RunError(f"{path} does not exist")
    return _read_parquet(path) if path.suffix == ".parquet" or is_parquet(path) else _read_csv(path)


def _check_columns(
    path: Path | ColumnTable,
    found: Sequence[str],
    headers: Mapping[str, str],
    chosen: Mapping[str, str],
    trajectories: bool,
) -> None:
    computed = {
        key for key in ("D", "C") if chosen[key] in (D_FROM_C, C_FROM_ND) or chosen[key].startswith(C_FROM_MODEL)
    }
    if computed == {"D", "C"} and not chosen["C"].startswith(C_FROM_MODEL):
        raise RunError("--column D=C/(6N) and C=6ND depend on each other; one of D and C must be a column of the table")
    required = {"loss", "D", *headers} - computed
    if chosen["D"] == D_FROM_C:
        required |= {"C"}
    required |= {"size"} if chosen["C"].startswith(C_FROM_MODEL) else set()
    required |= {"N"} if chosen["size"] not in found else set()
    required |= {"name"} if trajectories else set()
    missing = [key for key in ("N", "D", "C", *sorted(required)) if key in required and chosen[key] not in found]
    if missing:
        raise RunError(_missing(path, list(dict.fromkeys(missing)), found, chosen))
    twice = [key for key in chosen if found.count(chosen[key]) > 1]
    if twice:
        raise RunError(f"{path} has two columns {chosen[twice[0]]!r}; rename the wrong one")


def _missing(path: Path | ColumnTable, keys: Sequence[str], found: Sequence[str], chosen: Mapping[str, str]) -> str:
    names = " and no column ".join(f"{chosen[key]!r} for {key}" for key in keys)
    text = f"{path} has no column {names}; name it with --column {keys[0]}=HEADER; {nearest(chosen[keys[0]], found)}"
    if "D" in keys and chosen["D"] == "D":
        # Language models usually report parameters and compute, which give the data.
        known = "it has N and C, from which" if {chosen["N"], chosen["C"]} <= set(found) else "where it has N and C,"
        text += f'; {known} D can be computed: --column "D={D_FROM_C}"'
    return text


def _expression(text: str) -> str:
    """Return a formula of ``--column`` in this file's spelling, and any other text unchanged."""
    return EXPRESSIONS.get(re.sub(r"[\s*·]", "", text), text)


def _read_columns(table: ColumnTable) -> tuple[list[str], list[TableRow]]:
    lengths = {header: len(values) for header, values in table.columns.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{header!r} has {length}" for header, length in lengths.items())
        raise RunError(f"{table}: its columns have different lengths: {shown}")
    values = zip(*table.columns.values(), strict=True)
    rows = [
        TableRow(f"{table}: row {number}", number, dict(zip(table.columns, row, strict=True)))
        for number, row in enumerate(values, start=1)
    ]
    return list(table.columns), rows


def _read_csv(path: Path) -> tuple[list[str], list[TableRow]]:
    found: list[str] = []
    rows = []
    try:
        with open_text(path, errors="surrogateescape") as lines:
            for record in read_records(str(path), lines):
                found, where = record.names, f"{path}: {record.place}"
                if record.problem:
                    raise SourceError(record.problem)
                check_decoded(str(path), record.line, "".join(record.fields))
                if any(field.strip() for field in record.fields[len(found) :]):
                    counts = f"{len(record.fields)} fields, the header has {len(found)}"
                    raise SourceError(f"{where} has {counts}; is a quote not closed, or a comma not quoted?")
                rows.append(
                    TableRow(where, record.row, dict(zip_longest(found, record.fields[: len(found)], fillvalue="")))
                )
    except SourceError as error:
        raise RunError(f"the table cannot be read: {error}") from error
    return found, rows


def _read_parquet(path: Path) -> tuple[list[str], list[TableRow]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise RunError(f"{path} is not a Parquet table: {error}") from error
    rows = [TableRow(f"{path}: row {number}", number, row) for number, row in enumerate(table.to_pylist(), start=1)]
    return list(table.column_names), rows


def _records(rows: Sequence[TableRow], found: Sequence[str], chosen: Mapping[str, str]) -> list[RunRecord]:
    numeric = [key for key in chosen if key not in ("name", "size") and chosen[key] in found]
    sources = [row.source for row in rows]
    columns = {
        key: numbers_of([row.values.get(chosen[key]) for row in rows], chosen[key], sources, counts=key in COUNTS)
        for key in numeric
    }
    by_row = [{key: column[place] for key, column in columns.items()} for place in range(len(rows))]
    return [_record(row, numbers, found, chosen) for row, numbers in zip(rows, by_row, strict=True)]


def _record(row: TableRow, numbers: Mapping[str, float], found: Sequence[str], chosen: Mapping[str, str]) -> RunRecord:
    size = row.text(chosen["size"]) or None
    groups = dict(groups_of_size(size)) if size is not None and chosen["N"] not in found else {}
    total = groups.pop("total", math.nan)
    parameters = numbers.get("N", total)
    flops = numbers.get("C")
    if chosen["D"] == D_FROM_C:
        assert flops is not None
        molecules = flops / (6.0 * parameters) if parameters else math.nan
    else:
        molecules = numbers["D"]
    if chosen["C"] == C_FROM_ND:
        flops = 6.0 * parameters * molecules
    elif chosen["C"].startswith(C_FROM_MODEL):
        flops = flops_per_molecule(size or "", _atoms(chosen["C"])) * molecules
    return RunRecord(
        name=row.text(chosen["name"]) or f"row {row.number_in_table}",
        source=row.source,
        size=size,
        parameters=parameters,
        groups=groups if set(groups) == set(GROUPS) else {},
        molecules=molecules,
        steps=_whole(row, chosen["S"], numbers["S"]) if "S" in numbers else None,
        flops=flops,
        unique=numbers.get("U"),
        learning_rate=numbers.get("lr"),
        global_batch_size=_whole(row, chosen["batch"], numbers["batch"]) if "batch" in numbers else None,
        unit="token" if "token" in chosen["D"].casefold() else "sample",
        loss=numbers["loss"],
        terms={key[len(TERM) :]: number for key, number in numbers.items() if key.startswith(TERM)},
        weight=numbers.get("weight", 1.0),
    )


def _atoms(text: str) -> int:
    digits = text.removeprefix(C_FROM_MODEL)
    if not digits.isdigit() or int(digits) == 0:
        raise RunError(f"--column C={text}: give the atoms of a molecule as a whole number, such as C=model@24")
    return int(digits)


def _whole(row: TableRow, header: str, value: float) -> int:
    if not math.isfinite(value) or value != int(value):
        raise RunError(f"{row.source}: {header!r} must be a whole number, not {value}")
    return int(value)


def _join(path: Path | ColumnTable, rows: Sequence[RunRecord]) -> tuple[list[RunRecord], list[str]]:
    """Combine rows of the same name into one run: its last row, with the others as its curve."""
    by_name: dict[str, list[RunRecord]] = {}
    for row in rows:
        by_name.setdefault(row.name, []).append(row)
    records, notes = [], []
    for name, points in by_name.items():
        events: dict[float, dict[str, float]] = {}
        for row in points:
            if row.parameters != points[0].parameters:
                raise RunError(
                    f"{row.source}: the run {name!r} has N = {row.parameters:.6g} here and {points[0].parameters:.6g} "
                    f"in {points[0].source}; all points along a run must have the same size"
                )
            if row.molecules in events:
                raise RunError(f"{row.source}: duplicate row: the run {name!r} has D = {row.molecules:.6g} twice")
            events[row.molecules] = {LOSS: row.loss, **{f"{LOSS}/{key}": value for key, value in row.terms.items()}}
        curve, curve_terms = curve_of(events)
        if diverged(curve):
            notes.append(f"{path}: the run {name!r} was left out because it diverged")
            continue
        last = max(points, key=lambda row: row.molecules)
        records.append(replace(last, curve=curve, curve_terms=curve_terms))
    return records, notes
