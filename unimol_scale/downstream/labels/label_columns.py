"""Reads a column of labels: numbers, or class names, which become numbers from 0. Does not import RDKit.

Shapes: M rows, K classes.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from conformer_gen.sources.columns import MISSING, has_decimal_comma, number
from unimol_scale.downstream.config import Task
from unimol_scale.errors import ConfigError, SourceError, nearest

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

ROWS_SHOWN = 3
_BOUND = re.compile(r"(?P<sign>>=|<=|[<>≤≥])\s*(?P<value>[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?)")
MOST_NAMES = 20  # a column with more different names is read as classes only if the task requires it


@dataclass(frozen=True, kw_only=True)
class LabelReading:
    """How labels are read.

    Attributes:
        task: kind of the labels; None: inferred from the labels.
        positive: with two classes, name of the class that is 1; None: the alphabetically last one.
        order: for task ordinal, the classes from the lowest; empty: classes are whole numbers.
        censored: whether values such as ">10" are bounds.
    """

    task: Task | None = None
    positive: str | None = None
    order: tuple[str, ...] = ()
    censored: bool = False


@dataclass(frozen=True, kw_only=True)
class LabelColumn:
    """Labels of one target.

    Attributes:
        value_M: float64, NaN where missing; for classes, their numbers from 0 in the order of ``classes``.
        classes: [K] names of the classes; empty if labels are numbers.
        bound_M: float64 bounds, NaN for rows without one; a row with a bound has no value. None: there are no bounds.
        side_M: float64, 1 where the label lies above the bound, -1 where below, 0 elsewhere; None: there are no bounds.
    """

    value_M: Float64
    classes: tuple[str, ...] = ()
    bound_M: Float64 | None = None
    side_M: Float64 | None = None


NUMBERS_OR_NAMES = LabelReading()


def read_labels(
    where: str, target: str, column: pa.ChunkedArray, smiles: Sequence[str], how: LabelReading
) -> LabelColumn:
    """Return the labels of a column.

    With tasks multiclass and ordinal, the values are class names: whole numbers are sorted as numbers, names
    alphabetically. Otherwise the column must hold numbers, or only few different names, which are classes.

    Args:
        where: name of the file, for messages.
        target: name of the column.
        column: [M] values as stored in the file.
        smiles: [M] SMILES, for messages.
        how: how to read the labels.

    Raises:
        SourceError: a label is neither a number nor a class; names the first rows.
        ConfigError: the positive class is not one of two.
    """
    if how.task in ("multiclass", "ordinal"):
        return code_classes(where, target, _texts(column), smiles, how)
    value_M, wrong = numbers(column)
    if how.censored and len(wrong):
        return _with_bounds(where, target, column, smiles, value_M, wrong)
    if how.task == "regression" or not (len(wrong) or how.positive is not None):
        if len(wrong):
            refuse(where, target, column, wrong, smiles)
        return LabelColumn(value_M=value_M)
    texts = _texts(column)
    if how.positive is None and not _are_names(value_M, texts, asked=how.task is not None):
        refuse(where, target, column, wrong, smiles)
    return code_classes(where, target, texts, smiles, how)


def code_classes(
    where: str, target: str, texts: Sequence[str | None], smiles: Sequence[str], how: LabelReading
) -> LabelColumn:
    """Return labels that are names as numbers from 0.

    Args:
        where: name of the data, for messages.
        target: name of the labels.
        texts: [M] names, None where missing.
        smiles: [M] SMILES, for messages.
        how: the task, and which class is positive.

    Raises:
        SourceError: the labels are not classes: nearly all are different, a number is not whole, or there is only one
            class.
        ConfigError: the positive class is not one of two.
    """
    texts = [text if text is None else _whole(text) for text in texts]
    names = _sorted_names({text for text in texts if text is not None})
    present = sum(text is not None for text in texts)
    if not names:
        raise SourceError(f"{where}: all {len(texts):,} labels of the target {target!r} are missing")
    if fractions := [row for row, text in enumerate(texts) if text is not None and _is_fraction(text)]:
        shown = named_rows(np.array(fractions), smiles, [texts[row] for row in fractions[:ROWS_SHOWN]])
        raise SourceError(f"{where}: {len(fractions):,} labels of the target {target!r} are not classes: {shown}")
    if 2 * len(names) > present and len(names) > 2:
        raise SourceError(
            f"{where}: the {present:,} labels of the target {target!r} have {len(names):,} different values, which are "
            "too many to be classes"
        )
    if len(names) == 1:
        raise SourceError(
            f"{where}: all {present:,} labels of the target {target!r} are {names[0]!r}: there is only one class"
        )
    if how.task == "ordinal":
        names = _ordered(where, target, texts, names, smiles, how.order)
    if how.positive is not None:
        names = _with_positive(where, target, names, how.positive)
    place = {name: float(at) for at, name in enumerate(names)}
    return LabelColumn(
        value_M=np.array([np.nan if text is None else place[text] for text in texts]), classes=tuple(names)
    )


def _with_bounds(
    where: str, target: str, column: pa.ChunkedArray, smiles: Sequence[str], value_M: Float64, wrong: Int64
) -> LabelColumn:
    """Return numbers, and bounds for values such as ">10"."""
    bound_M, side_M = np.full(len(value_M), np.nan), np.zeros(len(value_M))
    others = []
    for row in wrong.tolist():
        found = _BOUND.fullmatch(str(column[row].as_py()).strip())
        if found is None or not np.isfinite(float(found["value"])):
            others.append(row)
            continue
        bound_M[row], side_M[row] = float(found["value"]), 1.0 if found["sign"][0] in ">≥" else -1.0
    if others:
        refuse(where, target, column, np.array(others, np.int64), smiles)
    return LabelColumn(value_M=value_M, bound_M=bound_M, side_M=side_M)


def _ordered(
    where: str, target: str, texts: Sequence[str | None], names: list[str], smiles: Sequence[str], order: Sequence[str]
) -> list[str]:
    """Return the classes, the lowest first."""
    if not order:
        if all(name.lstrip("-").isdigit() for name in names):
            return names
        raise ConfigError(
            f"task ordinal: the classes of {target!r} in {where} are names, whose order is unknown; give --order with "
            f"{', '.join(names)} from the lowest to the highest"
        )
    order = [_whole(name) for name in order]
    if wrong := [row for row, text in enumerate(texts) if text is not None and text not in order]:
        shown = named_rows(np.array(wrong), smiles, [texts[row] for row in wrong[:ROWS_SHOWN]])
        raise SourceError(f"{where}: {len(wrong):,} labels of the target {target!r} are not in --order: {shown}")
    return order


def _with_positive(where: str, target: str, names: Sequence[str], positive: str) -> list[str]:
    """Return the names of two classes, the positive one last."""
    if positive not in names:
        raise ConfigError(
            f"positive: the target {target!r} of {where} has no class {positive!r}; {nearest(positive, names)}"
        )
    if len(names) != 2:
        raise ConfigError(
            f"positive applies to two classes, but the target {target!r} of {where} has {len(names)}: "
            f"{', '.join(names)}"
        )
    return [*(name for name in names if name != positive), positive]


def _are_names(value_M: Float64, texts: Sequence[str | None], *, asked: bool) -> bool:
    """Return whether a column holds class names: no numbers, and only few different texts."""
    present = [text for text in texts if text is not None]
    if not np.isnan(value_M).all() or any(has_decimal_comma(text) or number_like(text) for text in present):
        return False
    distinct = len(set(present))
    return asked or (2 <= distinct <= MOST_NAMES and 2 * distinct <= len(present))


def number_like(text: str) -> bool:
    """Return whether a text is an infinite number, or a number with a comparison sign."""
    try:
        float(text.lstrip("<>=≤≥~ "))
    except ValueError:
        return False
    return True


def _whole(text: str) -> str:
    """Return a whole number as it is usually written, such as 1 for 1.0; other texts are returned unchanged."""
    try:
        value = float(text)
    except ValueError:
        return text
    return str(int(value)) if value.is_integer() else text


def _is_fraction(text: str) -> bool:
    try:
        return not float(text).is_integer()
    except ValueError:
        return has_decimal_comma(text)


def _sorted_names(names: Iterable[str]) -> list[str]:
    """Return names sorted as numbers if all are numbers, otherwise alphabetically."""
    names = list(names)
    try:
        return sorted(names, key=int)
    except ValueError:
        return sorted(names)


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    """Return the values of a column as texts without surrounding space; None if empty or a usual word for missing."""
    texts = ["" if value is None else str(value).strip() for value in column.to_pylist()]
    return [None if text.lower() in MISSING else text for text in texts]


def numbers(column: pa.ChunkedArray) -> tuple[Float64, Int64]:
    """Return the numbers of a column, float64 [M], NaN where missing, and the rows that hold other text, int64."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_boolean(kind):
        column, kind = column.cast(pa.uint8()), pa.uint8()
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan), np.zeros(0, np.int64)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        text = pc.utf8_trim_whitespace(column)
        missing = pc.is_in(pc.utf8_lower(text), value_set=pa.array(MISSING, kind))
        try:
            values = pc.if_else(missing, None, text).cast(pa.float64()).to_numpy()
        except pa.ArrowInvalid:
            return _numbers_one_by_one(column)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        values = column.cast(pa.float64(), safe=False).to_numpy()
    else:
        return np.full(len(column), np.nan), np.arange(len(column))
    infinite = np.isinf(values)
    return np.where(infinite, np.nan, values), np.flatnonzero(infinite)


