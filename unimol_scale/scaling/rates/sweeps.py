"""Sweeps over the learning rate: runs that are otherwise alike, and the best rate of each sweep. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from unimol_scale.common.units import engineering
from unimol_scale.errors import RunError
from unimol_scale.scaling.law.laws import FloatArray
from unimol_scale.scaling.law.points import PARAMETER_GROUPS, ParameterGroup, distinct, make_points
from unimol_scale.scaling.runs.run_records import RunRecord

NEAR = 0.1  # runs with a log loss within this of the sweep's lowest one determine its parabola
FEWEST_RATES = 3


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Runs of one size, budget and batch size at several learning rates, lowest rate first.

    Attributes:
        parameters: N.
        molecules: D.
        batch: molecules per step; None if the runs do not record it.
        rate: peak learning rate, float [k].
        loss: validation loss, float [k].
        names: names of the runs, [k].
        size: name of the preset; None if unknown.
    """

    parameters: float
    molecules: float
    batch: int | None
    rate: FloatArray
    loss: FloatArray
    names: tuple[str, ...]
    size: str | None = None

    @property
    def label(self) -> str:
        """What it is of, as text: size, data and batch size."""
        batch = "" if self.batch is None else f", batch {self.batch:,}"
        return f"N = {engineering(self.parameters)}, D = {engineering(self.molecules)}{batch}"


@dataclass(frozen=True, kw_only=True)
class Minimum:
    """The best learning rate of a sweep.

    Attributes:
        sweep: the sweep.
        rate: rate with the lowest loss, from the parabola; None if there is no minimum (``obstacle``).
        loss: loss of the parabola there.
        curvature: c of log loss = c/2 · (log rate − log best)² + const.
        standard_error: of the log rate, from the scatter around the parabolas of all sweeps; NaN if there is no
            scatter.
        used: which runs determine the parabola, bool [k].
        obstacle: why the runs do not determine the best rate.
        coefficients: coefficients of log loss in log rate, quadratic first; empty without a parabola.
    """

    sweep: Sweep
    rate: float | None = None
    loss: float | None = None
    curvature: float | None = None
    standard_error: float = float("nan")
    used: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    obstacle: str | None = None
    coefficients: FloatArray = field(default_factory=lambda: np.zeros(0))


def sweeps_of(records: Sequence[RunRecord], parameters: ParameterGroup = "total") -> list[Sweep]:
    """Group runs by size, budget and batch size.

    Args:
        records: finished runs that can be compared.
        parameters: which parameters N counts.

    Raises:
        RunError: a run does not record its learning rate, or no sweep has several rates.
    """
    assert parameters in PARAMETER_GROUPS
    silent = [record for record in records if record.learning_rate is None]
    if silent:
        raise RunError(
            f"{silent[0].source} does not record its learning rate; a run has it in its config.yaml, a table in the "
            "column lr (--column lr=HEADER)"
        )
    points = make_points(records, parameters)
    rate = np.array([record.learning_rate for record in records], dtype=np.float64)
    if not np.all(np.isfinite(rate) & (rate > 0)):
        raise RunError(f"{records[int(np.argmin(rate))].source}: the learning rate must be a number above zero")
    batch = np.array([float(record.global_batch_size or 0) for record in records])
    keys = np.stack([distinct(points.columns["N"]), distinct(points.columns["D"]), batch], axis=1)
    found = []
    for key in np.unique(keys, axis=0):
        chosen = np.flatnonzero((keys == key).all(axis=1))
        chosen = chosen[np.argsort(rate[chosen], kind="stable")]
        first = records[int(chosen[0])]
        found.append(
            Sweep(
                parameters=float(points.columns["N"][chosen[0]]),
                molecules=float(points.columns["D"][chosen[0]]),
                batch=first.global_batch_size,
                rate=rate[chosen],
                loss=points.loss[chosen],
                names=tuple(records[int(index)].name for index in chosen),
                size=first.size,
            )
        )
    if all(len(np.unique(sweep.rate)) == 1 for sweep in found):
        raise RunError(
            "no two of these runs differ only in the learning rate: a sweep is several runs of one size, budget and "
            "batch size; `unimol-scale fit-scaling-law` without --rates fits the loss"
        )
    return found


def minima_of(sweeps: Sequence[Sweep]) -> list[Minimum]:
    """Find the best rate of every sweep, each by a parabola of log loss in log rate around its lowest run."""
    found = [_minimum(sweep) for sweep in sweeps]
    squares, freedom = 0.0, 0
    for one in found:
        if len(one.coefficients):
            log_rate, log_loss = _logs(one)
            squares += float(((np.polyval(one.coefficients, log_rate) - log_loss) ** 2).sum())
            freedom += len(log_rate) - 3
    scatter = float(np.sqrt(squares / freedom)) if freedom > 0 else float("nan")
    return [_with_error(one, scatter) for one in found]


def _logs(one: Minimum) -> tuple[FloatArray, FloatArray]:
    return np.log(one.sweep.rate[one.used]), np.log(one.sweep.loss[one.used])


def _minimum(sweep: Sweep) -> Minimum:
    rates, inverse = np.unique(sweep.rate, return_inverse=True)
    if len(rates) < FEWEST_RATES:
        return Minimum(sweep=sweep, obstacle=f"it has {len(rates)} learning rates; {FEWEST_RATES} are needed")
    log_loss = np.log(sweep.loss)
    mean = np.array([log_loss[inverse == place].mean() for place in range(len(rates))])
    lowest = int(np.argmin(mean))
    if lowest in (0, len(rates) - 1):
        which, way = ("lowest", "lower") if lowest == 0 else ("highest", "higher")
        return Minimum(
            sweep=sweep,
            obstacle=f"the loss is lowest at the {which} rate, {rates[lowest]:.3g}, the edge of the sweep: add {way} "
            "ones",
        )
    # The lowest rate's neighbours always count; other runs only near it, where a parabola is a good fit.
    near = (np.abs(np.arange(len(rates)) - lowest) <= 1) | (mean <= mean[lowest] + NEAR)
    below, above = lowest, lowest
    while below > 0 and near[below - 1]:
        below -= 1
    while above < len(rates) - 1 and near[above + 1]:
        above += 1
    used = (inverse >= below) & (inverse <= above)
    coefficients = np.polyfit(np.log(sweep.rate[used]), log_loss[used], 2)
    square, slope, _ = coefficients
    best = -slope / (2 * square) if square > 0 else np.inf
    if not np.log(rates[below]) < best < np.log(rates[above]):
        return Minimum(
            sweep=sweep,
            obstacle="the loss has no minimum within the sweep: it is flat, or noise exceeds its curvature; add rates "
            "or seeds",
        )
    return Minimum(
        sweep=sweep,
        rate=float(np.exp(best)),
        loss=float(np.exp(np.polyval(coefficients, best))),
        curvature=float(2 * square),
        used=used,
        coefficients=coefficients,
    )


def _with_error(one: Minimum, scatter: float) -> Minimum:
    """Return the minimum with its standard error from the delta method."""
    if one.rate is None:
        return one
    log_rate, _ = _logs(one)
    centred = log_rate - np.log(one.rate)
    design = np.stack([centred**2, centred, np.ones(len(centred))], axis=1)
    covariance = np.linalg.inv(design.T @ design) * scatter**2
    # At the minimum the slope is 0; an error of the slope shifts the minimum by −slope / curvature.
    error = float(np.sqrt(covariance[1, 1]) / one.curvature) if one.curvature else float("nan")
    return Minimum(**{**vars(one), "standard_error": error})
