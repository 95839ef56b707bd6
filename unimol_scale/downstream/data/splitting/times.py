"""Reads the words of a column of times: numbers, or dates as ISO 8601 writes them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from unimol_scale.errors import ConfigError

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


def read_times(words: Sequence[str], rows: Int64) -> Float64:
    """Return a number for every row that grows with its time, float64 [R].

    Args:
        words: [M] of the column, all numbers (such as 2015 or 20150317) or all dates (2015, 2015-03, 2015-03-17,
            2015-03-17 12:30, 2015-03-17T12:30:05).
        rows: int64 [R], of which the time is needed.

    Raises:
        ConfigError: one has no time, or another word; names the row.
    """
    chosen = [words[row].strip() for row in rows.tolist()]
    numbers = [_number(word) for word in chosen]
    values = numbers if all(value is not None for value in numbers) else [_date(word) for word in chosen]
    for row, word, value in zip(rows.tolist(), chosen, values, strict=True):
        if value is None:
            said = f"has no time, but {word!r}" if word else "has no time"
            raise ConfigError(
                f"split=time: row {row + 1} {said}; write numbers, or dates such as 2015-03-17, in all rows of the "
                "split column, or leave the row out"
            )
    return np.array(values, np.float64)


def _number(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _date(word: str) -> float | None:
    """Return the microseconds since 1970."""
    try:
        date = np.datetime64(word, "us") if word[:1].isdigit() else None  # it takes words such as "today", too
    except ValueError:
        return None
    return None if date is None else float(date.astype(np.int64))
