"""The content of law.json: the results of an analysis as plain values in full precision. Imports no torch.

SCHEMA documents every key of the file. Numbers are not rounded; null means unknown. The version changes when a key is
removed or changes its meaning, but not when keys are added.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from unimol_scale.scaling.law.analysis import Analysis, HeldOutPoint, TermLaw
from unimol_scale.scaling.law.fit import Fit
from unimol_scale.scaling.law.optimal import can_slice, lowest_of_slice, slice_budgets
from unimol_scale.scaling.report.checklist import law_checklist
from unimol_scale.scaling.report.task_report import tasks_to_json
from unimol_scale.scaling.tasks.task_law import TaskLaw

SCHEMA_VERSION = 2
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

SCHEMA: dict[str, str] = {
    "schema_version": "version of this file",
    "schema": "this table: key → meaning",
    "law": "the fitted law: name, label, formula, source, parameters (name → estimate), intervals (name → [low, "
    "high]), confidence of the intervals, bootstrap_draws, spread, num_points, objective (summed Huber loss), "
    "relative_gradient (0 at the minimum), condition_number, aicc, undetermined (parameters that the runs do not "
    "settle), warnings; spread holds quantiles (parameter → its bootstrap estimates at the levels of quantile_levels) "
    "and exponents with their correlation matrix",
    "parameters_counted": "which parameters N counts",
    "data_unit": "what D, U and all numbers of molecules count: molecule, sample or token",
    "distinct": "distinct units of D available for predictions and budgets, if repeated data count less; null if "
    "unknown",
    "burn_in": "the fraction of a run that was left out; null if only the ends of the runs were fitted, or if "
    "burn_in_steps is set",
    "burn_in_steps": "the number of steps of a run that were left out; null otherwise",
    "selection": "why this law (reason), and every law considered (candidates: law, held_out_error over sizes left out "
    "one at a time, aicc, obstacle)",
    "hold_out": "the rule by which points were held out from the fit",
    "held_out": "every such point: name, molecules, loss, predicted, interval of the law, run_interval of a single "
    "run, relative_error (predicted / loss − 1)",
    "held_out_error": "mean |relative_error| of them",
    "statistics": 'of the held-out points, by size and for "all": relative_error, rmae, mse, r2, pearson, num_points',
    "terms": "every loss term → its own law (as above), held_out points, or the obstacle to a law",
    "predictions": "one per request: request, N, D, loss, interval of the law, run_interval of a single run, notes",
    "optima": "one per budget: flops, parameters, molecules, loss, exponent a of N ∝ C^a, their intervals, notes",
    "unanswered": "why other budgets have no optimum",
    "slices": "the lowest points of the slices of equal compute: flops, N, D, loss; empty if the law has none",
    "points": "every point: name of its run, held_out, loss, predicted, residual (loss / predicted − 1), and the "
    "columns N (parameters), D (of data_unit), C (FLOPs), U (distinct units), S (steps), M (millions of parameters), "
    "MS (M · S) as known",
    "tasks": "every task of --task → its law from the loss: metric, error (what it is), form, parameters, intervals, "
    "candidates, predictions, results; obstacle if there is no law",
    "checklist": "how the law was made: answers to the checklist of (Mis)Fitting (arXiv 2502.18969)",
    "left_out": "runs that were not used, and why",
}


def to_json(analysis: Analysis, tasks: Sequence[TaskLaw] = ()) -> dict[str, Any]:
    """Return the content of law.json: the keys of ``SCHEMA``."""
    points = analysis.points
    predicted = analysis.fit.predict(points.columns)
    return {
        "schema_version": SCHEMA_VERSION,
        "schema": SCHEMA,
        "law": _fit(analysis.fit),
        "parameters_counted": analysis.config.parameters,
        "data_unit": analysis.points.unit,
        "distinct": analysis.points.distinct_data,
        "burn_in": analysis.config.burn_in,
        "burn_in_steps": analysis.config.burn_in_steps,
        "selection": {
            "reason": analysis.selection.reason,
            "candidates": [
                {
                    "law": candidate.law.label,
                    "held_out_error": candidate.held_out_error,
                    "aicc": candidate.aicc,
                    "obstacle": candidate.obstacle,
                }
                for candidate in analysis.selection.candidates
            ],
        },
        "hold_out": analysis.config.hold_out,
        "held_out": [_check(check) for check in analysis.checks],
        "held_out_error": analysis.held_out_error,
        "statistics": {name: asdict(one) for name, one in analysis.statistics.items()},
        "terms": {term.term: _term(term) for term in analysis.terms},
        "predictions": [
            {
                "request": prediction.request,
                "N": prediction.parameters,
                "D": prediction.molecules,
                "loss": prediction.loss,
                "interval": prediction.interval,
                "run_interval": prediction.run_interval,
                "notes": list(prediction.notes),
            }
            for prediction in analysis.predictions
        ],
        "optima": [asdict(one) for one in analysis.optima],
        "unanswered": list(analysis.unanswered),
        "slices": _slices(analysis),
        "points": [
            {
                "name": name,
                "held_out": bool(analysis.held_out[i]),
                "loss": float(points.loss[i]),
                "predicted": float(predicted[i]),
                "residual": float(points.loss[i] / predicted[i] - 1),
                **{column: float(values[i]) for column, values in points.columns.items()},
            }
            for i, name in enumerate(points.names)
        ],
        "tasks": tasks_to_json(tasks),
        "checklist": law_checklist(analysis),
        "left_out": list(analysis.notes),
    }


def _fit(fit: Fit) -> dict[str, Any]:
    return {
        "name": fit.law.name,
        "label": fit.law.label,
        "formula": fit.law.formula,
        "source": fit.law.source,
        "parameters": dict(fit.parameters),
        "intervals": None if fit.intervals is None else {name: list(ends) for name, ends in fit.intervals.items()},
        "confidence": fit.confidence,
        "bootstrap_draws": len(next(iter(fit.draws.values()))) if fit.draws else 0,
        "spread": _spread(fit),
        "num_points": fit.num_points,
        "objective": fit.objective,
        "relative_gradient": fit.gradient,
        "condition_number": fit.condition,
        "aicc": fit.aicc,
        "undetermined": list(fit.undetermined),
        "warnings": list(fit.warnings),
    }


def _spread(fit: Fit) -> dict[str, Any] | None:
    """Return the bootstrap distribution of the parameters; None without a bootstrap."""
    if not fit.draws:
        return None
    names = [term.exponent for term in fit.law.terms if term.exponent is not None]
    draws = np.array([fit.draws[name] for name in names])
    # An exponent that is the same in every draw, at its bound, has no correlation.
    varies = np.ptp(draws, axis=1) > 0
    correlation = np.eye(len(names))
    if varies.sum() > 1:
        correlation[np.ix_(varies, varies)] = np.corrcoef(draws[varies])
    return {
        "quantile_levels": list(QUANTILES),
        "quantiles": {name: np.quantile(values, QUANTILES).tolist() for name, values in fit.draws.items()},
        "exponents": names,
        "correlation": correlation.tolist(),
    }


def _term(term: TermLaw) -> dict[str, Any]:
    return {
        "law": None if term.fit is None else _fit(term.fit),
        "held_out": [_check(check) for check in term.checks],
        "obstacle": term.obstacle,
    }


def _check(check: HeldOutPoint) -> dict[str, Any]:
    return asdict(check)


def _slices(analysis: Analysis) -> list[dict[str, float]]:
    if not can_slice(analysis.fit.law, analysis.points):
        return []
    found = [
        lowest_of_slice(analysis.fit, analysis.points, float(flops))
        for flops in slice_budgets(analysis.points, analysis.optima)
    ]
    return [
        {"flops": one.flops, "N": one.parameters, "D": one.molecules, "loss": one.loss}
        for one in found
        if one is not None
    ]
