"""Summarises an analysis in sentences, for a reader who has to decide what to train next. Imports no torch."""

from pathlib import Path

import numpy as np

from unimol_scale.common.run_files import CONFIG_NAME
from unimol_scale.common.units import counted, engineering, powers
from unimol_scale.scaling.law.analysis import Analysis
from unimol_scale.scaling.law.fit import Fit, Interval
from unimol_scale.scaling.law.laws import Term, effective_data, term_value
from unimol_scale.scaling.law.optimal import can_slice
from unimol_scale.scaling.law.points import distinct

# Column → what is doubled, and the cause of the loss that a small value adds.
VARIABLES = {
    "N": ("the parameters", "too small a model"),
    "M": ("the parameters", "too small a model"),
    "D": ("the {unit}s", "too few {unit}s"),
    "S": ("the steps", "too few steps"),
    "C": ("the compute", "too little compute"),
    "MS": ("size times steps", "too small a product of size and steps"),
}
EPOCHS = (2.0, 4.0, 16.0, 64.0)  # numbers of epochs whose worth is stated, as far as the runs go
GOOD, FAIR = 0.01, 0.03  # held-out errors


def summary_sentences(analysis: Analysis) -> list[str]:
    """Return the summary for the report, one or two sentences per entry."""
    return [
        _what_was_fitted(analysis),
        _how_good(analysis),
        *_what_it_says(analysis),
        *_where_next(analysis),
        *_how_sure(analysis.fit),
    ]


def _what_was_fitted(analysis: Analysis) -> str:
    points = analysis.points.take(~analysis.held_out)
    n, d = points.columns["N"], points.columns["D"]
    sizes, budgets = int(distinct(n).max()) + 1, int(distinct(d).max()) + 1
    text = f"Fitted to {points.num_runs} runs of {sizes} sizes, {_range(n)} parameters"
    if (left_out := analysis.config.left_out) is not None:
        return f"{text}, at {len(points)} validations along them after the first {left_out.describe()} of each."
    return f"{text}, and {counted(budgets, 'budget')}, {_range(d)} {points.unit}s."


def _range(values: np.ndarray) -> str:
    low, high = engineering(float(values.min())), engineering(float(values.max()))
    return low if low == high else f"{low} to {high}"


def _how_good(analysis: Analysis) -> str:
    error = analysis.held_out_error
    if error is None:
        return "Nothing was held out, so nothing here tests the law; `--hold-out largest` does."
    poor = "poor: do not rely on predictions for larger runs"
    verdict = "good" if error <= GOOD else "fair" if error <= FAIR else poor
    held = analysis.points.take(analysis.held_out)
    bias = np.array([check.relative_error for check in analysis.checks])
    side = ""
    if len(bias) > 1 and (np.all(bias > 0) or np.all(bias < 0)):
        side = f", always too {'high' if bias[0] > 0 else 'low'}"
    many = len(held) > 1
    what = f"{len(held)} points" if many else held.names[0]
    return (
        f"The law predicts the runs held out from the fit ({what}, {_range(held.columns['N'])} parameters) with "
        f"{'a mean error' if many else 'an error'} of {error:.2%}{side}. That is {verdict}."
    )


def _what_it_says(analysis: Analysis) -> list[str]:
    fit, law = analysis.fit, analysis.fit.law
    lines = []
    terms = [term for term in law.terms if term.exponent is not None]
    constant = next((term for term in law.terms if term.exponent is None), None)
    if constant is not None:
        floor = fit.parameters[constant.coefficient]
        if constant.coefficient in fit.undetermined:
            lines.append(
                f"These runs do not determine whether the loss has a floor, or where (best estimate: {floor:.3g})."
            )
        elif floor == 0:
            lines.append("The runs show no floor of the loss: the best estimate of it is 0.")
        else:
            span = _span(fit, constant.coefficient)
            lines.append(f"The floor is {constant.coefficient} = {floor:.4g}{span}: by the law, no loss can be lower.")
    if law.outer is None:
        alone = len(law.terms) == 1
        lines += [_price(analysis, term, alone=alone) for term in terms]
        lines += _largest_run(analysis, constant, terms)
    elif {term.variable for term in terms} == {"N", "D"}:
        lines += [_limit(analysis, term) for term in terms]
    lines += _joined(fit)
    lines += _worth_of_repetition(analysis)
    return lines


def _limit(analysis: Analysis, term: Term) -> str:
    """Return what doubling one variable is worth where the terms are not added: only in the limit of the other."""
    assert term.exponent is not None
    assert term.variable is not None
    unit = analysis.points.unit
    doubled = VARIABLES[term.variable][0].format(unit=unit)
    unlimited = f"unlimited {unit}s" if term.variable == "N" else "an unlimited model"
    value = analysis.fit.parameters[term.exponent]
    estimate = f"{term.exponent} = {value:.4g}{_span(analysis.fit, term.exponent)}"
    return (
        f"With {unlimited}, doubling {doubled} would reduce the loss by up to {1 - 2 ** -abs(value):.1%} ({estimate})."
    )


