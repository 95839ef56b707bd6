"""ASE's databases as a source: SQLite files (.db) and fairchem's LMDB files (.aselmdb).

Both are read without ASE: as columns of plain numbers and as JSON, so nothing that a file names is imported, unpickled
or evaluated. Of SQLite files, arrays are blobs of little-endian numbers. Of LMDB files, a key is the row's number in
decimals and its value the JSON of a row, compressed by zlib, where an array is a list or ``{"__ndarray__": [shape,
dtype, numbers]}``.
"""

import array
import contextlib
import functools
import json
import sqlite3
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conformer_gen.sources.columns import number
from conformer_gen.sources.file_range import LOWEST, WHOLE, FileRange, even_ranges, ranges_between
from conformer_gen.sources.frame_files.frames import Frame, bad_frame, group_frames
from conformer_gen.sources.frame_settings import FrameFormat, FramesConfig
from conformer_gen.sources.inputs.file_names import stem
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.source import Source, SourceSettings
from unimol_scale.errors import SourceError, StoreError
from unimol_scale.store.lmdb_files.lmdb_pages import LmdbPages, Place

SQLITE_MAGIC = b"SQLite format 3\0"
MOST_BYTES = 16 << 20  # of one row, unpacked: 3,000 atoms with forces take half a megabyte
BLOBS = {
    "numbers": "<i4",
    "positions": "<f8",
    "cell": "<f8",
    "forces": "<f8",
    "charges": "<f8",
    "initial_charges": "<f8",
}
COLUMNS = (*BLOBS, "pbc", "energy", "charge", "key_value_pairs")
SUM_OF_CHARGES_WITHIN = 0.1  # of a whole number, to be taken for the net charge
LONGEST_KEY = 19  # digits of a number of 64 bits

Row = dict[str, Any]


def read_ase_db(path: Path, config: SourceSettings, within: FileRange = WHOLE) -> Iterator[SourceMolecule]:
    """Yield one row for each molecule, with its frames as conformers, and one for each row that cannot be read.

    Args:
        path: the database.
        config: how it is read.
        within: range of the rows' numbers.

    Raises:
        SourceError: the file is neither kind of database, or a label is not a number.
    """
    settings = ASE_DB_FORMAT.resolved(config.frames)
    rows = (_sqlite_rows if _is_sqlite(path) else _lmdb_rows)(path, within)
    return group_frames(_frames(stem(path.name), rows, settings, config.labels, within), settings, within)


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC


def ase_db_ranges(path: Path, config: SourceSettings, most: int) -> list[FileRange]:
    """Return ranges of the rows' numbers; the whole file if these cannot be found out."""
    try:
        return _sqlite_ranges(path, most) if _is_sqlite(path) else _lmdb_ranges(path, most)
    except (sqlite3.Error, UnicodeDecodeError, StoreError):  # the reader says what is wrong
        return [WHOLE]


def _sqlite_ranges(path: Path, most: int) -> list[FileRange]:
    with contextlib.closing(_connected(path)) as connection:
        if not _columns(connection):
            return [WHOLE]
        first, last = connection.execute("SELECT min(id), max(id) FROM systems").fetchone()
    if not isinstance(first, int) or not isinstance(last, int):
        return [WHOLE]
    return even_ranges(first, last + 1, most)


def _lmdb_ranges(path: Path, most: int) -> list[FileRange]:
    with LmdbPages(path) as pages:
        numbers = np.sort(np.fromiter((int(key) for key, _ in pages.places() if _is_row(key)), np.int64))
    return ranges_between([int(numbers[at.first]) for at in even_ranges(0, len(numbers), most)[1:]])


def _frames(
    where: str,
    rows: Iterator[tuple[str, Callable[[], Row]]],
    settings: FramesConfig,
    labels: Mapping[str, str],
    within: FileRange,
) -> Iterator[Frame | SourceMolecule]:
    key = ""
    for key, read in rows:
        name = f"{where}:{key}"
        try:
            row = read()
            found = {**_members(row, "data"), **_members(row, "key_value_pairs")}
            found |= {key: value for key, value in row.items() if value is not None}
            frame = _frame(name, found, settings)
        except (zlib.error, ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
            yield bad_frame(name, "unreadable_row", f"{type(error).__name__}: {str(error)[:200]}")
            continue
        values = tuple(number(found.get(label), f"{name}, {label!r}") for label in labels)
        yield Frame(**frame, labels=values, place=_place(key))
    if not key and within == WHOLE:
        yield bad_frame(where, "no_rows", "the database is empty, or its rows have no numbers for keys")


def _place(key: str) -> int:
    return int(key) if key.removeprefix("-").isdecimal() else LOWEST


def _members(row: Row, name: str) -> Row:
    value = row.get(name)
    return value if isinstance(value, dict) else {}


def _frame(name: str, found: Row, settings: FramesConfig) -> dict[str, Any]:
    fields = settings.fields
    return {
        "id": name,
        "numbers": _array(found[fields["numbers"]], np.int64),
        "positions": _array(found[fields["positions"]], np.float64).reshape(-1, 3),
        "name": _text(found.get(fields.get("name", ""))),
        "smiles": _text(found.get(fields["smiles"])),
        "energy": found.get(fields["energy"]),
        "charge": found.get(fields["charge"]),
        "atom_labels": {
            label: _array(found[fields[label]], np.float64)
            for label in settings.keep
            if found.get(fields[label]) is not None
        },
        "has_cell": _is_periodic(found.get("cell"), found.get("pbc", True)),
    }


def _array(value: Any, kind: type[np.generic]) -> npt.NDArray[Any]:  # noqa: ANN401
    if isinstance(value, dict) and "array" in value:  # of a cell
        value = value["array"]
    if isinstance(value, dict):
        shape, _, flat = value["__ndarray__"]
        array = np.asarray(flat)
        if array.size and array.size != np.prod(shape):
            raise ValueError(f"an array of shape {shape} has {array.size} numbers")
        value = array.reshape(shape)
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"an array holds {array.dtype}, no numbers")
    return array.astype(kind)


