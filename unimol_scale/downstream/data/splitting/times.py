"""Reads a column of times: numbers, or dates in ISO 8601 format."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from unimol_scale.errors import ConfigError

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


def read_times(words: Sequence[str], rows: Int64) -> Float64:
    """Return a number for every row that increases with its time, float64 [R].

    Args:
        words: [M] content of the column, all numbers (such as 2015 or 20150317) or all dates (2015, 2015-03,
            2015-03-17, 2015-03-17 12:30, 2015-03-17T12:30:05).
        rows: numbers of the rows whose time is needed, int64 [R].

    Raises:
        ConfigError: a row has no time, or something else. The message gives the row.
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
    """Return the microseconds since 1970; None if the word is not a date."""
    try:
        date = np.datetime64(word, "us") if word[:1].isdigit() else None  # NumPy also accepts words such as "today"
    except ValueError:
        return None
    return None if date is None else float(date.astype(np.int64))
