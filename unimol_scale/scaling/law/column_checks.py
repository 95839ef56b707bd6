"""Explains from the columns of a set of runs why a law fails: wrong units of N, D or C, or a loss that does not fall.

Training costs about 6·N·D FLOPs if D counts what passes through every parameter once, such as the tokens of a language
model. A molecule has many atoms and pairs, and costs 5 to 3,000 times as much, depending on its size.
"""

import numpy as np

from unimol_scale.scaling.law.laws import Columns, FloatArray
from unimol_scale.scaling.runs.table_checks import FEWEST_MOLECULES, OTHER_UNIT, SMALLEST_MODEL

LEAST, MOST = 0.03, 1e4  # plausible C / 6ND; a mixture of experts uses only part of its parameters
# Unit → FLOPs of one.
UNITS = {
    "GFLOP": 1e9,
    "TFLOP": 1e12,
    "PFLOP": 1e15,
    "EFLOP": 1e18,
    "petaflop/s-days": 8.64e19,
    "ZFLOP": 1e21,
}
LIKELY = (0.3, 3e3)  # range of C / 6ND that is expected in the right unit
SAME = 0.05  # relative difference up to which budgets or sizes count as equal
MOST_COMPARED = 300  # most points for which all pairs are compared
RISING = 0.8  # with this fraction of rising pairs, the column is not a loss


def unit_causes(columns: Columns) -> list[str]:
    """Return sentences on which of N, D and C do not seem to be in parameters, molecules and FLOPs."""
    causes = []
    largest = float(columns["N"].max())
    if largest < SMALLEST_MODEL:
        causes.append(
            f"N is at most {largest:.4g}: it seems to be in millions of parameters, but should be in parameters"
        )
    most = float(columns["D"].max())
    if most < FEWEST_MOLECULES:
        causes.append(
            f"D is at most {most:.4g}: it seems to be in millions or in epochs, or the C from which it was computed is "
            "not in FLOPs"
        )
    if "C" not in columns:
        return causes
    ratio = float(np.exp(np.median(np.log(columns["C"] / (6.0 * columns["N"] * columns["D"])))))
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


def why_out_of_reach(columns: Columns, budget: float) -> list[str]:
    """Return possible reasons why a budget has no optimal size near those of the runs."""
    flops = columns["C"]
    causes = []
    if budget > OTHER_UNIT * flops.max():
        causes.append(f"it is {budget / flops.max():.2g} times the C of the costliest run ({flops.max():.3g})")
    elif budget < flops.min() / OTHER_UNIT:
        causes.append(f"it is {budget / flops.min():.2g} times the C of the cheapest run ({flops.min():.3g})")
    return causes + unit_causes(columns)


def why_no_loss(columns: Columns, loss: FloatArray) -> str | None:
    """Return why a column cannot be a loss (it is constant, or rises with size and data); None if it can be one."""
    if len(loss) > 1 and np.ptp(loss) <= 1e-9 * loss.max():
        return f"the loss is {loss[0]:.4g} in every run: is it the right column?"
    shares = [share for share in _shares_rising(columns, loss).values() if share is not None]
    if shares and min(shares) >= RISING:
        return "; ".join(loss_causes(columns, loss))
    return None


def loss_causes(columns: Columns, loss: FloatArray) -> list[str]:
    """Return sentences on whether the loss rises with N or D; if runs overfit, it may rise with one of them."""
    return [
        f"the loss rises with {name} in {share:.0%} of the pairs of runs that differ only in it, but a law needs a "
        "loss that falls (not an accuracy or a score)"
        for name, share in _shares_rising(columns, loss).items()
        if share is not None and share >= RISING
    ]


def _shares_rising(columns: Columns, loss: FloatArray) -> dict[str, float | None]:
    return {name: _share_rising(columns[name], columns[other], loss) for name, other in (("N", "D"), ("D", "N"))}


def _share_rising(values: FloatArray, others: FloatArray, loss: FloatArray) -> float | None:
    """Return the fraction of pairs with equal ``others`` whose loss rises with ``values``; None for too few pairs."""
    every = -(-len(loss) // MOST_COMPARED)
    values, others, loss = values[::every], others[::every], loss[::every]
    higher = np.log(values[:, None] / values[None, :]) > SAME
    alike = np.abs(np.log(others[:, None] / others[None, :])) < SAME
    pairs = higher & alike
    if pairs.sum() < 3:
        return None
    return float((loss[:, None] > loss[None, :])[pairs].mean())
