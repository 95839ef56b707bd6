"""Reads a split from a file beside the data: a table of ids and parts, or arrays of indices by part.

PCQM4Mv2's own split, split_dict.pt, is a torch file of NumPy arrays. Loading such a file can construct arrays of numbers
and runs no other code that the file names. PyTorch is imported only for such files.

Shapes: M rows of the data.
"""

import csv
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from conformer_gen.sources.columns import ID_NAMES, find_column
from conformer_gen.sources.inputs.file_names import bare_suffix
from unimol_scale.common.text.text_files import is_parquet, open_text
from unimol_scale.downstream.data.splitting.parts import ABSENT
from unimol_scale.errors import SourceError

Int64 = npt.NDArray[np.int64]

SPLIT_COLUMN = "split"
ARRAYS = (".pt", ".pth", ".npz")
# What a torch file may use to construct integer arrays; the constructor has different names in NumPy 1 and 2.
_MAKE_ARRAY: Any = np.empty(0).__reduce__()[0]
_MAKERS: list[Any] = [
    *((_MAKE_ARRAY, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.int64, np.int32)),
]


def read_split_file(
    path: Path, ids: Sequence[str] | None, num_rows: int, column: str | None, *, counts_rows: bool
) -> tuple[str, ...]:
    """Return the word of each row, [M], such as "train" or "test-dev"; ``ABSENT`` for rows that the file lacks.

    Args:
        path: table with a column of ids and one of parts (CSV, TSV, Parquet); or index arrays by part, from torch (.pt)
            or NumPy (.npz), where index i is the row with the id i.
        ids: [M] ids of the rows; None if the data has none.
        num_rows: number of rows M.
        column: column of the parts in a table; None: "split".
        counts_rows: if ids are not whole numbers, treat indices as row numbers from 0; if False, that is an error.

    Raises:
        SourceError: the file is damaged, has another format or names a row twice, or the ids are not indices.
    """
    if path.suffix.lower() in ARRAYS:
        return _by_index(path, _read_arrays(path), _indices_of(path, ids, num_rows, counts_rows))
    if ids is None:
        raise SourceError(f"{path} names rows by id, but the data has no column of ids ({', '.join(ID_NAMES)})")
    word_of = _read_words(path, column)
    return tuple(word_of.get(name, ABSENT) for name in ids)


def _read_words(path: Path, column: str | None) -> dict[str, str]:
    """Return id → word of a table."""
    pairs = _parquet_pairs(path, column) if is_parquet(path) else _text_pairs(path, column)
    word_of: dict[str, str] = {}
    for name, word in pairs:
        if word_of.setdefault(name, word) != word:
            raise SourceError(f"{path}: the id {name!r} is {word_of[name]!r} in one row and {word!r} in another")
    return word_of


def _places(path: Path, names: Sequence[str], column: str | None) -> tuple[int, int]:
    id_at = find_column(str(path), names, None, ID_NAMES)
    if id_at is None:
        raise SourceError(f"{path} has no column of ids ({', '.join(ID_NAMES)}), but {', '.join(names)[:300]}")
    part_at = find_column(str(path), names, column or SPLIT_COLUMN, ())
    assert part_at is not None, "find_column raises an error if a requested column is missing"
    return id_at, part_at


def _parquet_pairs(path: Path, column: str | None) -> Iterable[tuple[str, str]]:
    try:
        names = pq.read_schema(path).names
        chosen = [names[at] for at in _places(path, names, column)]
        table = pq.read_table(path, columns=chosen)
    except (pa.ArrowInvalid, OSError) as error:
        raise SourceError(f"split file {path} cannot be read: {error}") from error
    columns = (table.column(name).to_pylist() for name in chosen)
    for name, word in zip(*columns, strict=True):
        yield str(name).strip(), ABSENT if word is None else str(word).strip()


def _text_pairs(path: Path, column: str | None) -> Iterable[tuple[str, str]]:
    if bare_suffix(path.name) not in (".csv", ".tsv"):
        raise SourceError(f"split file {path}: its name must end in .csv, .tsv, .parquet, {', '.join(ARRAYS)}")
    with open_text(path) as lines:
        records = csv.reader(lines, delimiter="\t" if bare_suffix(path.name) == ".tsv" else ",")
        names = [name.strip() for name in next(records, [])]
        id_at, part_at = _places(path, names, column)
        for fields in records:
            if not fields:
                continue
            if len(fields) != len(names):
                raise SourceError(
                    f"{path}: line {records.line_num} has {len(fields)} fields, the header has {len(names)}"
                )
            yield fields[id_at].strip(), fields[part_at].strip()


def _read_arrays(path: Path) -> dict[str, Int64]:
    """Return part → indices, int64, of a file of arrays."""
    try:
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                content: object = dict(archive)
        else:
            import torch  # imported here, because results can be read without it

            with torch.serialization.safe_globals(_MAKERS), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch on old pickle protocols
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of many classes
        kind = type(error).__name__
        raise SourceError(
            f"split file {path} cannot be loaded: it is damaged, or holds something other than arrays of numbers ({kind})"
        ) from error
    if not isinstance(content, Mapping) or not content:
        raise SourceError(f"split file {path} must hold arrays of indices by part, not {type(content).__name__}")
    return {str(part): _indices(path, str(part), value) for part, value in content.items()}


def _indices(path: Path, part: str, value: object) -> Int64:
    array = np.asarray(value)
    if array.ndim != 1 or array.dtype.kind not in "iu" or (len(array) and array.min() < 0):
        raise SourceError(f"split file {path}: {part!r} must be a list of indices from 0, got {array.dtype}{array.shape}")
    return array.astype(np.int64)


def _by_index(path: Path, parts: Mapping[str, Int64], index_M: Int64) -> tuple[str, ...]:
    names = list(parts)
    most = max((int(indices.max()) for indices in parts.values() if len(indices)), default=-1)
    part_of = np.full(most + 2, -1, np.int16)  # the last: indices beyond all parts
    for place, (name, indices) in enumerate(parts.items()):
        taken = part_of[indices] >= 0
        if taken.any() or len(np.unique(indices)) < len(indices):
            shown = indices[taken][:1].tolist()
            raise SourceError(f"split file {path}: an index of {name!r} occurs twice {shown or ''}".rstrip())
        part_of[indices] = place
    place_M = part_of[np.minimum(index_M, most + 1)]
    return tuple(names[place] if place >= 0 else ABSENT for place in place_M.tolist())


def _indices_of(path: Path, ids: Sequence[str] | None, num_rows: int, counts_rows: bool) -> Int64:
    """Return the index of each row, [M]."""
    odd = [] if ids is None else [name for name in ids if not (name.isascii() and name.isdigit())]
    if ids is not None and not odd:
        return np.array([int(name) for name in ids], np.int64)
    if counts_rows:
        return np.arange(num_rows, dtype=np.int64)
    shown = f"such as {odd[0]!r}" if odd else "of which there are none"
    raise SourceError(
        f"{path} has indices, but the ids of the molecules, {shown}, are not whole numbers; give a table with the "
        "columns id and split"
    )
