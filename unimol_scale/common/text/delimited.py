"""Splits the lines of a delimited table into records: finds the delimiter and header, and survives stray quotes.

Rows are counted from 1 below the header, without blank lines; line numbers count every line of the file. Imports the
standard library only.
"""

import collections
import csv
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from unimol_scale.errors import SourceError

DELIMITERS = ",\t;"
QUOTE = '"'
EXCEL_SEPARATOR = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
HEADER_LINES = 50  # no header is longer; a quote that is open for longer was never closed

IsRow = Callable[[Sequence[str], Sequence[str]], bool]


class Record(NamedTuple):
    """One record of a table.

    Attributes:
        names: names of the columns.
        fields: the fields of the record; empty if it could not be split.
        row: number of the row, from 1 below the header.
        line: number of the line in the file at which the record begins, from 1.
        problem: what is wrong with the record; empty if nothing is.
    """

    names: list[str]
    fields: list[str]
    row: int
    line: int
    problem: str = ""

    @property
    def place(self) -> str:
        """Row and line, for messages."""
        return place_of(self.row, self.line)


def place_of(row: int, line: int) -> str:
    """Return how messages name a row of a text file: its number below the header, and its line."""
    return f"row {row} (line {line})"


def _any_row(names: Sequence[str], fields: Sequence[str]) -> bool:
    return True


def read_records(
    name: str, lines: Iterable[str], expected: Collection[str] = (), is_row: IsRow = _any_row
) -> Iterator[Record]:
    """Yield the records of a table that has a header and uses commas, tabs or semicolons; skip blank lines.

    A quoted field may contain line breaks. If a quote is never closed, or closed only after lines that look like rows
    themselves, the record consists of its first line and has a problem, and the next lines are read as separate rows.

    Args:
        name: name of the table, for messages.
        lines: its lines, each with its line end.
        expected: column names in lower case, one of which the header probably has; used to find the delimiter.
        is_row: (column names, fields) → whether a line inside a quoted field is really a row. Called for lines that
            have as many fields as the header.

    Raises:
        SourceError: a quote in the header is not closed.
    """
    source = _Lines(lines)
    delimiter, names = _header(name, source, expected)
    row = 0
    for line in source:
        at, problem = source.number, ""
        if not line.strip(" \n"):
            continue
        row += 1
        if QUOTE not in line:
            fields = line.rstrip("\n").split(delimiter)
        else:
            fields, problem = _quoted(line, source, delimiter, lambda inside: is_row(names, inside), len(names))
        yield Record(names, fields, row, at, f"{name}: {place_of(row, at)}: {problem}" if problem else "")


class _Lines(Iterator[str]):
    """Lines that can be given back, and the number of the last one taken."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._returned: collections.deque[str] = collections.deque()
        self.number = 0

    def __next__(self) -> str:
        line = self._returned.popleft() if self._returned else next(self._lines)
        self.number += 1
        return line

    def give_back(self, lines: Sequence[str]) -> None:
        """Take back the last lines."""
        self._returned.extendleft(reversed(lines))
        self.number -= len(lines)


def _header(name: str, source: _Lines, expected: Collection[str]) -> tuple[str, list[str]]:
    """Return the delimiter and the column names; leave the source at the first line after the header."""
    first = next((line for line in source if line.strip()), None)
    if first is None:
        return DELIMITERS[0], []
    match = EXCEL_SEPARATOR.fullmatch(first.rstrip(" \r\n"))  # not a tab, which may be the separator
    if match is None:
        source.give_back([first])
    head = list(itertools.islice(source, HEADER_LINES))
    start = source.number - len(head) + 1
    found, closed = [], True
    for delimiter in match.group(1) if match else DELIMITERS:
        reader = csv.reader(head, delimiter=delimiter, strict=True)
        try:
            names = next((fields for fields in reader if fields), [])
        except csv.Error:
            closed = False
            continue
        names = [text.strip() for text in names]
        likely = any(text.lower() in expected for text in names)
        found.append(((likely, len(names)), delimiter, names, reader.line_num))
    _, delimiter, names, used = max(found, key=lambda one: one[0], default=((False, 1), "", [], 0))  # first of equals
    if not closed and len(names) < 2:
        raise SourceError(f"{name}: the header in line {start} cannot be read: a quote in it is not closed")
    source.give_back(head[used:])
    return delimiter, names


def _quoted(
    line: str, source: _Lines, delimiter: str, is_row: Callable[[list[str]], bool], width: int
) -> tuple[list[str], str]:
    """Return the fields of a record that begins in a line with quotes, and its problem, empty if there is none."""
    more: list[str] = []

    def of_record() -> Iterator[str]:
        yield line
        for further in source:
            more.append(further)
            yield further

    remedy = "correct it (a quote inside a quoted field is written twice)"
    try:
        fields = next(csv.reader(of_record(), delimiter=delimiter, strict=True))
    except csv.Error as error:
        if not more and len(line) < csv.field_size_limit():  # text after a closing quote: odd, but within its line
            return next(csv.reader([line], delimiter=delimiter)), ""
        source.give_back(more)
        return [], f"a quote in this line is not closed ({error}); {remedy}"
    for further in more:
        inside = further.replace(QUOTE, "").rstrip("\n").split(delimiter)
        if len(inside) == width and is_row(inside):
            source.give_back(more)
            return [], f"a quote in this line is closed only after further rows; {remedy}"
    return fields, ""
