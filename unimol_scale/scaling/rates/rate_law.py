"""The law of the best learning rate, log lr* = a + b·log N + c·log D + d·log batch. Imports no torch.

It is a linear regression of the log of the sweeps' best rates. Its intervals come from a bootstrap-t: residuals are
resampled, and each draw is divided by its own standard error, which accounts for the small number of sweeps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unimol_scale.errors import ConfigError, RunError
from unimol_scale.scaling.law.fit import Interval
from unimol_scale.scaling.law.laws import FloatArray
from unimol_scale.scaling.law.points import ParameterGroup
from unimol_scale.scaling.rates.sweeps import Minimum, minima_of, sweeps_of
from unimol_scale.scaling.runs.run_records import RunRecord

EXPONENTS = {"N": "b", "D": "c", "batch": "d"}
COLLINEAR = 0.99  # above this multiple correlation a variable's effect cannot be separated from that of others
SPREAD = 1.2  # ratio of largest to smallest value from which a variable counts as varied


@dataclass(frozen=True, kw_only=True)
class RateFitConfig:
    """Settings of a fit.

    Attributes:
        parameters: which parameters N counts.
        bootstrap: draws for the intervals; 0 for none.
        confidence: of the intervals.
        seed: of the draws.
    """

    parameters: ParameterGroup = "total"
    bootstrap: int = 1000
    confidence: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.bootstrap < 0 or not 0 < self.confidence < 1:
            raise ConfigError("bootstrap must not be negative, and confidence lie between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class RateLaw:
    """The law lr* = exp(a) · N^b · D^c · batch^d, with the variables that varied.

    Attributes:
        coefficients: "a", and "b" of N, "c" of D, "d" of batch if they varied → estimate.
        intervals: name → interval; None if there are too few sweeps.
        ranges: "N", "D", and "batch" if known → smallest and largest value of the sweeps.
        parameters_counted: which parameters N counts.
    """

    coefficients: Mapping[str, float]
    intervals: Mapping[str, Interval] | None
    ranges: Mapping[str, Interval]
    parameters_counted: ParameterGroup = "total"

    @property
    def formula(self) -> str:
        """The law as one line of text."""
        terms = [f"{name} log {variable}" for variable, name in EXPONENTS.items() if name in self.coefficients]
        return " + ".join(["log lr* = a", *terms])

    def rate(self, parameters: float, molecules: float, batch: float | None) -> float:
        """Return the best learning rate for a run."""
        values = {"N": parameters, "D": molecules, "batch": batch}
        total = self.coefficients["a"]
        for variable, name in EXPONENTS.items():
            if name in self.coefficients:
                value = values[variable]
                if not value:
                    raise RunError(f"the law of the learning rate needs {variable}, which is unknown here")
                total += self.coefficients[name] * float(np.log(value))
        return float(np.exp(total))

    def beyond(self, parameters: float, molecules: float, batch: float | None) -> list[str]:
        """Return how far the law is extrapolated, one phrase per variable; [] if it is not."""
        notes = []
        for variable, value in (("N", parameters), ("D", molecules), ("batch", batch)):
            if variable not in self.ranges or value is None:
                continue
            low, high = self.ranges[variable]
            fitted = "" if EXPONENTS[variable] in self.coefficients else ", which the law does not depend on"
            if value > 1.01 * high:
                notes.append(f"{variable} is {value / high:.3g} times the largest of the sweeps{fitted}")
            elif value < low / 1.01:
                notes.append(f"{variable} is {value / low:.3g} times the smallest of the sweeps{fitted}")
        return notes


@dataclass(frozen=True, kw_only=True)
class RateAnalysis:
    """A fitted law and what it is based on.

    Attributes:
        config: settings.
        records: the runs.
        notes: runs left out, and why.
        minima: one per sweep, including sweeps without a minimum.
        law: law of the best rates.
        residuals: log best rate − log law, of the sweeps with a minimum, float [m].
        left_out_error: mean |law / best rate − 1| over sweeps that were left out one at a time; None if there are too
            few.
        design: design matrix of the regression, float [m, p]; see ``interval_at``.
        studentised: bootstrap draws of (estimate − truth), float [draws, p], and of the scale of each, float [draws].
        warnings: warnings that every reader of the numbers must see.
    """

    config: RateFitConfig
    records: tuple[RunRecord, ...]
    notes: tuple[str, ...]
    minima: tuple[Minimum, ...]
    law: RateLaw
    residuals: FloatArray
    left_out_error: float | None
    design: FloatArray
    studentised: tuple[FloatArray, FloatArray] | None
    warnings: tuple[str, ...]

    def interval_at(self, parameters: FloatArray, molecules: FloatArray, batch: FloatArray) -> FloatArray | None:
        """Return the interval of the law at m points, float [m, 2]; None if there is none."""
        columns = {"N": parameters, "D": molecules, "batch": batch}
        names = [variable for variable, name in EXPONENTS.items() if name in self.law.coefficients]
        rows = np.stack([np.ones(len(parameters)), *(np.log(columns[name]) for name in names)], axis=1)
        ends = _intervals(rows, self.design, self.law, self.studentised, self.residuals, self.config)
        return None if ends is None else np.exp(ends)


def fit_rates(records: Sequence[RunRecord], notes: Sequence[str], config: RateFitConfig) -> RateAnalysis:
    """Find the best rate of every sweep, and fit the law to them.

    Args:
        records: runs that are comparable except for their learning rates and batch sizes.
        notes: runs left out, for the report.
        config: settings.

    Raises:
        RunError: the runs are not sweeps, or too few sweeps have a minimum.
    """
    minima = minima_of(sweeps_of(records, config.parameters))
    usable = [one for one in minima if one.rate is not None]
    warnings = [f"{one.sweep.label}: {one.obstacle}" for one in minima if one.obstacle is not None]
    if not usable:
        raise RunError(f"no sweep has a minimum, so there is no best rate: {'; '.join(warnings)}")
    columns = {
        "N": np.array([one.sweep.parameters for one in usable]),
        "D": np.array([one.sweep.molecules for one in usable]),
        "batch": np.array([float(one.sweep.batch or 0) for one in usable]),
    }
    names, why = _variables(columns)
    warnings += why
    target = np.log([one.rate for one in usable if one.rate is not None])
    design = np.stack([np.ones(len(usable)), *(np.log(columns[name]) for name in names)], axis=1)
    estimate = _solve(design, target)
    law = RateLaw(
        coefficients=dict(zip(["a", *(EXPONENTS[name] for name in names)], estimate.tolist(), strict=True)),
        intervals=None,
        ranges={name: (float(values.min()), float(values.max())) for name, values in columns.items() if values.all()},
        parameters_counted=config.parameters,
    )
    residuals = target - design @ estimate
    studentised = _bootstrap(design, residuals, config)
    if studentised is None and config.bootstrap:
        warnings.append(
            f"no intervals: {len(usable)} sweeps with a minimum are too few for {len(estimate)} coefficients"
        )
    ends = _intervals(np.eye(len(estimate)), design, law, studentised, residuals, config)
    if ends is not None:
        pairs = {name: (float(low), float(high)) for name, (low, high) in zip(law.coefficients, ends, strict=True)}
        law = RateLaw(**{**vars(law), "intervals": pairs})
    return RateAnalysis(
        config=config,
        records=tuple(records),
        notes=tuple(notes),
        minima=tuple(minima),
        law=law,
        residuals=residuals,
        left_out_error=_left_out_error(design, target),
        design=design,
        studentised=studentised,
        warnings=tuple(warnings),
    )


def _variables(columns: Mapping[str, FloatArray]) -> tuple[list[str], list[str]]:
    """Return the variables whose effects the sweeps determine, and why the others are not determined."""
    chosen: list[str] = []
    why = []
    for name in EXPONENTS:
        values = columns[name]
        if not values.all():
            why.append(f"not all runs record their {name} size, so its effect is not fitted")
            continue
        if values.max() < SPREAD * values.min():
            why.append(f"{name} is {values[0]:.4g} in every sweep, so its effect is not fitted")
            continue
        if len(values) < len(chosen) + 2:
            why.append(f"{len(values)} sweeps with a minimum are too few to fit the effect of {name} as well")
            continue
        basis = np.stack([np.ones(len(values)), *(np.log(columns[one]) for one in chosen)], axis=1)
        logs: FloatArray = np.log(values)
        rest = logs - basis @ _solve(basis, logs)
        if 1 - float((rest**2).sum() / ((logs - logs.mean()) ** 2).sum()) > COLLINEAR**2:
            with_it = " and ".join(chosen)
            why.append(
                f"{name} changes together with {with_it} in these sweeps, so their effects cannot be separated: the "
                f"exponent of {with_it} is that of both together"
            )
            continue
        chosen.append(name)
    if not chosen:
        raise RunError(f"the sweeps with a minimum do not differ in N, D or batch: there is no law ({'; '.join(why)})")
    return chosen, why


def _solve(design: FloatArray, target: FloatArray) -> FloatArray:
    solution: FloatArray = np.asarray(np.linalg.lstsq(design, target, rcond=None)[0], dtype=np.float64)
    return solution


def _bootstrap(
    design: FloatArray, residuals: FloatArray, config: RateFitConfig
) -> tuple[FloatArray, FloatArray] | None:
    """Return draws of the error of the estimate, float [draws, p], and of the residual scale, float [draws]."""
    count, width = design.shape
    if config.bootstrap == 0 or count < width + 2:
        return None
    hat = design @ np.linalg.pinv(design)
    # Residuals are smaller than the errors, by a factor that depends on the leverage.
    pool = residuals / np.sqrt(np.maximum(1 - np.diag(hat), 1e-6))
    pool = pool - pool.mean()
    rng = np.random.default_rng(config.seed)
    drawn = rng.choice(pool, size=(config.bootstrap, count))
    errors = drawn @ np.linalg.pinv(design).T
    scale = np.sqrt(((drawn - drawn @ hat.T) ** 2).sum(axis=1) / (count - width))
    kept = scale > 1e-6 * max(float(scale.max()), 1e-300)
    return errors[kept], scale[kept]


def _intervals(
    rows: FloatArray,
    design: FloatArray,
    law: RateLaw,
    studentised: tuple[FloatArray, FloatArray] | None,
    residuals: FloatArray,
    config: RateFitConfig,
) -> FloatArray | None:
    """Return the interval of every linear combination of the coefficients, float [m, 2], for rows [m, p]."""
    if studentised is None:
        return None
    errors, scale = studentised
    own = np.sqrt((residuals**2).sum() / (len(residuals) - design.shape[1]))
    estimate = rows @ np.array(list(law.coefficients.values()))
    relative = (errors @ rows.T) / scale[:, None]
    tails = [(1 + config.confidence) / 2, (1 - config.confidence) / 2]
    high, low = np.quantile(relative, tails, axis=0)
    return np.stack([estimate - own * high, estimate - own * low], axis=1)


def _left_out_error(design: FloatArray, target: FloatArray) -> float | None:
    count, width = design.shape
    if count < width + 2:
        return None
    errors = []
    for place in range(count):
        rest = np.arange(count) != place
        if np.linalg.matrix_rank(design[rest]) < width:
            return None
        errors.append(abs(float(np.exp(design[place] @ _solve(design[rest], target[rest]) - target[place])) - 1))
    return float(np.mean(errors))
