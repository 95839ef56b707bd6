"""The table that laws are fitted to: named columns and one loss, each point owned by a run. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from unimol_scale.errors import RunError
from unimol_scale.scaling.laws import Columns, FloatArray
from unimol_scale.scaling.records import RunRecord

ParameterGroup = Literal["total", "non-embedding"]

SAME = 0.01  # two values of a variable closer than 1 % are one value: budgets are rounded to whole batches


@dataclass(frozen=True, kw_only=True)
class Points:
    """Losses and what they depend on.

    Attributes:
        names: name of every point's run, [n].
        runs: index of the run that a point belongs to, int [n]; the bootstrap draws runs, never points of one run.
        columns: see laws.py; N, D and loss always, C and S, M, MS where every run knows them; positive float [n].
        loss: positive float [n].
    """

    names: tuple[str, ...]
    runs: np.ndarray
    columns: Columns
    loss: FloatArray

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.loss)

    def take(self, keep: np.ndarray) -> "Points":
        """Return the points chosen by a mask, bool [n]."""
        return Points(
            names=tuple(name for name, chosen in zip(self.names, keep, strict=True) if chosen),
            runs=self.runs[keep],
            columns={name: column[keep] for name, column in self.columns.items()},
            loss=self.loss[keep],
        )


def distinct(values: FloatArray) -> np.ndarray:
    """Number the distinct values of a positive column from 0, ascending; neighbours within 1 % count as one.

    Returns:
        int [n].
    """
    order = np.argsort(values, kind="stable")
    jumps = np.diff(np.log(values[order])) > np.log1p(SAME)
    labels = np.empty(len(values), dtype=np.int64)
    labels[order] = np.concatenate([[0], np.cumsum(jumps)])
    return labels


def make_points(records: Sequence[RunRecord], parameters: ParameterGroup, term: str | None = None) -> Points:
    """Make one point from each run, at the end of its schedule.

    Args:
        records: runs that may be compared.
        parameters: which parameters N counts.
        term: name of a loss term; None for the whole validation loss.

    Raises:
        RunError: a loss or a column is missing, not positive or not finite.
    """
    columns = {
        "N": [_parameters(record, parameters) for record in records],
        "D": [record.molecules for record in records],
    }
    flops = [record.flops for record in records if record.flops is not None]
    steps = [float(record.steps) for record in records if record.steps is not None]
    if len(flops) == len(records):
        columns["C"] = flops
    # Steps compare between runs of one batch size only; with several, the laws in S are not offered.
    if len(steps) == len(records) and len({record.global_batch_size for record in records}) == 1:
        columns["M"] = [count / 1e6 for count in columns["N"]]
        columns["S"] = steps
        columns["MS"] = [m * s for m, s in zip(columns["M"], columns["S"], strict=True)]
    losses = [record.loss if term is None else record.terms.get(term, float("nan")) for record in records]
    for name, values in {**columns, f"loss {term or ''}".strip(): losses}.items():
        for record, value in zip(records, values, strict=True):
            if not (np.isfinite(value) and value > 0):
                raise RunError(f"{record.source}: {name} is {value}; a law needs finite values above zero")
    return Points(
        names=tuple(record.name for record in records),
        runs=np.arange(len(records)),
        columns={name: np.array(values, dtype=np.float64) for name, values in columns.items()},
        loss=np.array(losses, dtype=np.float64),
    )


def _parameters(record: RunRecord, group: ParameterGroup) -> float:
    if group == "total":
        return record.parameters
    if record.embedding_parameters is None:
        raise RunError(
            f"{record.source} does not say how many of its parameters are embeddings; use --parameters total"
        )
    return record.parameters - record.embedding_parameters


def columns_at(points: Points, parameters: FloatArray, molecules: FloatArray) -> Columns:
    """Return every column that the points have, for other models and budgets.

    FLOPs per molecule are a function of the size alone: they are interpolated between the sizes of the points in
    log-log, and continued beyond them with the slope of the whole. Steps assume the points' own batch size.

    Args:
        points: the measured ones.
        parameters: N, float [m].
        molecules: D, float [m].
    """
    columns = {"N": parameters, "D": molecules}
    if "C" in points.columns:
        per_molecule = points.columns["C"] / points.columns["D"]
        columns["C"] = molecules * np.exp(_interpolate(points.columns["N"], per_molecule, parameters))
    if "S" in points.columns:
        batch_size = float(np.median(points.columns["D"] / points.columns["S"]))
        columns["M"] = parameters / 1e6
        columns["S"] = molecules / batch_size
        columns["MS"] = columns["M"] * columns["S"]
    return columns


def _interpolate(x: FloatArray, y: FloatArray, at: FloatArray) -> FloatArray:
    labels = distinct(x)
    count = int(labels.max()) + 1
    log_x = np.array([np.log(x[labels == label]).mean() for label in range(count)])
    log_y = np.array([np.log(y[labels == label]).mean() for label in range(count)])
    slope = float(np.polyfit(log_x, log_y, 1)[0]) if count > 1 else 1.0
    where = np.log(at)
    inside: FloatArray = np.interp(where, log_x, log_y)
    beyond: FloatArray = slope * (np.minimum(where - log_x[0], 0.0) + np.maximum(where - log_x[-1], 0.0))
    return inside + beyond