def _is_periodic(cell: Any, pbc: Any) -> bool:  # noqa: ANN401
    """Return whether there is a cell that repeats; ASE writes one of zeros for molecules."""
    flags = pbc["__ndarray__"][2] if isinstance(pbc, dict) else pbc
    return cell is not None and bool(np.any(_array(cell, np.float64))) and bool(np.any(flags))


def _text(value: Any) -> str:  # noqa: ANN401
    return "" if value is None else str(value)


def _connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    if sys.version_info >= (3, 11):
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_BYTES)
    connection.text_factory = _replaced
    return connection


def _columns(connection: sqlite3.Connection) -> list[str]:
    """Return the columns of the table of systems that are read; none if it is not one of ASE's."""
    # A view of that name would be a program of the file's.
    is_table = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'systems' AND type = 'table'")
    there = {row[1] for row in connection.execute("PRAGMA table_info(systems)")}
    if is_table.fetchone() is None or not {"id", "numbers", "positions"} <= there:
        return []
    return [name for name in COLUMNS if name in there]


def _sqlite_rows(path: Path, within: FileRange) -> Iterator[tuple[str, Callable[[], Row]]]:
    begun = not within.begins_file
    try:
        with contextlib.closing(_connected(path)) as connection:
            if not (columns := _columns(connection)):
                raise SourceError(f"{path} is not a database of ASE: it has no table of systems")
            some = "" if within.begins_file else f"WHERE id >= {within.first}"
            for key, *values in connection.execute(f"SELECT id, {', '.join(columns)} FROM systems {some} ORDER BY id"):
                begun = True
                yield str(key), functools.partial(_from_columns, dict(zip(columns, values, strict=True)))
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter of a damaged schema
        if not begun:
            raise SourceError(f"{path} cannot be read: {error}") from error
        yield "rest", functools.partial(_fail, f"the file cannot be read to its end: {error}")


def _replaced(text: bytes) -> str:
    return text.decode("utf-8", "replace")


def _fail(problem: str) -> Row:
    raise ValueError(problem)


def _from_columns(row: Row) -> Row:
    for name, kind in BLOBS.items():
        blob = row.get(name)
        if blob is not None:
            if not isinstance(blob, bytes):
                raise TypeError(f"{name} is {blob!r}, no blob")
            row[name] = np.frombuffer(blob, kind)
    # ASE writes the sum of the atoms' initial charges, and 0 where there are none.
    total, initial = row.pop("charge", None), row.get("initial_charges")
    if initial is not None and isinstance(total, float) and abs(total - round(total)) < SUM_OF_CHARGES_WITHIN:
        row["charge"] = round(total)
    if row.get("charges") is None:
        row["charges"] = initial
    row["key_value_pairs"] = _object(row.get("key_value_pairs") or "{}")
    forces = row.get("forces")
    if forces is not None:
        row["forces"] = forces.reshape(-1, 3)
    return row


def _lmdb_rows(path: Path, within: FileRange) -> Iterator[tuple[str, Callable[[], Row]]]:
    problem = ""
    try:
        pages = LmdbPages(path)
    except StoreError as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
    with pages:
        found = array.array("q")  # number, and where the row begins and how long it is: 24 bytes a row
        try:
            for key, place in pages.places():
                if _is_row(key):
                    found.extend((int(key), *place))
        except StoreError as error:
            problem = str(error)
        rows = np.frombuffer(found, np.int64).reshape(-1, 3)
        rows = rows[rows[:, 0] >= within.first]
        for at in np.argsort(rows[:, 0], kind="stable"):  # the keys' own order is that of their bytes
            number, begin, size = rows[at].tolist()
            yield str(number), functools.partial(_unpacked, pages, (begin, size))
    if problem:
        yield "rest", functools.partial(_fail, problem)


def _is_row(key: bytes) -> bool:
    return key.isdigit() and len(key) < LONGEST_KEY


def _unpacked(pages: LmdbPages, place: Place) -> Row:
    value = pages.value(place, MOST_BYTES)
    if value[:1] == b"\x80":
        raise ValueError("it is a pickle, which is not read; write it anew as .aselmdb")
    machine = zlib.decompressobj()
    text = machine.decompress(value, MOST_BYTES)
    if machine.unconsumed_tail or not machine.eof:
        raise ValueError(f"its record is cut off, or has more than {MOST_BYTES:,} bytes")
    return _object(text)


def _object(text: str | bytes) -> Row:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("its record is not an object of JSON")
    return value


ASE_DB_FORMAT = FrameFormat(
    units={"positions": "Å", "energy": "eV", "forces": "eV/Å", "charges": "e"},
    fields={name: name for name in ("numbers", "positions", "energy", "forces", "charges", "charge", "smiles", "name")},
)
ASE_DB = Source(
    name="ase-db",
    suffixes=(".db", ".aselmdb"),
    read_file=read_ase_db,
    ranges=ase_db_ranges,
    read_range=read_ase_db,
    geometry="all",
    takes_labels=True,
    frames=ASE_DB_FORMAT,
)
