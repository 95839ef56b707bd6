"""Bootstrap: draws runs with replacement, and fits the law to each draw. Imports no torch.

Branches of one trunk are drawn as a whole, since they share their first steps.
"""

from dataclasses import dataclass

import numpy as np

from unimol_scale.scaling.law.laws import FloatArray, Law
from unimol_scale.scaling.law.points import Points, distinct
from unimol_scale.scaling.law.solver import RegressionProblem, absent, minimise

RAISED_FLOOR = 0.5  # part of the smallest loss
CHUNK_VALUES = 60_000  # draws × points solved together; more do not fit in the processor's cache


@dataclass(frozen=True, kw_only=True)
class BootstrapFits:
    """Fits to the draws of a bootstrap.

    Attributes:
        theta: the unknowns of the draws that converged, float [kept, P].
        lost: share of the draws that did not converge.
    """

    theta: FloatArray
    lost: float


def needed_values(law: Law) -> int:
    """Return how many distinct values of a variable a law needs: two for a power, one more if there is another term."""
    return 2 if len(law.terms) == 1 else 3


def draw_weights(law: Law, points: Points, draws: int, seed: int) -> FloatArray:
    """Draw runs with replacement and return the weight of each point, float [draws, n].

    Draws that cannot determine the law (too few distinct points or values of a variable) are replaced. After twenty
    times as many draws as requested, fewer rows are returned. If there are no more points than parameters, no rows are
    returned, since only the draw of all points would do.
    """
    labels = np.unique(points.drawn_together, return_inverse=True)[1]
    num_runs = int(labels.max()) + 1
    needed = needed_values(law)
    if len(points) <= len(law.parameters) or num_runs <= needed:
        return np.zeros((0, len(points)))
    value_of = []
    for name in law.variables:
        values = distinct(points.columns[name])
        value_of.append(np.eye(int(values.max()) + 1)[values])
    rng = np.random.default_rng(seed)
    kept: list[FloatArray] = []
    count = 0
    for _ in range(20):
        drawn = rng.multinomial(num_runs, np.full(num_runs, 1.0 / num_runs), size=draws)
        weights = drawn[:, labels].astype(np.float64)
        good = (weights > 0).sum(axis=1) >= len(law.parameters)
        for one_hot in value_of:
            good &= ((weights @ one_hot) > 0).sum(axis=1) >= needed
        if law.fades is not None:
            good &= weights @ (points.columns["D"] > points.columns["U"]) > 0
        kept.append(weights[good])
        count += int(good.sum())
        if count >= draws:
            break
    return np.concatenate(kept)[:draws] * points.weight


def fit_draws(
    problem: RegressionProblem, start: FloatArray, weights: FloatArray, tolerance: float, max_iterations: int
) -> BootstrapFits:
    """Fit the law to every draw.

    Args:
        problem: the points.
        start: the estimate from all runs, float [P], where every fit starts. If the floor is absent there, every draw
            is fitted a second time from a floor near the smallest loss, and the better fit counts: from a floor of 0
            the objective is flat.
        weights: of ``draw_weights``, float [draws, n].
        tolerance: see ``minimise``.
        max_iterations: see ``minimise``.
    """
    starts = [start]
    for floor in set(range(problem.num_terms)) - set(problem.term_of_exponent):
        if absent(problem, start[None])[0, floor]:
            raised = start.copy()
            raised[floor] = np.log(RAISED_FLOOR) + problem.log_loss.min()
            starts.append(raised)
    chunk = max(1, CHUNK_VALUES // weights.shape[1])
    thetas, converged = [], []
    for first in range(0, len(weights), chunk):
        rows = weights[first : first + chunk]
        solutions = [
            minimise(problem, np.repeat(one[None], len(rows), axis=0), rows, tolerance, max_iterations)
            for one in starts
        ]
        best = np.argmin([np.where(one.converged, one.objective, np.inf) for one in solutions], axis=0)
        each = np.arange(len(rows))
        thetas.append(np.stack([one.theta for one in solutions])[best, each])
        converged.append(np.stack([one.converged for one in solutions])[best, each])
    kept = np.concatenate(converged)
    return BootstrapFits(theta=np.concatenate(thetas)[kept], lost=float(1 - kept.mean()))
