"""Slices of equal compute through a fitted law: at which budgets they are taken, and where each has its lowest loss.

Imports NumPy only, no torch.
"""

from dataclasses import replace

import numpy as np

from unimol_scale.errors import RunError
from unimol_scale.scaling.law.analysis import Analysis
from unimol_scale.scaling.law.laws import FloatArray
from unimol_scale.scaling.law.optimal import Optimum, compute_optimal, weighs_size_against_data
from unimol_scale.scaling.law.points import distinct

SLICES = 5  # spread evenly in log over the compute of the runs
APART = 2.0  # slices closer than this factor would look like one


def can_slice(analysis: Analysis) -> bool:
    """Return whether slices of equal compute can be taken: the law and the FLOPs of the runs allow it."""
    points = analysis.points
    if "C" not in points.columns or not weighs_size_against_data(analysis.fit.law):
        return False
    return all(int(distinct(points.columns[name]).max()) > 0 for name in ("N", "C"))


def slice_budgets(analysis: Analysis) -> FloatArray:
    """Return the compute of every slice, FLOPs: each budget that was asked for, and evenly spaced ones between them."""
    compute = analysis.points.columns["C"]
    wanted = np.array([optimum.flops for optimum in analysis.optima])
    even = np.geomspace(compute.min(), compute.max(), SLICES + 2)[1:-1]
    apart = [budget for budget in even if np.all(np.abs(np.log(wanted / budget)) > np.log(APART))]
    return np.sort(np.concatenate([wanted, apart]))


def lowest_of_slice(analysis: Analysis, flops: float) -> Optimum | None:
    """Return the lowest point of a slice, without intervals; None if it lies out of reach of the runs."""
    try:
        return compute_optimal(replace(analysis.fit, draws={}), analysis.points, flops)
    except RunError:
        return None
