"""Checks a table of losses: columns contain only numbers, and all rows give N, D, C and the loss in the same units."""

import re
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from unimol_scale.errors import RunError
from unimol_scale.scaling.runs.counts import parse_count
from unimol_scale.scaling.runs.run_records import RunRecord

FloatArray = npt.NDArray[np.float64]

MOST_NAMED = 5  # most rows that a message names
OTHER_UNIT = 1e3  # rows whose C / 6ND differ by this factor are in different units
SMALLEST_MODEL = 2_000  # parameters; a smaller N must be in thousands or millions
FEWEST_MOLECULES = 1_000
GAP = 30.0  # smallest ratio of neighbouring values that suggests a change of unit
PERCENT = (30.0, 300.0)  # median of losses in per cent over median of fractions
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


def numbers_of(values: Sequence[object], header: str, sources: Sequence[str], *, counts: bool = False) -> list[float]:
    """Return the values of a column as numbers.

    Args:
        values: values of the column, row by row.
        header: header of the column.
        sources: where each row comes from, for messages.
        counts: whether the values are counts, which may be written as 84M or 1.1B.

    Raises:
        RunError: some are not numbers; the message names the rows and says how to write them.
    """
    numbers = [_number(value) if not counts else _count(value) for value in values]
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


def _count(value: object) -> float | None:
    number = _number(value)
    return parse_count(value) if number is None and isinstance(value, str) else number


def _complaint(wrong: Sequence[int], values: Sequence[object], header: str, sources: Sequence[str]) -> str:
    shown = {place: "" if values[place] is None else str(values[place]) for place in wrong}
    first = f"{sources[wrong[0]]}: {header!r} must be a number, not {shown[wrong[0]]!r}"
    # For the other rows, "FILE: row 3 (line 4)" need not repeat the file.
    others = [f"{sources[place].rpartition(': ')[2]} has {shown[place]!r}" for place in wrong[1:MOST_NAMED]]
    more = [f"{len(wrong) - MOST_NAMED} more"] if len(wrong) > MOST_NAMED else []
    advice = next((advice for form, advice in SPELLINGS for text in shown.values() if form.fullmatch(text.strip())), "")
    return "; ".join([", ".join([first, *others, *more]), *([advice] if advice else [])])


def check_units_agree(records: Sequence[RunRecord]) -> None:
    """Check that all rows give N, D, C and the loss in the same units.

    Raises:
        RunError: some rows are off by orders of magnitude; the message names them.
    """
    _check_compute(records)
    _check_column(records, "N", [record.parameters for record in records], _in_millions(SMALLEST_MODEL))
    _check_column(records, "D", [record.molecules for record in records], _in_millions(FEWEST_MOLECULES))
    _check_column(records, "the loss", [record.loss for record in records], _in_per_cent)


def _check_column(
    records: Sequence[RunRecord], name: str, values: Sequence[float], is_split: Callable[[FloatArray, FloatArray], bool]
) -> None:
    """Refuse a column whose values form two groups so far apart that only different units explain them."""
    ordered = np.sort(np.asarray(values, dtype=float))
    if len(ordered) < 2 or not np.isfinite(ordered).all() or ordered[0] <= 0:
        return  # single values are checked when points are made
    gaps = ordered[1:] / ordered[:-1]
    place = int(np.argmax(gaps))
    low, high = ordered[: place + 1], ordered[place + 1 :]
    if gaps[place] < GAP or not is_split(low, high):
        return
    few = [
        record for record, value in zip(records, values, strict=True) if (value <= low[-1]) == (len(low) < len(high))
    ]
    named = ", ".join(record.source for record in few[:MOST_NAMED])
    more = f" and {len(few) - MOST_NAMED} more" if len(few) > MOST_NAMED else ""
    raise RunError(
        f"the rows give {name} in different units: some have {low[0]:.4g} to {low[-1]:.4g}, others {high[0]:.4g} to "
        f"{high[-1]:.4g}; the fewer are {named}{more}; write every column in one unit"
    )


def _in_millions(floor: float) -> Callable[[FloatArray, FloatArray], bool]:
    return lambda low, high: bool(low[0] < floor <= high[0])


def _in_per_cent(low: FloatArray, high: FloatArray) -> bool:
    return bool(PERCENT[0] <= np.median(high) / np.median(low) <= PERCENT[1])


def _check_compute(records: Sequence[RunRecord]) -> None:
    known = [record for record in records if record.flops and record.parameters and record.molecules]
    ratios = np.array([(record.flops or 0.0) / (6.0 * record.parameters * record.molecules) for record in known])
    if len(known) < 2 or not np.isfinite(ratios).all() or ratios.min() <= 0:
        return  # single values are checked when points are made
    usual = float(np.exp(np.median(np.log(ratios))))
    wrong = [place for place, ratio in enumerate(ratios) if not 1 / OTHER_UNIT < ratio / usual < OTHER_UNIT]
    if wrong:
        named = ", ".join(f"{known[place].source} has {ratios[place]:.2g}" for place in wrong[:MOST_NAMED])
        more = f" and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
        raise RunError(
            f"the rows give N, D or C in different units: C/(6ND) is about {usual:.2g} in most rows, but {named}{more}"
            "; write every column in one unit"
        )
