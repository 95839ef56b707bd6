"""The law from pretraining loss to error on a task, and its predictions through the law of the loss. No torch.

Three forms are fitted by least squares of the relative error; the one that best predicts left-out runs is chosen:

    constant   error = e0             the task does not depend on the loss here
    power      error = k·L^p
    floor      error = e0 + k·L^p

For a given p the other unknowns are linear, so only p has to be searched. A bootstrap draws runs with replacement, with
all their rows. For a prediction, each draw uses an independent draw of the first law's bootstrap for the loss.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from unimol_scale.errors import RunError
from unimol_scale.scaling.law.analysis import Analysis, Prediction
from unimol_scale.scaling.law.fit import FitConfig, Interval
from unimol_scale.scaling.law.laws import FloatArray
from unimol_scale.scaling.law.points import columns_at
from unimol_scale.scaling.tasks.task_table import TaskResult

Form = Literal["constant", "power", "floor"]
FORMULAS: Mapping[Form, str] = {"constant": "error = e0", "power": "error = k*L^p", "floor": "error = e0 + k*L^p"}
UNKNOWNS: Mapping[Form, int] = {"constant": 1, "power": 2, "floor": 3}
MIN_RUNS = 4
MIN_SPREAD = 1.02  # ratio of largest to smallest loss; a smaller one says nothing about the dependence
POWERS = np.geomspace(0.05, 20.0, 120)
PASSES, CLOSER = 3, 25  # searches for p, and values in the later ones
REACH = 1.02  # a loss within this factor of those of the runs is not extrapolated
FEWEST_DRAWN = 3  # fewest distinct runs in a bootstrap draw


@dataclass(frozen=True, kw_only=True)
class TaskCandidate:
    """A form that was considered: its error on left-out runs, mean |prediction / error − 1|, or why it has none."""

    form: Form
    left_out_error: float | None = None
    obstacle: str | None = None


@dataclass(frozen=True, kw_only=True)
class TaskPrediction:
    """The error predicted for a model and a budget.

    Attributes:
        request: SIZE@MOLECULES.
        loss: loss by the law of the loss.
        error: error by the law of the task; None if it is not determined (``obstacle``).
        interval: interval of both laws combined; None without a bootstrap of either.
        notes: how far it is extrapolated.
        obstacle: why there is no error.
    """

    request: str
    loss: float
    error: float | None
    interval: Interval | None = None
    notes: tuple[str, ...] = ()
    obstacle: str | None = None


@dataclass(frozen=True, kw_only=True)
class TaskLaw:
    """The law of one task.

    Attributes:
        task: its name.
        metric: name of the metric; if higher is better, the error is 1 − metric.
        results: the rows.
        form: the chosen form; None if the rows determine none (``obstacle``).
        candidates: all forms.
        parameters: e0, k and p, as far as the form has them.
        intervals: intervals of the parameters; None without a bootstrap.
        draws: e0, k and p of the bootstrap, float [draws, 3], zero where the form lacks them.
        confidence: level of the intervals.
        undetermined: whether the interval of p includes values with which the error does not fall with the loss.
        predictions: one per request.
        obstacle: why there is no law.
    """

    task: str
    metric: str
    results: tuple[TaskResult, ...]
    form: Form | None = None
    candidates: tuple[TaskCandidate, ...] = ()
    parameters: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, Interval] | None = None
    draws: FloatArray = field(default_factory=lambda: np.zeros((0, 3)))
    confidence: float = 0.9
    undetermined: bool = False
    predictions: tuple[TaskPrediction, ...] = ()
    obstacle: str | None = None

    @property
    def losses(self) -> FloatArray:
        """Pretraining loss of every row, float [n]."""
        return np.array([result.loss for result in self.results])

    @property
    def errors(self) -> FloatArray:
        """Error of every row, float [n]."""
        return np.array([result.error for result in self.results])

    def predict(self, loss: FloatArray) -> FloatArray:
        """Return the error at losses, float [m]."""
        unknowns = [self.parameters.get(name, 0.0) for name in ("e0", "k", "p")]
        return _value(np.array(unknowns), loss)

    def band(self, loss: FloatArray) -> tuple[FloatArray, FloatArray] | None:
        """Return the interval of the law at losses, two of float [m]; None without a bootstrap."""
        if not len(self.draws):
            return None
        low, high = np.quantile(_value(self.draws[:, :, None], loss), _tails(self.confidence), axis=0)
        return low, high


def fit_tasks(results: Sequence[TaskResult], analysis: Analysis, config: FitConfig) -> tuple[TaskLaw, ...]:
    """Fit the law of every task, and chain it with the law of the loss.

    Args:
        results: rows of the table.
        analysis: the law of the loss, with its predictions.
        config: its ``bootstrap``, ``confidence`` and ``seed`` are used.

    Raises:
        RunError: no task has a law.
    """
    laws = []
    for task in dict.fromkeys(result.task for result in results):
        law = fit_task([result for result in results if result.task == task], config)
        if law.form is not None:
            predictions = tuple(predict_task(law, analysis, one) for one in analysis.predictions)
            law = TaskLaw(**{**vars(law), "predictions": predictions})
        laws.append(law)
    if all(law.form is None for law in laws):
        raise RunError("no task has a law: " + "; ".join(f"{law.task}: {law.obstacle}" for law in laws))
    return tuple(laws)


def fit_task(results: Sequence[TaskResult], config: FitConfig) -> TaskLaw:
    """Fit the law of one task to its rows, which share a task and a metric."""
    unfitted = TaskLaw(
        task=results[0].task, metric=results[0].metric, results=tuple(results), confidence=config.confidence
    )
    loss, error = unfitted.losses, unfitted.errors
    runs = np.unique([result.run for result in results], return_inverse=True)[1]
    obstacle = _why_not(loss, runs)
    if obstacle is not None:
        return TaskLaw(**{**vars(unfitted), "obstacle": obstacle})
    considered = [_consider(form, loss, error, runs) for form in FORMULAS]
    form = _choose(considered)
    ones = np.ones((1, len(loss)))
    (estimate,) = _fit(form, loss, error, ones)
    draws = _bootstrap(form, loss, error, runs, config)
    names = {"constant": ("e0",), "power": ("k", "p"), "floor": ("e0", "k", "p")}[form]
    places = {"e0": 0, "k": 1, "p": 2}
    ends = {name: np.quantile(draws[:, places[name]], _tails(config.confidence)) for name in names if len(draws)}
    intervals = {name: (float(low), float(high)) for name, (low, high) in ends.items()}
    flat = form != "constant" and bool(intervals) and intervals["p"][0] <= 1.01 * float(POWERS[0])
    return TaskLaw(
        **{
            **vars(unfitted),
            "form": form,
            "candidates": tuple(candidate for candidate, _ in considered),
            "parameters": {name: float(estimate[places[name]]) for name in names},
            "intervals": intervals or None,
            "draws": draws,
            "undetermined": flat,
        }
    )


def predict_task(law: TaskLaw, analysis: Analysis, prediction: Prediction) -> TaskPrediction:
    """Return the error on a task for a prediction of the loss."""
    loss, low, high = prediction.loss, float(law.losses.min()), float(law.losses.max())
    outside = max(low / loss, loss / high)
    notes = [f"loss: {note}" for note in prediction.notes]
    if outside > REACH:
        side, end = ("below the lowest", low) if loss < low else ("above the highest", high)
        notes.append(f"a loss of {loss:.4g} is {side} of the models measured on the task ({end:.4g})")
        if law.undetermined:
            return TaskPrediction(
                request=prediction.request,
                loss=loss,
                error=None,
                notes=tuple(notes),
                obstacle="the rows do not determine the error beyond them, since the interval of p includes zero",
            )
    if law.form == "constant":
        notes.append("the task does not depend on the loss of these models")
    return TaskPrediction(
        request=prediction.request,
        loss=loss,
        error=float(law.predict(np.array([loss]))[0]),
        interval=_interval(law, analysis, prediction),
        notes=tuple(notes),
    )


def _interval(law: TaskLaw, analysis: Analysis, prediction: Prediction) -> Interval | None:
    fit = analysis.fit
    if not len(law.draws) or not fit.draws:
        return None
    columns = columns_at(analysis.points, np.array([prediction.parameters]), np.array([prediction.molecules]))
    wide = {name: np.asarray(column)[None, :] for name, column in columns.items()}
    losses = fit.law.predict({name: values[:, None] for name, values in fit.draws.items()}, wide)[:, 0]
    rng = np.random.default_rng(0)
    drawn = rng.choice(losses, size=len(law.draws))
    low, high = np.quantile(_value(law.draws, drawn), _tails(law.confidence))
    return float(low), float(high)


def _why_not(loss: FloatArray, runs: np.ndarray) -> str | None:
    count = int(runs.max()) + 1
    if count < MIN_RUNS:
        return f"{count} pretraining runs were measured, but {MIN_RUNS} are needed"
    if loss.max() < MIN_SPREAD * loss.min():
        return (
            f"the losses of the runs, {loss.min():.4g} to {loss.max():.4g}, are almost the same; measure smaller "
            "models, or earlier checkpoints, as well"
        )
    return None


def _value(unknowns: FloatArray, loss: FloatArray) -> FloatArray:
    """Return e0 + k·L^p for unknowns [3], [B, 3] or [B, 3, 1] at losses."""
    if unknowns.ndim == 1:
        floor, scale, power = unknowns
    else:
        floor, scale, power = unknowns[:, 0], unknowns[:, 1], unknowns[:, 2]
    result: FloatArray = floor + scale * loss**power
    return result


def _tails(confidence: float) -> list[float]:
    return [(1 - confidence) / 2, (1 + confidence) / 2]


def _fit(form: Form, loss: FloatArray, error: FloatArray, weights: FloatArray) -> FloatArray:
    """Fit a form for every weighting of the rows, searching for p.

    Args:
        form: of the law.
        loss: float [n].
        error: float [n].
        weights: float [B, n].

    Returns:
        e0, k and p, float [B, 3], zero where the form lacks them.
    """
    inverse = 1.0 / error
    if form == "constant":
        floor = (weights @ inverse) / (weights @ inverse**2)
        return np.stack([floor, np.zeros(len(floor)), np.zeros(len(floor))], axis=1)
    # Losses are divided by their mean, so that high powers do not over- or underflow.
    centre = float(np.exp(np.log(loss).mean()))
    powers = POWERS[None]
    for _ in range(PASSES):
        step = powers[:, 1:2] / powers[:, :1]
        floor, scale, cost = _for_powers(form, loss / centre, inverse, weights, powers)
        rows, chosen = np.arange(len(weights)), np.argmin(cost, axis=1)
        power = np.broadcast_to(powers, cost.shape)[rows, chosen]
        found = np.stack([floor[rows, chosen], scale[rows, chosen] * centre**-power, power], axis=1)
        # A finer search between the neighbours of the best value.
        powers = np.clip(power[:, None] * step ** np.linspace(-1.0, 1.0, CLOSER), POWERS[0], POWERS[-1])
    return found


def _for_powers(
    form: Form, loss: FloatArray, inverse: FloatArray, weights: FloatArray, powers: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return e0, k and the cost, float [B, G], of the best e0 and k that are not negative, for powers [B or 1, G]."""
    basis = loss ** powers[:, :, None] * inverse  # [B or 1, G, n]
    summed = "bn,cgn->bg" if len(basis) == 1 else "bn,bgn->bg"
    ones, moment = np.einsum(summed, weights, basis**2), np.einsum(summed, weights, basis)
    alone = moment / ones
    total = weights.sum(axis=1, keepdims=True)
    cost = total - alone * moment
    if form == "power":
        return np.zeros_like(alone), alone, cost
    cross = np.einsum(summed, weights, basis * inverse)
    own, target = (weights @ inverse**2)[:, None], (weights @ inverse)[:, None]
    determinant = np.maximum(ones * own - cross**2, 1e-300)
    floor = (ones * target - cross * moment) / determinant
    scale = (own * moment - cross * target) / determinant
    both = total - floor * target - scale * moment
    better = (floor > 0) & (scale > 0) & (both < cost)
    return np.where(better, floor, 0.0), np.where(better, scale, alone), np.where(better, both, cost)


