"""Whether the columns of a set of runs mean what a law takes them for: units of N, D and C, and losses that fall.

Training costs about 6·N·D FLOPs where D counts what passes through every parameter once: tokens of a language model. A
molecule has many atoms and pairs, and costs some 5 to 3,000 times as much, by its size.
"""

from collections.abc import Callable, Sequence

import numpy as np

from unimol_scale.errors import RunError
from unimol_scale.scaling.law.laws import Columns, FloatArray
from unimol_scale.scaling.runs.run_records import RunRecord

LEAST, MOST = 0.03, 1e4  # of C / 6ND; a mixture of experts uses a part of its parameters only
# Unit → FLOPs of one.
UNITS = {
    "GFLOP": 1e9,
    "TFLOP": 1e12,
    "PFLOP": 1e15,
    "EFLOP": 1e18,
    "petaflop/s-days": 8.64e19,
    "ZFLOP": 1e21,
}
LIKELY = (0.3, 3e3)  # C / 6ND in the right unit
OTHER_UNIT = 1e3  # rows whose C / 6ND differ by this factor are in different units
SMALLEST_MODEL = 2_000  # parameters; below it N is in thousands or millions
FEWEST_MOLECULES = 1_000
GAP = 30.0  # between neighbouring values of one column, on either side of what a unit explains
PERCENT = (30.0, 300.0)  # medians of losses in per cent over medians of fractions
SAME = 0.05  # two runs of one budget, or one size, give or take this share
MOST_COMPARED = 300  # points that are compared with each other
RISING = 0.8  # share of such pairs whose loss rises
MOST_NAMED = 5


def check_units_agree(records: Sequence[RunRecord]) -> None:
    """Check that all rows give N, D, C and the loss in one unit.

    Raises:
        RunError: some rows are off by orders of magnitude; it names them.
    """
    _check_compute(records)
    _check_column(records, "N", [record.parameters for record in records], _in_millions(SMALLEST_MODEL))
    _check_column(records, "D", [record.molecules for record in records], _in_millions(FEWEST_MOLECULES))
    _check_column(records, "the loss", [record.loss for record in records], _in_per_cent)


def _check_column(
    records: Sequence[RunRecord], name: str, values: Sequence[float], is_split: Callable[[FloatArray, FloatArray], bool]
) -> None:
    """Refuse a column whose values fall into two groups, far apart, that only two units explain."""
    ordered = np.sort(np.asarray(values, dtype=float))
    if len(ordered) < 2 or not np.isfinite(ordered).all() or ordered[0] <= 0:
        return  # single values are judged where the points are made
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
    ratios = np.array([_ratio(record.flops or 0.0, record.parameters, record.molecules) for record in known])
    if len(known) < 2 or not np.isfinite(ratios).all() or ratios.min() <= 0:
        return  # single values are judged where the points are made
    usual = float(np.exp(np.median(np.log(ratios))))
    wrong = [place for place, ratio in enumerate(ratios) if not 1 / OTHER_UNIT < ratio / usual < OTHER_UNIT]
    if wrong:
        named = ", ".join(f"{known[place].source} has {ratios[place]:.2g}" for place in wrong[:MOST_NAMED])
        more = f" and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
        raise RunError(
            f"the rows give N, D or C in different units: C/(6ND) is about {usual:.2g} in most rows, but {named}{more}"
            "; write every column in one unit"
        )


def unit_causes(columns: Columns) -> list[str]:
    """Return which of N, D and C seem to be in another unit than parameters, molecules and FLOPs, in sentences."""
    causes = []
    largest = float(columns["N"].max())
    if largest < SMALLEST_MODEL:
        causes.append(
            f"N is {largest:.4g} at most: it seems to count millions of parameters, and should count one by one"
        )
    most = float(columns["D"].max())
    if most < FEWEST_MOLECULES:
        causes.append(
            f"D is {most:.4g} at most: it seems to be in millions or in epochs, or the C that it was computed from "
            "is in another unit than FLOPs"
        )
    if "C" not in columns:
        return causes
    ratio = float(np.exp(np.median(np.log(_ratio(columns["C"], columns["N"], columns["D"])))))
    if ratio < LEAST:
        units = [f"{name} ({size:g})" for name, size in UNITS.items() if LIKELY[0] <= ratio * size <= LIKELY[1]]
        unit = f"{' or '.join(units)} instead of FLOPs" if units else "another unit than FLOPs"
        causes.append(f"C is {ratio:.2g} times 6·N·D, less than training can cost: it seems to be in {unit}")
    elif ratio > MOST:
        causes.append(
            f"C is {ratio:.2g} times 6·N·D, more than training can cost: N or D seems to be in millions, D in steps "
            "instead of molecules, or C in another unit than FLOPs"
        )
    return causes


def _ratio(flops: FloatArray | float, parameters: FloatArray | float, molecules: FloatArray | float) -> FloatArray:
    return np.asarray(flops / (6.0 * parameters * molecules))


def why_out_of_reach(columns: Columns, budget: float) -> list[str]:
    """Return why a budget of so many FLOPs may have no best size near those of the runs; [] if nothing explains it."""
    flops = columns["C"]
    causes = []
    if budget > OTHER_UNIT * flops.max():
        causes.append(f"it is {budget / flops.max():.2g} times the C of the costliest run ({flops.max():.3g})")
    elif budget < flops.min() / OTHER_UNIT:
        causes.append(f"it is {budget / flops.min():.2g} times the C of the cheapest run ({flops.min():.3g})")
    return causes + unit_causes(columns)


def why_no_loss(columns: Columns, loss: FloatArray) -> str | None:
    """Return why a column is no loss that a law could describe: it does not vary, or it only rises; None if it may."""
    if len(loss) > 1 and np.ptp(loss) <= 1e-9 * loss.max():
        return f"the loss is {loss[0]:.4g} in every run: is it the right column?"
    shares = [share for share in _shares_rising(columns, loss).values() if share is not None]
    if shares and min(shares) >= RISING:
        return "; ".join(loss_causes(columns, loss))
    return None


def loss_causes(columns: Columns, loss: FloatArray) -> list[str]:
    """Return in which of N and D the loss rises, in sentences; runs that overfit do so in one of them."""
    return [
        f"the loss rises with {name} in {share:.0%} of the pairs of runs that differ in it alone, and a law needs one "
        "that falls (not an accuracy or a score)"
        for name, share in _shares_rising(columns, loss).items()
        if share is not None and share >= RISING
    ]


def _shares_rising(columns: Columns, loss: FloatArray) -> dict[str, float | None]:
    return {name: _share_rising(columns[name], columns[other], loss) for name, other in (("N", "D"), ("D", "N"))}


def _share_rising(values: FloatArray, others: FloatArray, loss: FloatArray) -> float | None:
    """Return, of the pairs of one ``others`` and two ``values``, the share whose loss rises; None with few pairs."""
    every = -(-len(loss) // MOST_COMPARED)
    values, others, loss = values[::every], others[::every], loss[::every]
    higher = np.log(values[:, None] / values[None, :]) > SAME
    alike = np.abs(np.log(others[:, None] / others[None, :])) < SAME
    pairs = higher & alike
    if pairs.sum() < 3:
        return None
    return float((loss[:, None] > loss[None, :])[pairs].mean())
