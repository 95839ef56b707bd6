"""Robust regression of the log loss on a sum of powers, for many weightings of the points at once. Imports NumPy only.

For weights w the solver minimises Σ_i w_i · huber(log prediction_i − log loss_i), the *sum* of the Huber losses of
Hoffmann et al. 2022; with their mean, the usual stopping criteria would end before the minimum. If the noise is larger
than the quadratic range, this loss is flat between two seeds of one size, and any curve between them would be a
minimum; a small least-squares term (TIE_BREAK) makes the minimum unique. The unknowns are the exponents, and the log of
each coefficient at the geometric centre of the data, which keeps coefficients positive and all unknowns of similar
magnitude. A bootstrap is one call with a row of weights per draw.

log prediction = p · log Σ_k exp(log T_k / p) with power terms T_k: p is 1 for a sum, one of the exponents, or one more
unknown (laws.py). If repeated data count less, the variable of one term depends on one more unknown, log R*.
"""

import itertools
from dataclasses import dataclass

import numpy as np

from unimol_scale.scaling.law.laws import Columns, FloatArray, Law, effective_data

# Shapes: W weightings, n points, K terms, J exponents, P unknowns: K log coefficients, J exponents, log R* and p if the
# law has them.

NEGLIGIBLE = 1e-6  # the part of the smallest loss, at the centre of the data, below which a term counts as absent
TIE_BREAK = 1e-4  # weight of r²/2 relative to the Huber loss
SCALED_IDENTITY = 0.1
DAMPING_FLOOR, DAMPING_CEILING = 1e-10, 1e12
# R* is searched from this fraction of the fewest repetitions, where they are worth nothing, to this multiple of the
# most, where they are worth as much as new data.
FEWEST, MOST = 0.05, 50.0
# p, where it is a parameter of its own: from nearly the largest term alone to more than the sum.
SMALLEST_P, LARGEST_P = 0.05, 2.0


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """The data that a term with effective data needs besides its unknowns.

    Attributes:
        term: index of the term.
        data: D, float [n].
        distinct: U, float [n].
    """

    term: int
    data: FloatArray
    distinct: FloatArray

    def log_effective(self, log_fades: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return log D' and its derivative with respect to log R*, both float [W, n], for log R*, float [W]."""
        fades = np.exp(log_fades)[:, None]
        effective = effective_data(self.data, self.distinct, fades)
        repetitions = np.maximum(self.data / self.distinct - 1.0, 0.0)
        left = np.exp(-repetitions / fades)
        slope = self.distinct * (fades * (1.0 - left) - repetitions * left) / effective
        return np.log(effective), slope


@dataclass(frozen=True, kw_only=True)
class RegressionProblem:
    """The points of one fit, in the coordinates of the solver.

    Attributes:
        log_x: log of every term's variable minus its mean over the points, float [K, n]; 0 for a constant, and for the
            term of ``repetition``.
        centre: that mean, float [K].
        term_of_exponent: index of the term of each exponent, int [J].
        outer: index of the unknown that is p; None for p = 1.
        log_loss: float [n].
        lower: lower bounds of the unknowns, float [P].
        upper: upper bounds of the unknowns, float [P].
        huber_delta: residual beyond which the penalty is linear, in log units.
        repetition: for the term whose variable is D', which depends on the unknown after the exponents; None without
            one.
    """

    log_x: FloatArray
    centre: FloatArray
    term_of_exponent: tuple[int, ...]
    outer: int | None
    log_loss: FloatArray
    lower: FloatArray
    upper: FloatArray
    huber_delta: float
    repetition: Repetition | None = None

    @property
    def num_exponents(self) -> int:
        """J."""
        return len(self.term_of_exponent)

    @property
    def num_terms(self) -> int:
        """K, the number of summands."""
        return len(self.centre)

    def powers(self, theta: FloatArray) -> FloatArray:
        """Return p, float [W, 1, 1], for unknowns ``theta`` [W, P]."""
        if self.outer is None:
            return np.ones((len(theta), 1, 1))
        return theta[:, self.outer, None, None]

    @property
    def log_fades(self) -> int:
        """Index of log R* among the unknowns of a problem that has it."""
        return self.num_terms + self.num_exponents

    @property
    def has_own_outer(self) -> bool:
        """Whether p is an unknown of its own, which is the last one then."""
        return self.outer is not None and self.outer >= self.num_terms + self.num_exponents


@dataclass(frozen=True, kw_only=True)
class Solution:
    """The solution for every weighting.

    Attributes:
        theta: the unknowns, float [W, P].
        objective: summed Huber loss, float [W].
        gradient: largest component of the projected gradient, relative to the largest possible one, float [W].
        converged: whether that is within the tolerance, bool [W].
    """

    theta: FloatArray
    objective: FloatArray
    gradient: FloatArray
    converged: np.ndarray


def make_problem(
    law: Law, columns: Columns, loss: FloatArray, huber_delta: float, exponent_bounds: tuple[float, float]
) -> RegressionProblem:
    """Convert points into the coordinates of the solver.

    Args:
        law: the law to fit.
        columns: column name → positive float [n].
        loss: positive float [n].
        huber_delta: residual beyond which the penalty is linear, in log units.
        exponent_bounds: smallest and largest magnitude of an exponent.
    """
    rows, centre, owners, exponents = [], [], [], []
    for index, term in enumerate(law.terms):
        if term.variable is None:
            rows.append(np.zeros(len(loss)))
            centre.append(0.0)
            continue
        log_x = np.log(columns[term.variable])
        centre.append(float(log_x.mean()))
        rows.append(log_x - log_x.mean())
        owners.append(index)
        exponents.append(term.exponent)
    num_terms, num_exponents = len(rows), len(owners)
    repetition, more = _repetition(law, columns)
    outer = num_terms + exponents.index(law.outer) if law.outer in exponents else None
    if law.own_outer is not None:
        outer = num_terms + num_exponents + len(more)
        more = [*more, (SMALLEST_P, LARGEST_P)]
    # Terms count by their power 1/p, so with a large p a term has to be smaller to be negligible.
    depth = 1.0 if law.own_outer is None else LARGEST_P
    smallest, largest = np.log(NEGLIGIBLE**depth * loss.min()), np.log(10.0 * loss.max())
    return RegressionProblem(
        log_x=np.array(rows),
        centre=np.array(centre),
        term_of_exponent=tuple(owners),
        outer=outer,
        log_loss=np.log(loss),
        lower=np.array([smallest] * num_terms + [exponent_bounds[0]] * num_exponents + [low for low, _ in more]),
        upper=np.array([largest] * num_terms + [exponent_bounds[1]] * num_exponents + [high for _, high in more]),
        huber_delta=huber_delta,
        repetition=repetition,
    )


def _repetition(law: Law, columns: Columns) -> tuple[Repetition | None, list[tuple[float, float]]]:
    """Return the repetition of a law and the bounds of log R*; None and [] if repeated data count as new."""
    for index, term in enumerate(law.terms):
        if term.fades is not None:
            data, distinct = columns["D"], columns["U"]
            repeated = data[data > distinct] / distinct[data > distinct] - 1.0
            bounds = (float(np.log(FEWEST * repeated.min())), float(np.log(MOST * repeated.max())))
            return Repetition(term=index, data=data, distinct=distinct), [bounds]
    return None, []


def absent(problem: RegressionProblem, theta: FloatArray) -> np.ndarray:
    """Return which terms are too small to count, bool [W, K], for unknowns ``theta`` [W, P].

    Terms count by their power 1/p. Where p is small, the objective is flat long before a term reaches its bound.
    """
    # The bound of a coefficient is where the term is negligible with the largest p that the law can have.
    depth = LARGEST_P if problem.has_own_outer else 1.0
    smallest = problem.lower[: problem.num_terms] - depth * np.log(NEGLIGIBLE)
    power = problem.powers(theta)[:, 0] if problem.has_own_outer else 1.0
    negligible: np.ndarray = theta[:, : problem.num_terms] <= smallest + power * np.log(NEGLIGIBLE)
    return negligible


def log_terms(problem: RegressionProblem, theta: FloatArray) -> FloatArray:
    """Return the log of every term at every point, float [W, K, n], for unknowns ``theta`` [W, P]."""
    exponents = np.zeros((len(theta), problem.num_terms))
    end = problem.num_terms + problem.num_exponents
    exponents[:, list(problem.term_of_exponent)] = theta[:, problem.num_terms : end]
    log_x, _ = _variables(problem, theta)
    result: FloatArray = theta[:, : problem.num_terms, None] - exponents[:, :, None] * log_x
    return result


def _variables(problem: RegressionProblem, theta: FloatArray) -> tuple[FloatArray, FloatArray | None]:
    """Return the log variable of every term, float [W or 1, K, n], and the derivative of log D' by log R*, [W, n]."""
    if problem.repetition is None:
        return problem.log_x[None], None
    log_x = np.repeat(problem.log_x[None], len(theta), axis=0)
    effective, slope = problem.repetition.log_effective(theta[:, problem.log_fades])
    log_x[:, problem.repetition.term] = effective - problem.centre[problem.repetition.term]
    return log_x, slope


def residuals_and_jacobian(problem: RegressionProblem, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return log prediction − log loss, float [W, n], and its derivative by the unknowns, float [W, P, n]."""
    logs = log_terms(problem, theta)
    power = problem.powers(theta)
    peak = logs.max(axis=1, keepdims=True)
    share = np.exp((logs - peak) / power)
    total = share.sum(axis=1, keepdims=True)
    residual = (peak + power * np.log(total))[:, 0] - problem.log_loss
    share /= total
    owners = list(problem.term_of_exponent)
    log_x, slope = _variables(problem, theta)
    jacobian = np.concatenate([share, -share[:, owners] * log_x[:, owners]], axis=1)
    if problem.repetition is not None and slope is not None:
        term = problem.repetition.term
        exponent = theta[:, problem.num_terms + owners.index(term), None]
        jacobian = np.concatenate([jacobian, (-share[:, term] * exponent * slope)[:, None]], axis=1)
    if problem.outer is not None:
        if problem.has_own_outer:
            jacobian = np.concatenate([jacobian, np.zeros_like(jacobian[:, :1])], axis=1)
        # The derivative by p is the entropy of the shares of the terms.
        jacobian[:, problem.outer] += (np.log(total) - (share * (logs - peak)).sum(axis=1, keepdims=True) / power)[:, 0]
    return residual, jacobian


def huber_sum(problem: RegressionProblem, residual: FloatArray, weights: FloatArray) -> FloatArray:
    """Return Σ_i w_i · (huber(residual_i) + TIE_BREAK · residual_i² / 2), float [W]."""
    size = np.abs(residual)
    clipped = np.minimum(size, problem.huber_delta)
    penalty = clipped * (size - 0.5 * clipped) + 0.5 * TIE_BREAK * size**2
    result: FloatArray = (weights * penalty).sum(axis=1)
    return result


def grid_starts(problem: RegressionProblem, weight: FloatArray, num_cells: int, num_starts: int) -> FloatArray:
    """Return starting points from a grid over the exponents; the coefficients of each cell are solved exactly.

    The range of the grid depends on the data. With the smallest exponent a term changes by a tenth over the points, so
    it is almost a constant; with the largest one it falls by e^−8 and affects only the smallest point. Cells next to a
    better one are skipped, so that the starts lie in different valleys.

    Returns:
        Unknowns, float [≤ num_starts, P], best first.
    """
    fading = problem.repetition is not None
    num_axes = problem.num_exponents + fading + problem.has_own_outer
    grid_points = min(32, round(num_cells ** (1.0 / num_axes)))
    axes = []
    for slot, owner in enumerate(problem.term_of_exponent):
        span = float(np.ptp(problem.log_x[owner]))
        low, high = problem.lower[problem.num_terms + slot], problem.upper[problem.num_terms + slot]
        ends = np.clip([0.1 / span, 8.0 / span], low, high)
        axes.append(np.geomspace(ends[0], ends[1], grid_points))
    if fading:
        axes.append(np.linspace(problem.lower[problem.log_fades], problem.upper[problem.log_fades], grid_points))
    if problem.has_own_outer:
        axes.append(np.geomspace(problem.lower[-1], problem.upper[-1], grid_points))
    cells = np.array(list(itertools.product(range(grid_points), repeat=len(axes))))
    exponents = np.stack([axis[cells[:, slot]] for slot, axis in enumerate(axes)], axis=1)
    theta = np.concatenate([np.zeros((len(cells), problem.num_terms)), exponents], axis=1)
    # The law is linear in the powers 1/p of the terms. Each is divided by its largest value so that small p cannot
    # overflow.
    power = problem.powers(theta)
    logs = (log_terms(problem, theta) - problem.log_loss) / power
    peak = logs.max(axis=2, keepdims=True)
    coefficients = nonnegative_least_squares(np.exp(logs - peak))
    # A term whose coefficient is 0 starts with a small one instead, because it would otherwise stay 0.
    log_coefficients = (np.log(np.maximum(coefficients, 1e-300)) - peak[:, :, 0]) * power[:, :, 0]
    theta[:, : problem.num_terms] = np.maximum(log_coefficients, np.log(1e-2) + problem.log_loss.min())
    theta = np.clip(theta, problem.lower, problem.upper)
    residual, _ = residuals_and_jacobian(problem, theta)
    objective = huber_sum(problem, residual, weight[None])
    chosen: list[int] = []
    for cell in np.argsort(objective, kind="stable"):
        if all(np.abs(cells[cell] - cells[other]).max() > 1 for other in chosen):
            chosen.append(int(cell))
        if len(chosen) == num_starts:
            break
    starts: FloatArray = theta[chosen]
    return starts


def nonnegative_least_squares(basis: FloatArray) -> FloatArray:
    """Solve min ‖Σ_k c_k·basis_k − 1‖² with c ≥ 0 exactly, for many bases at once.

    Since there are only a few terms, the unconstrained problem is solved for every subset of them, and the best
    solution without negative coefficients is taken.

    Args:
        basis: float [G, K, n].

    Returns:
        Coefficients, float [G, K].
    """
    num_terms = basis.shape[1]
    gram = basis @ basis.transpose(0, 2, 1)
    moment = basis.sum(axis=2)
    best = np.zeros(moment.shape)
    best_gain = np.full(len(basis), -np.inf)
    for count in range(1, num_terms + 1):
        for subset in itertools.combinations(range(num_terms), count):
            rows = list(subset)
            block = gram[:, rows][:, :, rows]
            ridge = 1e-13 * np.trace(block, axis1=1, axis2=2)[:, None, None] * np.eye(count)
            solution = np.linalg.solve(block + ridge, moment[:, rows, None])[:, :, 0]
            gain = (solution * moment[:, rows]).sum(axis=1)
            better = (solution >= 0).all(axis=1) & (gain > best_gain)
            best[better] = 0.0
            best[np.ix_(better, rows)] = solution[better]
            best_gain[better] = gain[better]
    return best


def minimise(
    problem: RegressionProblem, start: FloatArray, weights: FloatArray, tolerance: float, max_iterations: int
) -> Solution:
    """Minimise the summed Huber loss from given starts, by a damped Newton method with bounds.

    The Newton matrix contains only the points in the quadratic range. Damping adds the matrix of iteratively reweighted
    least squares, with which a step always descends, until the step is accepted. A part of its diagonal is added too:
    if two terms are almost equal, the matrix alone does not limit steps in which they compensate each other.

    Args:
        problem: the points.
        start: float [W, P].
        weights: how much each point counts, float [W, n].
        tolerance: tolerance of the projected gradient, relative to Σ w · delta, the largest gradient that residuals can
            cause.
        max_iterations: iterations after which a fit counts as not converged.
    """
    theta = np.clip(start, problem.lower, problem.upper)
    scale = problem.huber_delta * weights.sum(axis=1)
    residual, jacobian = residuals_and_jacobian(problem, theta)
    objective = huber_sum(problem, residual, weights)
    damping = np.ones(len(theta))
    slope = np.full(len(theta), np.inf)
    open_rows = np.arange(len(theta))
    for _ in range(max_iterations):
        gradient, newton, reweighted = _curvature(problem, residual[open_rows], jacobian[open_rows], weights[open_rows])
        free = _free(problem, theta[open_rows], gradient)
        slope[open_rows] = np.abs(np.where(free, gradient, 0.0)).max(axis=1) / scale[open_rows]
        still = (slope[open_rows] > tolerance) & (damping[open_rows] < DAMPING_CEILING)
        gradient, newton, reweighted, free = gradient[still], newton[still], reweighted[still], free[still]
        open_rows = open_rows[still]
        if not len(open_rows):
            break
        damper = reweighted * (1.0 + SCALED_IDENTITY * np.eye(reweighted.shape[1]))
        step = _step(newton + damping[open_rows, None, None] * damper, gradient, free)
        trial = np.clip(theta[open_rows] + step, problem.lower, problem.upper)
        trial_residual, trial_jacobian = residuals_and_jacobian(problem, trial)
        trial_objective = huber_sum(problem, trial_residual, weights[open_rows])
        better = trial_objective < objective[open_rows]
        accepted = open_rows[better]
        theta[accepted], objective[accepted] = trial[better], trial_objective[better]
        residual[accepted], jacobian[accepted] = trial_residual[better], trial_jacobian[better]
        damping[open_rows] *= np.where(better, 0.2, 4.0)
        damping = np.maximum(damping, DAMPING_FLOOR)
    return Solution(theta=theta, objective=objective, gradient=slope, converged=slope <= tolerance)


def _curvature(
    problem: RegressionProblem, residual: FloatArray, jacobian: FloatArray, weights: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the gradient [W, P], the Newton matrix and the reweighted matrix, both [W, P, P]."""
    delta = problem.huber_delta
    size = np.abs(residual)
    pull = weights * (np.clip(residual, -delta, delta) + TIE_BREAK * residual)
    gradient = (jacobian @ pull[:, :, None])[:, :, 0]
    across = jacobian.transpose(0, 2, 1)
    newton = (jacobian * (weights * ((size <= delta) + TIE_BREAK))[:, None, :]) @ across
    reweighted = (jacobian * (weights * delta / np.maximum(size, delta))[:, None, :]) @ across
    return gradient, newton, reweighted


def _free(problem: RegressionProblem, theta: FloatArray, gradient: FloatArray) -> np.ndarray:
    """Return which unknowns may move: all except those that a descent step would move beyond a bound, bool [W, P]."""
    held = ((theta <= problem.lower) & (gradient > 0)) | ((theta >= problem.upper) & (gradient < 0))
    free: np.ndarray = ~held
    return free


def _step(matrix: FloatArray, gradient: FloatArray, free: np.ndarray) -> FloatArray:
    """Solve matrix · step = −gradient for the free unknowns, and limit every component of the step to 2."""
    size = gradient.shape[1]
    both = free[:, :, None] & free[:, None, :]
    ridge = 1e-14 * np.trace(matrix, axis1=1, axis2=2)[:, None, None] + 1e-300
    system = np.where(both, matrix, 0.0) + np.eye(size) * np.where(free, ridge[:, :, 0], 1.0)[:, :, None]
    step = np.linalg.solve(system, np.where(free, -gradient, 0.0)[:, :, None])[:, :, 0]
    longest = np.abs(step).max(axis=1, keepdims=True)
    result: FloatArray = step * np.minimum(1.0, 2.0 / np.maximum(longest, 1e-300))
    return result
