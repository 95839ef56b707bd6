"""Computes the model size and amount of data with the lowest loss for a compute budget, from a fitted law. No torch.

C = k·N·D does not hold here: the pair track costs n² and n³, so FLOPs per molecule are a nonlinear function of N, which
is taken from the runs (``columns_at``). The law is minimised numerically along D = C / (FLOPs per molecule of N), for
the estimate and for every bootstrap draw.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from unimol_scale.common.units import engineering
from unimol_scale.errors import RunError
from unimol_scale.scaling.law.column_checks import why_out_of_reach
from unimol_scale.scaling.law.fit import Fit, Interval
from unimol_scale.scaling.law.laws import FloatArray, Law
from unimol_scale.scaling.law.points import Points, columns_at, distinct

REACH = 1e3  # an optimum is searched up to this factor beyond the sizes of the runs
GRID = 600
SLOPE_STEP = 10**0.5  # the exponent of the allocation is computed between C/√10 and C·√10
MAX_OPEN = 0.05  # largest fraction of draws without an optimum for which an interval is still given
FAR = 10.0
SLICES = 5  # number of slices of equal compute, evenly spaced in log over the runs
APART = 2.0  # slices closer than this factor would overlap in the picture


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """The compute-optimal allocation of a budget.

    Attributes:
        flops: the budget C.
        parameters: N with the lowest loss, counted as in the points.
        molecules: D that the budget allows at that N.
        loss: predicted loss there.
        exponent: a in N ∝ C^a near the budget; D grows as C^(1 − a) if FLOPs per molecule grow as N.
        parameters_interval: bootstrap interval; None without a bootstrap, or if too many draws have no optimum.
        molecules_interval: likewise.
        loss_interval: likewise; each draw has its own optimum.
        exponent_interval: likewise.
        notes: how far the numbers are extrapolated.
    """

    flops: float
    parameters: float
    molecules: float
    loss: float
    exponent: float
    parameters_interval: Interval | None
    molecules_interval: Interval | None
    loss_interval: Interval | None
    exponent_interval: Interval | None
    notes: tuple[str, ...]


def compute_optimal(fit: Fit, points: Points, flops: float) -> Optimum:
    """Return the N and D with the lowest predicted loss for a compute budget.

    Args:
        fit: of a law in size and data.
        points: the runs, whose FLOPs per molecule are used.
        flops: the budget, above zero.

    Raises:
        RunError: the law or the runs do not determine an optimum.
    """
    if not (np.isfinite(flops) and flops > 0):
        raise RunError(f"a compute budget must be a number of FLOPs above zero, not {flops}")
    _check_law(fit.law, points)
    estimate = {name: np.array([[value]]) for name, value in fit.parameters.items()}
    budgets = np.array([flops / SLOPE_STEP, flops, flops * SLOPE_STEP])
    parameters, molecules, loss, inside = (row[0] for row in _minimise(fit.law, estimate, points, budgets))
    if not inside.all():
        causes = why_out_of_reach(points.columns, flops) or [
            f"at this budget the law's loss falls all the way to one end ({_exponents(fit)})"
        ]
        raise RunError(
            f"a budget of {flops:.3g} FLOPs has no compute-optimal size within a factor of {REACH:,.0f} of the runs' "
            f"sizes, by the law {fit.law.label}: {'; '.join(causes)}"
        )
    notes = _notes(fit.law, points, flops, float(parameters[1]), float(molecules[1]))
    intervals: tuple[Interval | None, ...] = (None,) * 4
    if fit.draws:
        draws = {name: values[:, None] for name, values in fit.draws.items()}
        sizes, data, losses, found = _minimise(fit.law, draws, points, budgets)
        good = found.all(axis=1)
        if 1 - good.mean() > MAX_OPEN:
            notes.append(f"no intervals: {1 - good.mean():.0%} of the bootstrap fits have no optimum in reach")
        else:
            columns = (sizes[good, 1], data[good, 1], losses[good, 1], _exponent(sizes[good]))
            tails = [(1 - fit.confidence) / 2, (1 + fit.confidence) / 2]
            ends = [np.quantile(values, tails) for values in columns]
            intervals = tuple((float(low), float(high)) for low, high in ends)
    return Optimum(
        flops=flops,
        parameters=float(parameters[1]),
        molecules=float(molecules[1]),
        loss=float(loss[1]),
        exponent=float(_exponent(parameters[None])[0]),
        parameters_interval=intervals[0],
        molecules_interval=intervals[1],
        loss_interval=intervals[2],
        exponent_interval=intervals[3],
        notes=tuple(notes),
    )


def weighs_size_against_data(law: Law) -> bool:
    """Return whether a law has both the size of the model and the amount of data as variables."""
    names = set(law.variables)
    return bool(names & {"N", "M"}) and bool(names & {"D", "S"})


def can_slice(law: Law, points: Points) -> bool:
    """Return whether slices of equal compute can be computed, which depends on the law and the runs' FLOPs."""
    if "C" not in points.columns or not weighs_size_against_data(law):
        return False
    return all(int(distinct(points.columns[name]).max()) > 0 for name in ("N", "C"))