def _consider(form: Form, loss: FloatArray, error: FloatArray, runs: np.ndarray) -> tuple[TaskCandidate, FloatArray]:
    """Predict every run from the others; return the candidate, and its error on each run, float [R], if it has any."""
    count = int(runs.max()) + 1
    if count < UNKNOWNS[form] + 2:
        why = f"{count} runs are too few to fit {UNKNOWNS[form]} unknowns and test them"
        return TaskCandidate(form=form, obstacle=why), np.zeros(0)
    weights = np.array([runs != run for run in range(count)], dtype=np.float64)
    unknowns = _fit(form, loss, error, weights)
    # A run counts as one, however many rows it has.
    errors = np.array(
        [np.abs(_value(unknowns[run], loss[runs == run]) / error[runs == run] - 1).mean() for run in range(count)]
    )
    return TaskCandidate(form=form, left_out_error=float(errors.mean())), errors


def _choose(considered: Sequence[tuple[TaskCandidate, FloatArray]]) -> Form:
    """Return the form with the lowest error on left-out runs; an additional unknown must win by one standard error."""
    (chosen, lowest), *others = considered
    for one, errors in others:
        if len(errors):
            gain = lowest - errors
            if gain.mean() > gain.std(ddof=1) / np.sqrt(len(gain)):
                chosen, lowest = one, errors
    return chosen.form


def _bootstrap(form: Form, loss: FloatArray, error: FloatArray, runs: np.ndarray, config: FitConfig) -> FloatArray:
    """Return e0, k and p of runs drawn with replacement, float [draws, 3]."""
    count = int(runs.max()) + 1
    rng = np.random.default_rng(config.seed)
    drawn = rng.multinomial(count, np.full(count, 1.0 / count), size=2 * config.bootstrap)
    drawn = drawn[(drawn > 0).sum(axis=1) >= FEWEST_DRAWN][: config.bootstrap]
    if not len(drawn):
        return np.zeros((0, 3))
    return _fit(form, loss, error, drawn[:, runs].astype(np.float64))