def _joined(fit: Fit) -> list[str]:
    """Return how the terms join, for a law that leaves it to the runs."""
    name = fit.law.own_outer
    if name is None:
        return []
    if name in fit.undetermined:
        return [f"These runs do not determine how the terms of size and data join ({name} is open)."]
    value = fit.parameters[name]
    meaning = (
        "between adding up (1) and the larger one counting alone (0)" if value < 1 else "by more than adding up (1)"
    )
    return [f"The terms of size and data join with {name} = {value:.3g}{_span(fit, name)}, {meaning}."]


def _price(analysis: Analysis, term: Term, *, alone: bool) -> str:
    assert term.exponent is not None
    assert term.variable is not None
    fit = analysis.fit
    value = fit.parameters[term.exponent]
    doubled, lack = (text.format(unit=analysis.points.unit) for text in VARIABLES[term.variable])
    if term.fades is not None:
        doubled = f"the {analysis.points.unit}s, none of them seen before,"
    part = "the loss" if alone else f"the part of the loss that is due to {lack}"
    estimate = f"{term.exponent} = {value:.4g}{_span(fit, term.exponent)}"
    return f"Doubling {doubled} reduces {part} by {1 - 2 ** -abs(value):.1%} ({estimate})."


def _largest_run(analysis: Analysis, constant: Term | None, terms: list[Term]) -> list[str]:
    """Return a sentence on how the loss of the costliest point divides into parts."""
    if len(terms) + (constant is not None) < 2:
        return []
    columns = analysis.points.columns
    index = int(np.argmax(columns["C"] if "C" in columns else columns["N"] * columns["D"]))
    costliest = {name: values[index : index + 1] for name, values in columns.items()}
    total = float(analysis.fit.predict(costliest)[0])
    parts = [] if constant is None else [(analysis.fit.parameters[constant.coefficient], "the floor")]
    for term in terms:
        assert term.exponent is not None
        assert term.variable is not None
        lack = VARIABLES[term.variable][1].format(unit=analysis.points.unit)
        parts.append((float(term_value(term, analysis.fit.parameters, costliest)[0]), f"due to {lack}"))
    shares = ", ".join(f"{value:.3g} is {what}" for value, what in sorted(parts, reverse=True))
    name = analysis.points.names[index]
    return [f"By the law, the costliest run, {name}, has a loss of {total:.4g}: {shares}."]


def _worth_of_repetition(analysis: Analysis) -> list[str]:
    """Return what repeated data are worth, for a law that distinguishes them from new data."""
    fit, points, name = analysis.fit, analysis.points, analysis.fit.law.fades
    if name is None:
        return []
    most = float((points.columns["D"] / points.columns["U"]).max())
    if name in fit.undetermined:
        return [
            f"These runs, of up to {most:.3g} epochs, do not determine what repeated {points.unit}s are worth "
            f"({name} is open)."
        ]
    fades = fit.parameters[name]
    shown = [epochs for epochs in EPOCHS if epochs <= max(most, EPOCHS[0])]
    worth = effective_data(np.array(shown), np.ones(len(shown)), np.array(fades))
    examples = ", ".join(f"{epochs:g} epochs {value:.3g}" for epochs, value in zip(shown, worth, strict=True))
    return [
        f"Repeated {points.unit}s are worth less than new ones. In epochs of new {points.unit}s, they are worth: "
        f"{examples} ({name} = {fades:.4g}{_span(fit, name)}). No number of epochs is worth more than "
        f"{1 + fades:.3g}. The runs have up to {most:.3g} epochs."
    ]


def _where_next(analysis: Analysis) -> list[str]:
    lines = []
    for one in analysis.optima:
        size, data = _counted(one.parameters, one.parameters_interval), _counted(one.molecules, one.molecules_interval)
        what = f"{size} parameters and {data} {analysis.points.unit}s"
        lines.append(f"The best use of {powers(one.flops)} FLOPs is {what}, with a loss of {one.loss:.4g}.")
    for prediction in analysis.predictions:
        interval = prediction.run_interval
        span = "" if interval is None else f" (a single run: {interval[0]:.4g} to {interval[1]:.4g})"
        lines.append(f"{prediction.request} should reach a loss of {prediction.loss:.4g}{span}.")
    # The next run copies its settings from a run folder.
    trained_here = any((Path(record.source) / CONFIG_NAME).is_file() for record in analysis.records)
    if can_slice(analysis.fit.law, analysis.points) and trained_here:
        lines.append("`unimol-scale ladder --next RUNS --budget FLOPS` writes the next run for a budget.")
    return lines


def _counted(value: float, interval: Interval | None) -> str:
    span = "" if interval is None else f" ({engineering(interval[0])} to {engineering(interval[1])})"
    return f"{engineering(value)}{span}"


def _how_sure(fit: Fit) -> list[str]:
    if not fit.undetermined:
        return []
    pronoun = "its value" if len(fit.undetermined) == 1 else "their values"
    return [f"These runs do not determine {', '.join(fit.undetermined)}. Do not quote {pronoun} from the table."]


def _span(fit: Fit, name: str) -> str:
    if fit.intervals is None or name in fit.undetermined:
        return ""
    low, high = fit.intervals[name]
    return f", {fit.confidence:.0%} interval {low:.4g} to {high:.4g}"
