"""Fits one law to points: estimate, checks, bootstrap. Imports no torch.

The estimate is the best minimum over deterministic starts. A fit that cannot be trusted is an error (not converged, not
identifiable, a term that vanished) or has warnings (few sizes, narrow range, a parameter at its bound).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from unimol_scale.errors import ConfigError, RunError
from unimol_scale.scaling.law.bootstrap import draw_weights, fit_draws, needed_values
from unimol_scale.scaling.law.column_checks import loss_causes, why_no_loss
from unimol_scale.scaling.law.laws import Columns, FloatArray, Law
from unimol_scale.scaling.law.points import Points, distinct
from unimol_scale.scaling.law.solver import (
    RegressionProblem,
    Solution,
    absent,
    grid_starts,
    make_problem,
    minimise,
    residuals_and_jacobian,
)

GRID_CELLS = 1000
SCREENING_ITERATIONS = 30
NUM_FINALISTS = 3
MAX_CONDITION = 1e6
POOR_CONDITION = 100.0  # in simulations it is below 35 if all parameters are determined, and up to 700 if not
COLLINEAR = 0.9999
MIN_SIZES = 4
MAX_LOST_DRAWS = 0.5
REPEATED = 1.01  # epochs above which a run counts as having repeated its data
WIDE_FACTOR = 5.0  # ratio of the ends of R*'s interval above which R* is hardly determined
MAX_AT_BOUND = 0.02  # fraction of bootstrap fits at a parameter's bound above which its interval is open

MOVES = 20  # residuals that each draw of the law is moved by, for the interval of a single run

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Settings of a fit.

    Attributes:
        huber_delta: residual in log loss beyond which the penalty is linear.
        starts: number of cells of the exponent grid that the solver starts from.
        exponent_bounds: smallest and largest magnitude of an exponent.
        tolerance: tolerance of the gradient, relative to the largest one that residuals can cause.
        max_iterations: of the solver.
        bootstrap: number of draws; 0 for no intervals.
        confidence: level of the percentile intervals.
        seed: of the bootstrap.
    """

    huber_delta: float = 1e-3
    starts: int = 8
    exponent_bounds: tuple[float, float] = (0.01, 5.0)
    tolerance: float = 1e-6
    max_iterations: int = 1000
    bootstrap: int = 1000
    confidence: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.huber_delta <= 0:
            raise ConfigError(f"huber_delta must be above zero, got {self.huber_delta}")
        if self.starts < 1 or self.max_iterations < 1:
            raise ConfigError("starts and max_iterations must be at least 1")
        if not 0 < self.exponent_bounds[0] < self.exponent_bounds[1]:
            raise ConfigError(f"exponent_bounds must be positive and rising, got {self.exponent_bounds}")
        if self.bootstrap < 0:
            raise ConfigError(f"bootstrap must not be negative, got {self.bootstrap}")
        if not 0 < self.confidence < 1:
            raise ConfigError(f"confidence must lie between 0 and 1, got {self.confidence}")


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A fitted law.

    Attributes:
        law: its form.
        parameters: name → estimate.
        intervals: name → percentile interval; None if the runs are too few.
        draws: name → bootstrap estimates, float [draws]; empty without intervals.
        residuals: log loss − log prediction, float [n].
        objective: summed Huber loss at the estimate.
        gradient: projected gradient there, relative to the largest one that residuals can cause.
        condition: condition number of the scaled Jacobian; if it is large, changes of parameters can compensate each
            other.
        aicc: small-sample Akaike criterion of the log residuals; None if there are too few points.
        num_points: n.
        confidence: level of the intervals.
        undetermined: names of parameters that the runs do not determine although they determine the curve: the interval
            is open on one side or wider than the value, or other parameters can compensate for them.
        warnings: warnings that every reader of the numbers must see.
    """

    law: Law
    parameters: Mapping[str, float]
    intervals: Mapping[str, Interval] | None
    draws: Mapping[str, FloatArray]
    residuals: FloatArray
    objective: float
    gradient: float
    condition: float
    aicc: float | None
    num_points: int
    confidence: float
    undetermined: tuple[str, ...]
    warnings: tuple[str, ...]

    def predict(self, columns: Columns) -> FloatArray:
        """Return the predicted loss, float [m]."""
        return self.law.predict(self.parameters, columns)

    def band(self, columns: Columns) -> tuple[FloatArray, FloatArray] | None:
        """Return the percentile interval of the prediction, two of float [m]; None without a bootstrap.

        It is the interval of the law. Single runs scatter around the law, see ``run_band``.
        """
        return self._ends(self._drawn(columns)) if self.draws else None

    def run_band(self, columns: Columns) -> tuple[FloatArray, FloatArray] | None:
        """Return the interval of the loss of a single run, two of float [m]; None without a bootstrap.

        Each draw of the law is moved by residuals of fitted runs, drawn at random. These are enlarged by
        √(n / (n − k)), as a law with k parameters is closer to the n runs that it was fitted to than to others. So
        single runs are expected to scatter everywhere as much as the fitted ones.
        """
        if not self.draws:
            return None
        free = max(self.num_points - len(self.law.parameters), 1)
        residuals = self.residuals * np.sqrt(self.num_points / free)
        predicted = self._drawn(columns)
        moves = np.random.default_rng(0).choice(residuals, size=(MOVES, len(predicted), 1))
        return self._ends((predicted * np.exp(moves)).reshape(-1, predicted.shape[1]))

    def _drawn(self, columns: Columns) -> FloatArray:
        """Return the prediction of every bootstrap draw, float [draws, m]."""
        wide = {name: np.asarray(column)[None, :] for name, column in columns.items()}
        return self.law.predict({name: values[:, None] for name, values in self.draws.items()}, wide)

    def _ends(self, values: FloatArray) -> tuple[FloatArray, FloatArray]:
        low, high = np.quantile(values, [(1 - self.confidence) / 2, (1 + self.confidence) / 2], axis=0)
        return low, high


def interval_at(band: tuple[FloatArray, FloatArray] | None, point: int) -> Interval | None:
    """Return the interval of one point of a band; None if there is no band."""
    return None if band is None else (float(band[0][point]), float(band[1][point]))


def fit_law(law: Law, points: Points, config: FitConfig) -> Fit:
    """Fit one law.

    Args:
        law: its form.
        points: the points to fit.
        config: settings.

    Raises:
        RunError: the points do not determine the law, the solver did not converge, or a term vanished.
    """
    reason = why_not_identifiable(law, points)
    if reason is not None:
        raise RunError(f"the law {law.label} ({law.formula}) cannot be fitted to these runs: {reason}")
    problem = make_problem(law, points.columns, points.loss, config.huber_delta, config.exponent_bounds)
    solution = _solve(problem, points.weight, config)
    # Of two minima that are equal up to rounding, prefer the one that converged.
    best = int(np.argmin(np.where(solution.converged, 1.0, 1.0 + 1e-9) * solution.objective))
    theta = solution.theta[best]
    _check_solution(law, problem, solution, best, points)
    residual, jacobian = residuals_and_jacobian(problem, theta[None])
    condition = _condition(jacobian[0], ~_held(problem, theta[None])[0])
    if condition > MAX_CONDITION:
        raise RunError(
            f"the law {law.label} cannot be fitted to these runs: its parameters can compensate each other without "
            f"changing the loss (condition number {condition:.1g}); use a law with fewer parameters or add runs"
        )
    warnings = _warnings(law, problem, theta, points)
    draws, undetermined, notes = _bootstrap(law, problem, points, theta, config)
    if condition > POOR_CONDITION:
        undetermined = law.parameters
        notes.append(
            f"the parameters can compensate each other (condition number {condition:.0f}): the runs determine the "
            "curve better than any single one of them"
        )
    parameters = _reported(law, problem, theta[None])
    return Fit(
        law=law,
        parameters={name: float(values[0]) for name, values in parameters.items()},
        intervals=_percentiles(draws, config.confidence) if draws else None,
        draws=draws,
        residuals=-residual[0],
        objective=float(solution.objective[best]),
        gradient=float(solution.gradient[best]),
        condition=condition,
        aicc=_aicc(residual[0], points.weight, len(law.parameters)),
        num_points=len(points),
        confidence=config.confidence,
        undetermined=undetermined,
        warnings=tuple(warnings + notes),
    )


def why_not_identifiable(law: Law, points: Points) -> str | None:
    """Return why the points cannot determine the parameters of the law; None if they can.

    A power needs two values of its variable, and a third if the law has another term.
    """
    no_loss = why_no_loss(points.columns, points.loss)
    if no_loss is not None:
        return no_loss
    missing = [name for name in law.columns if name not in points.columns]
    if missing == ["U"]:
        return "not all runs record U, the number of distinct molecules they had (for a table, --column U=HEADER)"
    if missing:
        return f"not all runs record {', '.join(missing)}, or their batch sizes differ"
    if law.fades is not None and not has_repeated(points):
        return f"no run saw its data twice (D is at most U), so that {law.fades} is not determined"
    needed = needed_values(law)
    for name in law.variables:
        values = points.columns[name]
        count = int(distinct(values).max()) + 1
        if count == 1:
            return f"{name} is constant ({values[0]:.4g} in every run)"
        if count < needed:
            return f"{name} has {count} distinct values, but {needed} are needed"
    if len(points) < len(law.parameters):
        what = "runs" if points.num_runs == len(points) else "points"
        return f"it has {len(law.parameters)} parameters, but there are only {len(points)} {what}"
    for i, one in enumerate(law.variables):
        for two in law.variables[i + 1 :]:
            correlation = np.corrcoef(np.log(points.columns[one]), np.log(points.columns[two]))[0, 1]
            if abs(correlation) > COLLINEAR:
                return f"{one} and {two} change together in all runs, so their effects cannot be separated"
    return None


def has_repeated(points: Points, epochs: float = REPEATED) -> bool:
    """Return whether some of the runs are known to have seen their data more than ``epochs`` times."""
    columns = points.columns
    return "U" in columns and bool(np.any(columns["D"] > epochs * columns["U"]))


def _solve(problem: RegressionProblem, weight: FloatArray, config: FitConfig) -> Solution:
    """Run a few iterations from the best grid cells, then continue with the best of those until convergence."""
    starts = grid_starts(problem, weight, GRID_CELLS, config.starts)
    weights = np.repeat(weight[None], len(starts), axis=0)
    screened = minimise(problem, starts, weights, config.tolerance, min(SCREENING_ITERATIONS, config.max_iterations))
    finalists = np.argsort(screened.objective, kind="stable")[:NUM_FINALISTS]
    chosen = screened.theta[finalists]
    return minimise(problem, chosen, weights[: len(chosen)], config.tolerance, config.max_iterations)


def _check_solution(law: Law, problem: RegressionProblem, solution: Solution, best: int, points: Points) -> None:
    causes = "; ".join(loss_causes(points.columns, points.loss))
    if not solution.converged[best]:
        raise RunError(
            f"the fit of the law {law.label} did not converge (relative gradient {solution.gradient[best]:.1e}); "
            f"no estimate is given: {causes or 'check the runs for outliers, or choose a simpler law'}"
        )
    vanished = absent(problem, solution.theta[best : best + 1])[0]
    for slot, owner in enumerate(problem.term_of_exponent):
        if vanished[owner]:
            term = law.terms[owner]
            cause = causes or f"the loss may not fall with {term.variable}"
            raise RunError(
                f"the law {law.label} does not describe these runs: its term {term.coefficient} in {term.variable} "
                f"vanishes, so that {term.exponent} is undetermined (it stood at "
                f"{solution.theta[best, problem.num_terms + slot]:.2g}); {cause}"
            )


def _held(problem: RegressionProblem, theta: FloatArray) -> np.ndarray:
    """Return which unknowns are at a bound, or belong to a term that is absent, bool [W, P]."""
    held: np.ndarray = (theta <= problem.lower) | (theta >= problem.upper)
    held[:, : problem.num_terms] |= absent(problem, theta)
    return held


def _condition(jacobian: FloatArray, free: np.ndarray) -> float:
    """Return the condition number of the Jacobian [P, n] over the free unknowns, columns scaled to equal length."""
    rows = jacobian[free]
    scaled = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    return float(np.linalg.cond(scaled))


def _reported(law: Law, problem: RegressionProblem, theta: FloatArray) -> dict[str, FloatArray]:
    """Convert unknowns [W, P] into the parameters of the formula, each float [W]; an absent constant is exactly 0."""
    reported: dict[str, FloatArray] = {}
    slots = {owner: problem.num_terms + slot for slot, owner in enumerate(problem.term_of_exponent)}
    vanished = absent(problem, theta)
    for index, term in enumerate(law.terms):
        log_coefficient = theta[:, index]
        if term.exponent is None:
            reported[term.coefficient] = np.where(vanished[:, index], 0.0, np.exp(log_coefficient))
            continue
        exponent = theta[:, slots[index]]
        log_scale = log_coefficient + exponent * problem.centre[index]
        reported[term.coefficient] = np.exp(log_scale / exponent if term.scaled else log_scale)
        reported[term.exponent] = -term.sign * exponent
        if term.fades is not None:
            reported[term.fades] = np.exp(theta[:, problem.log_fades])
    if law.own_outer is not None:
        reported[law.own_outer] = theta[:, -1]
    return reported


def _warnings(law: Law, problem: RegressionProblem, theta: FloatArray, points: Points) -> list[str]:
    warnings = [*points.cautions, *loss_causes(points.columns, points.loss)]
    num_sizes = int(distinct(points.columns["N"]).max()) + 1
    if num_sizes < MIN_SIZES:
        warnings.append(f"only {num_sizes} model sizes were fitted; a law needs {MIN_SIZES} or more")
    for name in law.variables:
        spread = float(points.columns[name].max() / points.columns[name].min())
        if spread < 10:
            warnings.append(f"{name} spans only a factor of {spread:.1f}, less than a decade")
    if len(points) == len(law.parameters):
        warnings.append("as many parameters as points: the curve passes through every point, which proves nothing")
    names = [term.coefficient for term in law.terms] + [term.exponent for term in law.terms if term.exponent]
    names += [name for name in (law.fades, law.own_outer) if name is not None]
    for name, at_bound in zip(names, _held(problem, theta[None])[0].tolist(), strict=True):
        if at_bound:
            warnings.append(f"{name} is at its bound, so its value comes from the bound, not from the runs")
    return warnings


def _aicc(residual: FloatArray, weight: FloatArray, num_parameters: int) -> float | None:
    """Akaike's criterion for normal log residuals, corrected for few points (Hurvich and Tsai 1989).

    Points along one run count as independent, which favours laws with more parameters. Therefore the error on left-out
    sizes has priority.
    """
    n, k = len(residual), num_parameters + 1  # the standard deviation is also a parameter
    if n - k - 1 <= 0:
        return None
    variance = max(float((weight * residual**2).mean()), 1e-24)
    return n * float(np.log(variance)) + 2 * k + 2 * k * (k + 1) / (n - k - 1)


def _bootstrap(
    law: Law, problem: RegressionProblem, points: Points, theta: FloatArray, config: FitConfig
) -> tuple[dict[str, FloatArray], tuple[str, ...], list[str]]:
    """Fit the law to runs drawn with replacement; return estimates, undetermined parameters and warnings."""
    if config.bootstrap == 0:
        return {}, (), []
    weights = draw_weights(law, points, config.bootstrap, config.seed)
    if len(weights) < config.bootstrap:
        return {}, (), [f"no intervals: {points.describe_families()} are too few to resample for this law"]
    fits = fit_draws(problem, theta, weights, config.tolerance, config.max_iterations)
    if fits.lost > MAX_LOST_DRAWS:
        return {}, (), [f"no intervals: {fits.lost:.0%} of the bootstrap fits did not converge"]
    notes = [f"{fits.lost:.0%} of the bootstrap fits did not converge and were left out"] if fits.lost > 0.02 else []
    draws = _reported(law, problem, fits.theta)
    at_bound = _at_bound(law, problem, fits.theta)
    intervals = _percentiles(draws, config.confidence)
    undetermined: list[str] = []
    for name, meaning in (
        (law.fades, "repeated data are worth either as much as new data or nothing"),
        (law.own_outer, "it ends at a bound, so how the terms of size and data join is open"),
    ):
        if name is not None and (note := _why_open(name, at_bound[name], intervals[name], meaning)):
            undetermined.append(name)
            notes.append(note)
    for term in law.terms:
        names = [term.coefficient] if term.exponent is None else [term.coefficient, term.exponent]
        open_share = max(at_bound[name] for name in names)
        low, high = intervals[names[-1]]
        if open_share > MAX_AT_BOUND:
            undetermined += names
            notes.append(
                f"{_and(names)} not determined by these runs: {open_share:.0%} of the bootstrap fits end at a "
                "bound, so that the interval is open on that side"
            )
        elif high - low > abs(float(np.median(draws[names[-1]]))):
            undetermined += names
            notes.append(f"{_and(names)} hardly determined by these runs: the interval is wider than the value")
    return draws, tuple(undetermined), notes


def _why_open(name: str, open_share: float, interval: Interval, meaning: str) -> str | None:
    """Return why R* or p is not determined; None if it is. Both are scales, so their interval is judged as a factor.

    Args:
        name: of the parameter.
        open_share: fraction of the bootstrap fits that end at a bound.
        interval: of the parameter.
        meaning: what it means that a fit ends there.
    """
    if open_share > MAX_AT_BOUND:
        return f"{name} is not determined by these runs: in {open_share:.0%} of the bootstrap fits {meaning}"
    factor = interval[1] / interval[0]
    if factor > WIDE_FACTOR:
        return f"{name} is hardly determined by these runs: its interval spans a factor of {factor:.2g}"
    return None


def _and(names: list[str]) -> str:
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _at_bound(law: Law, problem: RegressionProblem, theta: FloatArray) -> dict[str, float]:
    """Return, for every parameter, the fraction of the unknowns [W, P] that do not determine it.

    That is so if the exponent or the coefficient of its term is at a bound.
    """
    held = _held(problem, theta)
    slots = {owner: problem.num_terms + slot for slot, owner in enumerate(problem.term_of_exponent)}
    shares = {}
    for index, term in enumerate(law.terms):
        either = held[:, index] | (held[:, slots[index]] if index in slots else False)
        shares[term.coefficient] = float(either.mean())
        if term.exponent is not None:
            shares[term.exponent] = float(either.mean())
        if term.fades is not None:
            shares[term.fades] = float((either | held[:, problem.log_fades]).mean())
    if law.own_outer is not None:
        shares[law.own_outer] = float(held[:, -1].mean())
    return shares


def _percentiles(draws: Mapping[str, FloatArray], confidence: float) -> dict[str, Interval]:
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    intervals = {}
    for name, values in draws.items():
        low, high = np.quantile(values, tails)
        intervals[name] = (float(low), float(high))
    return intervals
