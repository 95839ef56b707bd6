"""Lines of a delimited table → records: which delimiter, where the header ends, and no row lost to a stray quote.

Rows are counted from 1 below the header, blank lines left out; lines are those of the file. Imports the standard
library only.
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
HEADER_LINES = 50  # no header has more; a quote that is open for longer was never closed

IsRow = Callable[[Sequence[str], Sequence[str]], bool]


class Record(NamedTuple):
    """One record of a table.

    Attributes:
        names: of the columns.
        fields: as many as the record has; none where it could not be taken apart.
        row: its number, from 1 below the header.
        line: of the file, where it begins, from 1.
        problem: what is wrong with it, if anything.
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
    """Yield the records of a table with commas, tabs or semicolons and a header; blank lines are none.

    A quoted field may hold line ends. Where a quote is never closed, or closed only after lines that are rows by
    themselves, the record is its first line with a problem, and the lines after it are read as rows of their own.

    Args:
        name: of the table, for messages.
        lines: of its text, each with its end.
        expected: names in lower case, one of which the header is likely to have: tells the delimiter.
        is_row: whether a line inside a quoted field, which has as many fields as the header, is a row by itself.

    Raises:
        SourceError: a quote in its header is not closed.
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
    """Return the delimiter, and the names of the columns; leave the source behind them."""
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
    """Return the fields of a record that begins in a line with quotes, and what is wrong with it, if anything."""
    more: list[str] = []

    def of_record() -> Iterator[str]:
        yield line
        for further in source:
            more.append(further)
            yield further

    remedy = "mend it (a quote inside a quoted field is written twice)"
    try:
        fields = next(csv.reader(of_record(), delimiter=delimiter, strict=True))
    except csv.Error as error:
        if not more and len(line) < csv.field_size_limit():  # text behind a closing quote: odd, but within its line
            return next(csv.reader([line], delimiter=delimiter)), ""
        source.give_back(more)
        return [], f"a quote in this line is not closed ({error}); {remedy}"
    for further in more:
        inside = further.replace(QUOTE, "").rstrip("\n").split(delimiter)
        if len(inside) == width and is_row(inside):
            source.give_back(more)
            return [], f"a quote in this line is closed only behind further rows; {remedy}"
    return fields, ""