def _numbers_one_by_one(column: pa.ChunkedArray) -> tuple[Float64, Int64]:
    values, wrong = np.full(len(column), np.nan), []
    for row, value in enumerate(column.to_pylist()):
        try:
            values[row] = number(value, "")
        except SourceError:
            wrong.append(row)
    return values, np.array(wrong, np.int64)


def refuse(where: str, target: str, column: pa.ChunkedArray, wrong: Int64, smiles: Sequence[str]) -> NoReturn:
    """Raise an error that names the first labels that are not numbers."""
    values = [column[row].as_py() for row in wrong[:ROWS_SHOWN].tolist()]
    shown = named_rows(wrong, smiles, values)
    remedy = (
        "correct them, or leave missing labels empty (classes must be 0 and 1, or names in all rows; with --task "
        "multiclass, any values)"
    )
    if any(_BOUND.fullmatch(str(value).strip()) for value in values):
        remedy = "with --censored, values such as >10 are read as bounds"
    elif all(has_decimal_comma(value) for value in values):
        remedy = "write decimals with a point, not with a comma"
    raise SourceError(f"{where}: {len(wrong):,} labels of the target {target!r} are not numbers: {shown}; {remedy}")


def named_rows(rows: Int64, smiles: Sequence[str], values: Iterable[object]) -> str:
    """Return text that names the first rows, with number from 1, SMILES and value, and counts the others."""
    shown = [f"row {row + 1} ({smiles[row]}): {value!r}" for row, value in zip(rows.tolist(), values, strict=False)]
    more = len(rows) - ROWS_SHOWN
    return ", ".join(shown[:ROWS_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
