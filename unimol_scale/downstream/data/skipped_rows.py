"""Handles rows without a usable molecule: they stop the work, or are listed in a table beside its output."""

import csv
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.csv

from unimol_scale.common.files import TEMPORARY_SUFFIX, commit_file, flush
from unimol_scale.errors import SourceError

ROW_NUMBERS = "rows are counted from 1, without the header"
REMEDY = "Correct them, or leave them out with --skip-bad, which lists them in a table"
NAMED = 5  # number of rows named in a message
# Rows are counted from 1 in the table, without the header.
COLUMNS = ("row", "smiles", "reason", "detail")


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A row without a molecule.

    Attributes:
        row: number of the row, from 0.
        smiles: SMILES as given.
        reason: short reason, by which rows are counted.
        detail: details of this row.
    """

    row: int
    smiles: str
    reason: str
    detail: str


class UnusableRowsError(SourceError):
    """Rows have no usable molecule, and may not be skipped.

    Args:
        message: message for the user.
        skipped: the rows.
    """

    def __init__(self, message: str, skipped: Sequence[Skipped] = ()) -> None:
        super().__init__(message)
        self.skipped = tuple(skipped)


def count_reasons(skipped: Sequence[Skipped]) -> dict[str, int]:
    """Return reason → number of rows skipped for it, sorted by reason."""
    return dict(sorted(Counter(one.reason for one in skipped).items()))


def refuse_skipped(skipped: Sequence[Skipped], num_rows: int, where: str, remedy: str) -> None:
    """Raise an error that names the first of the rows that were skipped; do nothing if there are none.

    Args:
        skipped: rows without a molecule.
        num_rows: total number of rows, for the message.
        where: the file with the rows, for the message.
        remedy: what the user can do, for the message.

    Raises:
        UnusableRowsError: a row was skipped.
    """
    if not skipped:
        return
    first = "; ".join(f"row {s.row + 1} {s.smiles!r}: {s.reason} ({s.detail})" for s in skipped[:NAMED])
    more = f"; and {len(skipped) - NAMED:,} more" if len(skipped) > NAMED else ""
    raise UnusableRowsError(
        f"{where}: {len(skipped):,} of {num_rows:,} rows have no usable molecule: {first}{more}. {remedy} "
        f"({ROW_NUMBERS})",
        skipped,
    )


def refuser_for(file: Path | str, num_rows: int) -> Callable[[Sequence[Skipped]], None]:
    """Return ``refuse_skipped`` for the rows of one file, as an argument for ``prepare``."""
    return functools.partial(refuse_skipped, num_rows=num_rows, where=str(file), remedy=REMEDY)


def write_skipped(path: Path, skipped: Sequence[Skipped]) -> None:
    """Write skipped rows to a CSV file with the columns ``COLUMNS``."""
    values = ([s.row + 1 for s in skipped], *([getattr(s, name) for s in skipped] for name in COLUMNS[1:]))
    table = pa.table(dict(zip(COLUMNS, values, strict=True)))
    commit_file(path, lambda temporary: pyarrow.csv.write_csv(table, temporary))


class SkippedTable:
    """Writes skipped rows as they occur. After the block the table is complete, or absent if there are none.

    A table of an earlier run is removed, because a reader would mistake it for this run's.

    Args:
        path: the table to write.
        source: the file with the rows, for messages.
        skip_bad: whether rows may be skipped at all.

    Attributes:
        rows: number of rows written so far.
        first: the first few of these rows.
    """

    def __init__(self, path: Path, source: Path, *, skip_bad: bool) -> None:
        self._path, self._source, self._skip_bad = path, source, skip_bad
        self._temporary = path.with_name(f".{path.name}{TEMPORARY_SUFFIX}")
        self.rows = 0
        self.first: list[Skipped] = []

    def __enter__(self) -> "SkippedTable":
        self._path.unlink(missing_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.rows and kind is None:
            flush(self._temporary)
            self._temporary.replace(self._path)
        self._temporary.unlink(missing_ok=True)

    def add(self, skipped: Sequence[Skipped]) -> None:
        """Append rows.

        Raises:
            UnusableRowsError: there are such rows, and ``skip_bad`` is False.
        """
        if not skipped:
            return
        if not self._skip_bad:
            refuse_skipped(skipped, len(skipped), f"{self._source}, after usable rows", REMEDY)
        with self._temporary.open("w" if not self.rows else "a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            if not self.rows:
                writer.writerow(COLUMNS)
            writer.writerows((s.row + 1, s.smiles, s.reason, s.detail) for s in skipped)
        self.first = [*self.first, *skipped][:NAMED]
        self.rows += len(skipped)
