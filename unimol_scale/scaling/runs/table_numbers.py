"""Reads the numbers of one column of a table, and says what is wrong with those that are none."""

import re
from collections.abc import Sequence

from unimol_scale.errors import RunError

MOST_NAMED = 5  # rows that a message names
# What is written instead of a number → what to do about it.
SPELLINGS = (
    (re.compile(r"[-+]?[\d.,]+\s*%"), "write them as plain numbers, without %"),
    (re.compile(r"\d{1,3}([,' \u00a0\u202f]\d{3})+(\.\d*)?"), "write them without separators, such as 1000000"),
    (re.compile(r"[-+]?\d+,\d+"), "write them with a decimal point"),
    (
        re.compile(r"[\d.,]+(e[-+]?\d+)?\s*[^\W\d_][\w/.-]*(\s*[\w/.-]+)*", re.IGNORECASE),
        "write all of them as plain numbers in one unit, such as 8.4e7 for 84M",
    ),
)


def numbers_of(values: Sequence[object], header: str, sources: Sequence[str]) -> list[float]:
    """Return the values of a column as numbers.

    Args:
        values: of the column, row by row.
        header: of the column.
        sources: where each row stands, for messages.

    Raises:
        RunError: some are no numbers; it names the rows and says how to write them.
    """
    numbers = [_number(value) for value in values]
    wrong = [place for place, number in enumerate(numbers) if number is None]
    if wrong:
        raise RunError(_complaint(wrong, values, header, sources))
    return [number for number in numbers if number is not None]


def _number(value: object) -> float | None:
    if value is None or isinstance(value, bool):
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return None


def _complaint(wrong: Sequence[int], values: Sequence[object], header: str, sources: Sequence[str]) -> str:
    shown = {place: "" if values[place] is None else str(values[place]) for place in wrong}
    first = f"{sources[wrong[0]]}: {header!r} must be a number, not {shown[wrong[0]]!r}"
    # "FILE: row 3 (line 4)" of the others needs no file again.
    others = [f"{sources[place].rpartition(': ')[2]} has {shown[place]!r}" for place in wrong[1:MOST_NAMED]]
    more = [f"{len(wrong) - MOST_NAMED} more"] if len(wrong) > MOST_NAMED else []
    advice = next((advice for form, advice in SPELLINGS for text in shown.values() if form.fullmatch(text.strip())), "")
    return "; ".join([", ".join([first, *others, *more]), *([advice] if advice else [])])
