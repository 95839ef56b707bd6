"""The table that laws are fitted to: a loss and named columns for every point, which belongs to a run. No torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.interpolate import PchipInterpolator

from unimol_scale.common.run_files import METRICS_NAME
from unimol_scale.errors import RunError
from unimol_scale.scaling.law.burn_in import BurnIn, burn_in_of
from unimol_scale.scaling.law.column_checks import unit_causes
from unimol_scale.scaling.law.laws import Columns, FloatArray
from unimol_scale.scaling.runs.run_records import DataUnit, RunRecord

ParameterGroup = Literal["total", "non-embedding", "atom-track", "pair-track"]
PARAMETER_GROUPS: Mapping[str, tuple[str, ...]] = {
    "total": (),
    "non-embedding": ("atom_track", "pair_track", "heads"),
    "atom-track": ("atom_track",),
    "pair-track": ("pair_track",),
}

SAME = 0.01  # values within 1 % count as equal, since budgets are rounded to whole batches


@dataclass(frozen=True, kw_only=True)
class Points:
    """Losses and the variables that they depend on.

    Attributes:
        names: name of the run of each point, [n].
        runs: index of the run of each point, int [n].
        families: index of the group that the bootstrap draws as a whole, int [n]: branches of one trunk share their
            first steps, so their errors are not independent. None: every run is a group of its own.
        columns: see laws.py; always N and D; C, U, S, M and MS if all runs have them; positive float [n].
        loss: positive float [n].
        weights: weight of each point, positive with mean 1, float [n]; None if all count the same.
        cautions: warnings for every fit to these points.
        stock: distinct molecules available for predictions; None: the largest number that any point had.
        unit: what D counts.
    """

    names: tuple[str, ...]
    runs: np.ndarray
    columns: Columns
    loss: FloatArray
    weights: FloatArray | None = None
    cautions: tuple[str, ...] = ()
    stock: float | None = None
    unit: DataUnit = "molecule"
    families: np.ndarray | None = None

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.loss)

    @property
    def num_runs(self) -> int:
        """Number of runs that the points belong to."""
        return len(np.unique(self.runs))

    @property
    def drawn_together(self) -> np.ndarray:
        """Index of the family of each point, int [n]: ``families``, or ``runs``."""
        return self.runs if self.families is None else self.families

    def describe_families(self) -> str:
        """Return the number of groups that the bootstrap draws, as text."""
        count = len(np.unique(self.drawn_together))
        return f"{count} runs" if self.families is None else f"{count} trunks with their branches"

    @property
    def weight(self) -> FloatArray:
        """How much each point counts, float [n]."""
        return np.ones(len(self)) if self.weights is None else self.weights

    @property
    def distinct_data(self) -> float | None:
        """U for predictions; None if the points do not record how many distinct molecules they had."""
        if "U" not in self.columns:
            return None
        return float(self.columns["U"].max()) if self.stock is None else self.stock

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "flops_per_molecule"}  # cannot be pickled

    @cached_property
    def flops_per_molecule(self) -> Callable[[FloatArray], FloatArray]:
        """Function from N, float [m], to training FLOPs per molecule, float [m]; for points with the column C."""
        return _curve_through(self.columns["N"], self.columns["C"] / self.columns["D"])

    def take(self, keep: np.ndarray) -> "Points":
        """Return the points chosen by a mask, bool [n]."""
        return Points(
            names=tuple(name for name, chosen in zip(self.names, keep, strict=True) if chosen),
            runs=self.runs[keep],
            columns={name: column[keep] for name, column in self.columns.items()},
            loss=self.loss[keep],
            weights=None if self.weights is None else self.weights[keep],
            cautions=self.cautions,
            stock=self.stock,
            unit=self.unit,
            families=None if self.families is None else self.families[keep],
        )


def distinct(values: FloatArray) -> np.ndarray:
    """Label the distinct values of a positive column from 0, ascending; values within 1 % of the lowest are equal.

    Returns:
        int [n].
    """
    order = np.argsort(values, kind="stable")
    labels = np.empty(len(values), dtype=np.int64)
    label, lowest = -1, 0.0
    # Compared with the lowest of the group: comparing neighbours would make a whole trajectory one value.
    for index in order:
        if label < 0 or values[index] > lowest * (1 + SAME):
            label, lowest = label + 1, float(values[index])
        labels[index] = label
    return labels


def make_points(
    records: Sequence[RunRecord],
    parameters: ParameterGroup,
    term: str | None = None,
    burn_in: float | None = None,
    burn_in_steps: int | None = None,
) -> Points:
    """Make one point per run, at its end, or many points along each run.

    Args:
        records: runs that can be compared.
        parameters: group of parameters that N counts.
        term: name of a loss term; None for the whole validation loss.
        burn_in: use all validations after this fraction of a run's molecules as points, with C and S in proportion to
            the molecules.
        burn_in_steps: the same, after this number of steps. If neither is set, the ends of the runs are the points.

    Raises:
        RunError: a loss or a column is missing, not positive or not finite; or a run is not longer than its burn-in.
    """
    left_out = burn_in_of(burn_in, burn_in_steps)
    curves = [_curve(record, term, left_out) for record in records]
    owners = np.repeat(np.arange(len(records)), [len(curve) for curve in curves])
    d, loss = np.array([event for curve in curves for event in curve], dtype=np.float64).T
    totals = np.array([record.molecules for record in records])[owners]
    columns = {"N": np.array([_parameters(record, parameters) for record in records])[owners], "D": d}
    flops = [record.flops for record in records if record.flops is not None]
    steps = [float(record.steps) for record in records if record.steps is not None]
    if len(flops) == len(records):
        columns["C"] = np.array(flops)[owners] * (d / totals)
    distinct_data = [record.unique for record in records if record.unique is not None]
    if len(distinct_data) == len(records):
        columns["U"] = np.array(distinct_data)[owners]
    # Steps of runs with different batch sizes are not comparable; then there is no column S.
    if len(steps) == len(records) and len({record.global_batch_size for record in records}) == 1:
        columns["M"] = columns["N"] / 1e6
        columns["S"] = np.array(steps)[owners] * (d / totals)
        columns["MS"] = columns["M"] * columns["S"]
    weights = np.array([record.weight for record in records], dtype=np.float64)[owners]
    for name, values in {**columns, f"loss {term or ''}".strip(): loss, "weight": weights}.items():
        for owner, value in zip(owners.tolist(), values.tolist(), strict=True):
            if problem := _problem(value):
                raise RunError(
                    f"{records[owner].source}: {name} is {value}, {problem}; a law needs finite positive values"
                )
    return Points(
        names=tuple(records[owner].name for owner in owners.tolist()),
        runs=owners,
        columns=columns,
        loss=loss,
        weights=None if np.all(weights == weights[0]) else weights / weights.mean(),
        unit=records[0].unit,
        families=_families(records)[owners] if any(record.trunk for record in records) else None,
        cautions=(*(unit_causes(columns) if parameters == "total" else []), *_cautions(records, left_out)),
    )


def _families(records: Sequence[RunRecord]) -> np.ndarray:
    """Return one index per run, int [runs], which a trunk and its branches share."""
    folders = [str(Path(record.trunk or record.source).resolve()) for record in records]
    return np.unique(folders, return_inverse=True)[1]


def _curve(record: RunRecord, term: str | None, burn_in: BurnIn | None) -> Sequence[tuple[float, float]]:
    end = record.loss if term is None else record.terms.get(term, float("nan"))
    if burn_in is None:
        return [(record.molecules, end)]
    if term is not None and record.curve and term not in record.curve_terms:
        raise RunError(f"{record.source}: not every validation logged the loss term {term!r}")
    losses = [loss for _, loss in record.curve] if term is None else record.curve_terms.get(term, ())
    burn_in.check(record)
    along = [
        (molecules, loss)
        for (molecules, _), loss in zip(record.curve, losses, strict=False)
        # A single loss that is not finite is left out; a run that ends with one has diverged.
        if 0 < molecules < record.molecules and burn_in.keeps(molecules, record) and np.isfinite(loss)
    ]
    return [*along, (record.molecules, end)]


def _problem(value: float) -> str:
    if np.isnan(value):
        return "not a number (the run diverged, or nothing was logged)"
    if np.isinf(value):
        return "infinite (the run diverged)"
    return "" if value > 0 else "zero" if value == 0 else "negative"


def _cautions(records: Sequence[RunRecord], burn_in: BurnIn | None) -> list[str]:
    cautions = []
    if burn_in is not None:
        falling = sum(record.decays is True for record in records)
        unknown = sum(record.decays is None for record in records)
        if falling:
            cautions.append(
                f"points along runs: in {falling} of {len(records)} runs the learning rate decays, so these points "
                "lie above the loss of a run that ends there; the law describes trajectories, not finished runs"
            )
        elif unknown:
            cautions.append(
                f"points along runs: {unknown} of {len(records)} runs do not record whether their learning rate "
                "decays; if it does, these points lie above the loss of a run that ends there"
            )
    skipped = [f"{record.name} ({record.skipped})" for record in records if record.skipped]
    if skipped:
        cautions.append(f"runs that skipped steps with a loss that was not finite: {', '.join(skipped)}")
    damaged = [f"{record.name} ({record.damaged_lines})" for record in records if record.damaged_lines]
    if damaged:
        cautions.append(f"damaged lines of {METRICS_NAME} were ignored, by run: {', '.join(damaged)}")
    silent = [record.name for record in records if record.comparable and not record.curve]
    if burn_in is not None and silent:
        cautions.append(
            f"runs without a validation in their {METRICS_NAME} count only with their last loss: {', '.join(silent)}"
        )
    return cautions


def _parameters(record: RunRecord, group: ParameterGroup) -> float:
    if group == "total":
        return record.parameters
    names = PARAMETER_GROUPS[group]
    if any(name not in record.groups for name in names):
        raise RunError(
            f"{record.source} does not record how many of its parameters are {group}; use --parameters total"
        )
    return float(sum(record.groups[name] for name in names))


def columns_at(points: Points, parameters: FloatArray, molecules: FloatArray) -> Columns:
    """Return the columns of the points for other models and budgets.

    FLOPs per molecule depend only on the size. They are interpolated between the sizes of the points in log-log,
    monotonically and smoothly, and extrapolated with the slope at the end. Steps assume the points' batch size.

    Args:
        points: of the runs.
        parameters: N, float [m].
        molecules: D, float [m].
    """
    columns = {"N": parameters, "D": molecules}
    if points.distinct_data is not None:
        columns["U"] = np.full(np.shape(molecules), points.distinct_data)
    if "C" in points.columns:
        columns["C"] = molecules * points.flops_per_molecule(parameters)
    if "S" in points.columns:
        batch_size = float(np.median(points.columns["D"] / points.columns["S"]))
        columns["M"] = parameters / 1e6
        columns["S"] = molecules / batch_size
        columns["MS"] = columns["M"] * columns["S"]
    return columns


def _curve_through(x: FloatArray, y: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """Return a curve through the mean of every distinct x, smooth in log-log, and straight beyond the ends.

    The slope is continuous at the ends; with a corner there, too many compute-optimal sizes would be the largest one.
    """
    labels = distinct(x)
    count = int(labels.max()) + 1
    log_x = np.array([np.log(x[labels == label]).mean() for label in range(count)])
    log_y = np.array([np.log(y[labels == label]).mean() for label in range(count)])
    if count == 1:
        return lambda at: np.exp(log_y[0] + np.log(at) - log_x[0])
    inside = PchipInterpolator(log_x, log_y)
    slopes = inside(log_x[[0, -1]], 1)

    def curve(at: FloatArray) -> FloatArray:
        where = np.log(at)
        below, above = np.minimum(where - log_x[0], 0.0), np.maximum(where - log_x[-1], 0.0)
        result: FloatArray = np.exp(inside(np.clip(where, log_x[0], log_x[-1])) + slopes[0] * below + slopes[1] * above)
        return result

    return curve