def slice_budgets(points: Points, optima: Sequence[Optimum]) -> FloatArray:
    """Return the compute of every slice, FLOPs: the budgets of the optima, and evenly spaced ones between them."""
    compute = points.columns["C"]
    wanted = np.array([optimum.flops for optimum in optima])
    even = np.geomspace(compute.min(), compute.max(), SLICES + 2)[1:-1]
    apart = [budget for budget in even if np.all(np.abs(np.log(wanted / budget)) > np.log(APART))]
    return np.sort(np.concatenate([wanted, apart]))


def lowest_of_slice(fit: Fit, points: Points, flops: float) -> Optimum | None:
    """Return the lowest point of a slice, without intervals; None if it is out of reach of the runs."""
    try:
        return compute_optimal(replace(fit, draws={}), points, flops)
    except RunError:
        return None


def _check_law(law: Law, points: Points) -> None:
    if not weighs_size_against_data(law):
        raise RunError(
            f"the law {law.label} has no trade-off between size and data, so it cannot divide a budget between them; "
            "use --law chinchilla, droppo, kaplan or unimol2 with runs that differ in both N and D"
        )
    if "C" not in points.columns:
        raise RunError(
            "a compute budget needs the FLOPs of every run, but these runs do not record them; for a table, name the "
            "column with --column C=HEADER, or have it computed (C=6ND, C=model@ATOMS)"
        )


def _exponents(fit: Fit) -> str:
    names = [term.exponent for term in fit.law.terms if term.exponent]
    return ", ".join(f"{name} = {fit.parameters[name]:.3g}" for name in names)


def _minimise(
    law: Law, parameters: dict[str, FloatArray], points: Points, budgets: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, np.ndarray]:
    """Minimise the law along curves of constant compute.

    Args:
        law: the form.
        parameters: name → float [W, 1].
        points: the runs.
        budgets: float [B].

    Returns:
        N, D and the loss, float [W, B] each, and whether the minimum lies inside the searched range.
    """
    sizes = points.columns["N"]
    grid = np.geomspace(sizes.min() / REACH, sizes.max() * REACH, GRID)
    step = np.log(grid[1] / grid[0])
    best = []
    for budget in budgets:
        losses = np.broadcast_to(_loss(law, parameters, points, grid[None], budget), (_rows(parameters), GRID))
        lowest = np.argmin(losses, axis=1)
        inside = (lowest > 0) & (lowest < GRID - 1)
        log_n = np.log(grid[lowest])
        # Golden-section search between the neighbours on the grid; a parabola would fail at corners of the curve.
        low, high = log_n - step, log_n + step
        for _ in range(40):
            left, right = high - 0.618034 * (high - low), low + 0.618034 * (high - low)
            f_left, f_right = (
                _loss(law, parameters, points, np.exp(where)[:, None], budget)[:, 0] for where in (left, right)
            )
            low, high = np.where(f_left < f_right, low, left), np.where(f_left < f_right, right, high)
        chosen = np.exp((low + high) / 2)
        data = budget / _flops_per_molecule(points, chosen)
        best.append((chosen, data, _loss(law, parameters, points, chosen[:, None], budget)[:, 0], inside))
    n, d, loss, found = (np.stack(rows, axis=1) for rows in zip(*best, strict=True))
    return n, d, loss, found.astype(bool)


def _rows(parameters: dict[str, FloatArray]) -> int:
    return len(next(iter(parameters.values())))


def _loss(law: Law, parameters: dict[str, FloatArray], points: Points, sizes: FloatArray, budget: float) -> FloatArray:
    """Return the loss along a budget, float [W, G], for sizes [W or 1, G]."""
    flat = sizes.ravel()
    columns = columns_at(points, flat, budget / _flops_per_molecule(points, flat))
    return law.predict(parameters, {name: column.reshape(sizes.shape) for name, column in columns.items()})


def _flops_per_molecule(points: Points, sizes: FloatArray) -> FloatArray:
    return columns_at(points, sizes, np.ones(len(sizes)))["C"]


def _exponent(sizes: FloatArray) -> FloatArray:
    """Return the slope of log N against log C between the outer two of three budgets, float [W]."""
    slope: FloatArray = np.log(sizes[:, 2] / sizes[:, 0]) / np.log(SLOPE_STEP**2)
    return slope


def _notes(law: Law, points: Points, flops: float, parameters: float, molecules: float) -> list[str]:
    notes = []
    for name, value in (("N", parameters), ("D", molecules)):
        low, high = float(points.columns[name].min()), float(points.columns[name].max())
        if value > 1.01 * high:
            far = ", far beyond what they support" if value > FAR * high else ""
            notes.append(f"the optimal {name} is {value / high:.3g} times the largest in the runs{far}")
        elif value < low / 1.01:
            notes.append(f"the optimal {name} is {value / low:.3g} times the smallest in the runs")
    costliest = float(points.columns["C"].max())
    if flops > FAR * costliest:
        notes.append(f"the budget is {flops / costliest:.3g} times the C of the costliest run")
    if points.distinct_data is not None and law.fades is not None and molecules > points.distinct_data:
        notes.append(
            f"the optimal D is {molecules / points.distinct_data:.3g} epochs of {engineering(points.distinct_data)} "
            f"distinct {points.unit}s; --distinct sets their number"
        )
    notes.append(f"FLOPs per {points.unit} are interpolated in N between the runs")
    return notes
