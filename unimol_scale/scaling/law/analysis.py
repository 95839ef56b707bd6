"""Analyses finished runs: chooses and fits a law, tests it on held-out runs, predicts. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from unimol_scale.common.units import engineering
from unimol_scale.errors import ConfigError, RunError, nearest
from unimol_scale.scaling.law.burn_in import BurnIn, burn_in_of
from unimol_scale.scaling.law.fit import Fit, FitConfig, Interval, fit_law, interval_at
from unimol_scale.scaling.law.law_choice import Candidate, LawChoice, candidate_laws, choose_law, hold_out_mask
from unimol_scale.scaling.law.laws import Law, Variable
from unimol_scale.scaling.law.optimal import Optimum, compute_optimal, weighs_size_against_data
from unimol_scale.scaling.law.points import PARAMETER_GROUPS, ParameterGroup, Points, columns_at, distinct, make_points
from unimol_scale.scaling.law.registry import LAWS
from unimol_scale.scaling.law.statistics import Statistics, statistics_of
from unimol_scale.scaling.runs.counts import groups_of_size, parse_count
from unimol_scale.scaling.runs.run_records import DATA_UNITS, DataUnit, RunRecord

SAME_BUDGET = 0.05  # a law without D holds for the budget of its runs within this relative difference


@dataclass(frozen=True, kw_only=True)
class AnalysisConfig:
    """Settings of an analysis.

    Attributes:
        law: "auto", one of the laws, or package.module:Class for one of your own.
        variable: column of a one-variable law; None takes the one that varies (compute if N and D both do).
        hold_out: see ``law_choice.hold_out_mask``.
        parameters: which parameters N counts.
        predict: requests of the form SIZE@MOLECULES.
        budgets: FLOPs for which the compute-optimal size and data are computed.
        distinct: distinct molecules available for predictions and budgets; None: the largest number that any run had.
        data_unit: what D counts, for the report's wording; None: as recorded in the runs or the table.
        burn_in: fit all points along every run after this fraction of its molecules.
        burn_in_steps: the same, after this number of its steps. If neither is set, only the ends of the runs are
            fitted.
        fit: settings of every fit.
    """

    law: str = "auto"
    variable: Variable | None = None
    hold_out: str = "largest"
    parameters: ParameterGroup = "total"
    predict: tuple[str, ...] = ()
    budgets: tuple[float, ...] = ()
    distinct: float | None = None
    data_unit: DataUnit | None = None
    burn_in: float | None = None
    burn_in_steps: int | None = None
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        """Check names."""
        LAWS.check(self.law, "--law", ("auto",))
        entry = None if self.law == "auto" else LAWS.entry(self.law)
        if self.variable is not None and not (entry and entry.one_variable):
            names = ", ".join(name for name, law in LAWS.items() if law.one_variable)
            raise ConfigError(f"--variable belongs to the laws in one variable ({names}), not to {self.law}")
        if self.data_unit is not None and self.data_unit not in DATA_UNITS:
            raise ConfigError(f"--data-unit: unknown unit {self.data_unit!r}; {nearest(self.data_unit, DATA_UNITS)}")
        burn_in_of(self.burn_in, self.burn_in_steps)

    @property
    def left_out(self) -> BurnIn | None:
        """What is left out at the start of every run; None if only the ends of the runs are fitted."""
        return burn_in_of(self.burn_in, self.burn_in_steps)


@dataclass(frozen=True, kw_only=True)
class HeldOutPoint:
    """A held-out point and its prediction; ``relative_error`` is prediction / loss − 1.

    A run has one point, or with trajectories one per validation, after ``molecules`` molecules. ``interval`` is that of
    the law, ``run_interval`` that of a single run.
    """

    name: str
    molecules: float
    loss: float
    predicted: float
    interval: Interval | None
    run_interval: Interval | None
    relative_error: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The loss predicted for a model and a budget; ``notes`` say how far it is extrapolated.

    ``interval`` is that of the law, ``run_interval`` that of a single run, which scatters around the law.
    """

    request: str
    parameters: float
    molecules: float
    loss: float
    interval: Interval | None
    run_interval: Interval | None
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TermLaw:
    """The law of one loss term: its fit and held-out points, or why it could not be fitted (``obstacle``)."""

    term: str
    points: Points | None
    fit: Fit | None
    checks: tuple[HeldOutPoint, ...]
    obstacle: str | None


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Results of an analysis: everything that the report shows.

    Attributes:
        config: settings.
        records: the runs; ``points.runs`` are indices into them.
        notes: runs left out, and why.
        points: one point per run, in the same order; with trajectories several.
        held_out: which points were not fitted, bool [n].
        selection: the law and why it was chosen.
        fit: fit of the law to the points that were not held out.
        checks: the held-out points.
        statistics: name of every held-out size, and "all" → statistics of its points; empty if nothing was held out.
        terms: the law of every loss term.
        predictions: one per request.
        optima: one per budget that has an optimum.
        unanswered: why the other budgets have none.
    """

    config: AnalysisConfig
    records: tuple[RunRecord, ...]
    notes: tuple[str, ...]
    points: Points
    held_out: np.ndarray
    selection: LawChoice
    fit: Fit
    checks: tuple[HeldOutPoint, ...]
    statistics: Mapping[str, Statistics]
    terms: tuple[TermLaw, ...]
    predictions: tuple[Prediction, ...]
    optima: tuple[Optimum, ...]
    unanswered: tuple[str, ...] = ()

    @property
    def held_out_error(self) -> float | None:
        """Mean |relative error| of the held-out points; None when nothing was held out."""
        return self.statistics["all"].relative_error if self.statistics else None


def analyse(records: Sequence[RunRecord], notes: Sequence[str], config: AnalysisConfig) -> Analysis:
    """Fit the law, test it on the held-out points, and do the same for every loss term.

    Args:
        records: runs that can be compared.
        notes: runs left out, for the report.
        config: settings.

    Raises:
        RunError: the runs do not determine the law, or a prediction is not possible. A budget without an optimum is no
            error; see ``Analysis.unanswered``.
    """
    requests = [_parse_request(request, records, config.parameters) for request in config.predict]
    points = make_points(records, config.parameters, None, config.burn_in, config.burn_in_steps)
    points = replace(points, stock=config.distinct, unit=config.data_unit or points.unit)
    held_out = hold_out_mask(points, config.hold_out)
    selection, fit = _fit(points.take(~held_out), config)
    _check_distinct(fit.law, config)
    rest = points.take(held_out)
    names = sorted({name for record in records for name in record.terms})
    optima, unanswered = _optima(fit, points, config.budgets)
    return Analysis(
        config=config,
        records=tuple(records),
        notes=tuple(notes),
        points=points,
        held_out=held_out,
        selection=selection,
        fit=fit,
        checks=_checks(fit, rest),
        statistics=_statistics(fit, rest, records),
        terms=tuple(_term_law(name, records, config) for name in names),
        predictions=tuple(_predict(request, fit, points) for request in requests),
        optima=optima,
        unanswered=unanswered,
    )


def _check_distinct(law: Law, config: AnalysisConfig) -> None:
    if config.distinct is not None and law.fades is None:
        raise RunError(
            f"--distinct sets the number of distinct molecules, but the law {law.label} does not distinguish repeated "
            "data from new data; use --law repeated"
        )


def _optima(fit: Fit, points: Points, budgets: Sequence[float]) -> tuple[tuple[Optimum, ...], tuple[str, ...]]:
    """Return the optimum of every budget, and why some budgets have none, which is no error."""
    optima, unanswered = [], []
    for budget in budgets:
        try:
            optima.append(compute_optimal(fit, points, budget))
        except RunError as error:
            unanswered.append(str(error))
    return tuple(optima), tuple(unanswered)


def _fit(points: Points, config: AnalysisConfig) -> tuple[LawChoice, Fit]:
    laws = _laws(points, config)
    if len(laws) == 1 and config.law != "auto":
        law = laws[0]
        selection = LawChoice(law=law, reason="it was asked for", candidates=(Candidate(law=law),))
    else:
        selection = choose_law(laws, points, config.fit)
    return selection, fit_law(selection.law, points, config.fit)


def _laws(points: Points, config: AnalysisConfig) -> list[Law]:
    if config.law == "auto":
        laws = candidate_laws(points)
        # The optimum of a budget needs a law in size and data.
        allocating = [law for law in laws if weighs_size_against_data(law)]
        return allocating if config.budgets and allocating else laws
    entry = LAWS.entry(config.law)
    if config.variable is None and (fitting := candidate_laws(points, (entry,))):
        return fitting
    return [entry.make(config.variable or "N")]


def _checks(fit: Fit, points: Points) -> tuple[HeldOutPoint, ...]:
    if not len(points):
        return ()
    predicted = fit.predict(points.columns)
    band, run_band = fit.band(points.columns), fit.run_band(points.columns)
    return tuple(
        HeldOutPoint(
            name=name,
            molecules=float(points.columns["D"][i]),
            loss=float(points.loss[i]),
            predicted=float(predicted[i]),
            interval=interval_at(band, i),
            run_interval=interval_at(run_band, i),
            relative_error=float(predicted[i] / points.loss[i] - 1),
        )
        for i, name in enumerate(points.names)
    )


def _statistics(fit: Fit, points: Points, records: Sequence[RunRecord]) -> dict[str, Statistics]:
    if not len(points):
        return {}
    predicted = fit.predict(points.columns)
    sizes = distinct(points.columns["N"])
    found = {}
    for size in range(int(sizes.max()) + 1):
        chosen = sizes == size
        record = records[int(points.runs[chosen][0])]
        name = record.size or f"N = {points.columns['N'][chosen][0]:.4g}"
        found[name] = statistics_of(predicted[chosen], points.loss[chosen])
    return {**found, "all": statistics_of(predicted, points.loss)}


def _term_law(name: str, records: Sequence[RunRecord], config: AnalysisConfig) -> TermLaw:
    """Fit one loss term; under ``--law auto`` each term has its own law, since terms have different floors."""
    try:
        points = make_points(records, config.parameters, name, config.burn_in, config.burn_in_steps)
    except RunError as error:
        return TermLaw(term=name, points=None, fit=None, checks=(), obstacle=str(error))
    held_out = hold_out_mask(points, config.hold_out)
    try:
        _, fit = _fit(points.take(~held_out), config)
    except RunError as error:
        return TermLaw(term=name, points=points, fit=None, checks=(), obstacle=str(error))
    return TermLaw(term=name, points=points, fit=fit, checks=_checks(fit, points.take(held_out)), obstacle=None)


def parameters_of_size(name: str, records: Sequence[RunRecord], group: ParameterGroup) -> float:
    """Return the number of parameters of a size: that of its runs, otherwise of the preset, or the number itself.

    Raises:
        RunError: the size is unknown, or its runs have different models.
    """
    own = [replace(record, loss=1.0) for record in records if record.size == name]
    counts = make_points(own, group).columns["N"] if own else np.array([])
    if len(counts) and np.ptp(counts) > 0:
        raise RunError(
            f"the size {name} does not name one model: runs of it have {counts.min():.6g} and {counts.max():.6g} "
            "parameters (their model was changed by settings); give a number of parameters instead"
        )
    if len(counts):
        return float(counts[0])
    groups = groups_of_size(name)
    # A number counts the same group of parameters as the law.
    return sum(groups[part] for part in PARAMETER_GROUPS[group] if part in groups) or groups["total"]


def predict_for(analysis: Analysis, request: str) -> Prediction:
    """Return the loss that the law of an analysis predicts.

    Args:
        analysis: of the runs.
        request: SIZE@MOLECULES, such as "1.1B@838M" or "1.1e9@8.38e8".

    Raises:
        RunError: the request is malformed, the size is unknown, or the law does not cover it.
    """
    group = analysis.config.parameters
    return _predict(_parse_request(request, analysis.records, group), analysis.fit, analysis.points)


@dataclass(frozen=True)
class _Request:
    """A request for a prediction: its text, and the values in it."""

    text: str
    parameters: float
    molecules: float


def _parse_request(text: str, records: Sequence[RunRecord], group: ParameterGroup) -> _Request:
    size, separator, budget = text.partition("@")
    molecules = parse_count(budget)
    if not separator or molecules is None:
        raise RunError(f"--predict {text!r} is not SIZE@MOLECULES, such as 1.1B@838M or 1.1e9@8.38e8")
    return _Request(text, parameters_of_size(size, records, group), molecules)


def _predict(request: _Request, fit: Fit, points: Points) -> Prediction:
    parameters, molecules = request.parameters, request.molecules
    _check_request(request.text, fit.law, points, {"N": parameters, "D": molecules})
    columns = columns_at(points, np.array([parameters]), np.array([molecules]))
    notes = []
    for name, value in (("N", parameters), ("D", molecules)):
        low, high = float(points.columns[name].min()), float(points.columns[name].max())
        if name not in fit.law.variables and "C" not in fit.law.variables:
            continue
        if value > 1.01 * high:
            notes.append(f"{name} is {value / high:.3g} times the largest in the runs")
        elif value < low / 1.01:
            notes.append(f"{name} is {value / low:.3g} times the smallest in the runs")
    if fit.law.fades is not None and points.distinct_data is not None and molecules > points.distinct_data:
        epochs, distinct_data = molecules / points.distinct_data, engineering(points.distinct_data)
        notes.append(
            f"D is {epochs:.3g} epochs of {distinct_data} distinct {points.unit}s; --distinct sets their number"
        )
    if "C" in fit.law.variables and int(distinct(points.columns["N"]).max()) > 0:
        notes.append(f"its FLOPs per {points.unit} are interpolated in N between the runs")
    return Prediction(
        request=request.text,
        parameters=parameters,
        molecules=molecules,
        loss=float(fit.predict(columns)[0]),
        interval=interval_at(fit.band(columns), 0),
        run_interval=interval_at(fit.run_band(columns), 0),
        notes=tuple(notes),
    )


def _check_request(request: str, law: Law, points: Points, wanted: Mapping[str, float]) -> None:
    """Check that a law in one variable is asked only for the value of the other variable that its runs had."""
    if law.variables != ("N",) and law.variables != ("D",):
        return
    absent = "D" if law.variables == ("N",) else "N"
    usual = float(np.median(points.columns[absent]))
    if abs(wanted[absent] / usual - 1) > SAME_BUDGET:
        raise RunError(
            f"--predict {request}: the law {law.label} does not depend on {absent}; its runs had {absent} = "
            f"{usual:.6g}. Ask for that value, or train runs with at least three values of {absent}"
        )
