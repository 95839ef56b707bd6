"""Writes the first lines of the report of a fine-tuning: how good, against what, how sure, where not to use it."""

import numpy as np

from unimol_scale.common.units import counted
from unimol_scale.downstream.baselines.verdict_words import shown_baseline, shown_metric
from unimol_scale.downstream.finetuning.cautions import first_names
from unimol_scale.downstream.finetuning.results import HEADLINE_TARGETS, FinetuneResult
from unimol_scale.downstream.uncertainty.confidence_results import ConformalCheck, DomainCheck, TargetCoverage

_SURE = 0.05  # p-value below which errors outside the domain are called significantly larger
_ROWS = {
    "validation": "the validation rows, which also chose the {chosen}, so they may be slightly too narrow "
    "(`--calibration-fraction` reserves rows for calibration alone)",
    "calibration": "rows that were reserved for calibration",
    "out-of-fold": "the residuals of all folds (CV+)",
}


def headline(outcome: FinetuneResult) -> list[str]:
    """Return the four lines in Markdown; only the last two without test rows; none for results without confidence."""
    if outcome.confidence is None:
        return []
    judged = [f"- **How good:** {_how_good(outcome)}", f"- **Against what:** {_against_what(outcome)}"]
    return [
        *(judged if outcome.has_test else []),
        f"- **How sure:** {_how_sure(outcome)}",
        f"- **Where not to use it:** {_where_not(outcome)}",
    ]


def short_headline(outcome: FinetuneResult) -> list[str]:
    """Return the last two lines in the short form that a command prints; none for results without confidence."""
    found = outcome.confidence
    if found is None:
        return []
    lines = [f"how sure: {_promise(outcome, found.conformal)} {_coverages(outcome, found.conformal)}"]
    if found.domain is not None:
        lines.append(f"where not to use it: {_domain_errors(outcome, found.domain)}")
    return lines


def _how_good(outcome: FinetuneResult) -> str:
    found, metric = outcome.confidence, shown_metric(outcome.metric)
    assert found is not None, "asked for only then"
    unit = f" {outcome.unit}" if outcome.unit else ""
    if outcome.folds and outcome.has_mean and outcome.interval is not None:
        ends = f"{outcome.interval.low:.4g} to {outcome.interval.high:.4g}"
        folds = f"(over {outcome.describe_folds()})"
        return f"test {metric} **{outcome.mean:.4g}**{unit}, 95 % interval {ends} {folds}{_of_targets(outcome)}"
    interval = "no interval"
    if found.score_low is not None and found.score_high is not None:
        interval = f"95 % interval {found.score_low:.4g} to {found.score_high:.4g} (bootstrap over test molecules"
        interval += ")" if len(outcome.seeds) == 1 else " and seeds)"
    if outcome.has_mean:
        return f"test {metric} **{outcome.mean:.4g}**{unit}, {interval}{_of_targets(outcome)}"
    each = [value for value in map(outcome.standardised, outcome.seeds) if value is not None]
    if not each:
        return f"test {metric}: target by target below, since their units differ"
    more = "" if outcome.folds else f", {interval}"
    return (
        f"test {metric} **{np.mean(each):.3g}** standard deviations of the training labels, mean of "
        f"{len(outcome.targets)} targets{more}; target by target below"
    )


def _of_targets(outcome: FinetuneResult) -> str:
    """Return of how many targets a score is the mean; "" if there is one."""
    number = len(outcome.targets)
    judged = sum(outcome.target_mean(at) is not None for at in range(number))
    if judged < number:
        return f", mean of {judged} of {number} targets; the test rows cannot judge the others (see below)"
    return f", mean of {number} targets" if number > 1 else ""


def _against_what(outcome: FinetuneResult) -> str:
    """Return whether the models or the baselines are better, and the scores of the baselines."""
    found, metric, mean = outcome.baselines, shown_metric(outcome.metric), outcome.outputs.trivial
    if found is None:
        there = [value for value in outcome.trivial if value is not None]
        trivial = f"{np.mean(there):.4g}" if there and outcome.has_mean else "not known"
        return f"predicting {mean} has {metric} {trivial}; nothing else was fitted to the same rows"
    standardised = not outcome.has_mean
    best, trivially = (found.mean(name, standardised=standardised) for name in (None, "trivial"))
    several = len({member.chosen for member in found.members}) > 1
    name = "the best of each fold" if several else shown_baseline(found.chosen)
    shown = ["undefined" if value is None else f"{value:.4g}" for value in (best, trivially)]
    return f"{outcome.verdict} The best baseline ({name}) has {metric} {shown[0]}, predicting {mean} {shown[1]}."


def _how_sure(outcome: FinetuneResult) -> str:
    found = outcome.confidence
    assert found is not None, "asked for only then"
    check = found.conformal
    said = [f"{_promise(outcome, check)} {_coverages(outcome, check)}"]
    if not all(one.missing for one in check.targets):
        rows = _ROWS[check.rows].format(chosen="epochs" if outcome.has_course else "penalty")
        said.append(f"They are calibrated on {rows}")
    if found.spread:
        said.append(found.spread[0].upper() + found.spread[1:])
    return ". ".join(said) + "."


def _promise(outcome: FinetuneResult, check: ConformalCheck) -> str:
    what = "sets of credible classes" if outcome.outputs.classes_each else "intervals"
    plain = len(check.targets) == 1 and check.targets[0].found is not None
    return f"the {100 * check.coverage:g} % {what} of `predict`{'' if plain else ':'}"


def _coverages(outcome: FinetuneResult, check: ConformalCheck) -> str:
    """Return the measured coverage of the first targets, and the targets that have too few calibration rows."""
    lacking = [at for at, one in enumerate(check.targets) if one.missing]
    if len(lacking) < 2:
        lacking = []
    told = [at for at in range(len(outcome.targets)) if at not in lacking]
    said = [_coverage(outcome, check, at) for at in told[:HEADLINE_TARGETS]]
    if (more := len(told) - HEADLINE_TARGETS) > 0:
        said.append(f"and {more:,} more targets")
    if lacking:
        said.append(_too_few(outcome, check, lacking))
    return "; ".join(said)


def _too_few(outcome: FinetuneResult, check: ConformalCheck, lacking: list[int]) -> str:
    """Return why several targets have no intervals, or no sets of classes."""
    rows = sorted(check.targets[at].calibration_rows for at in lacking)
    least, most = f"{rows[0]:,}", counted(rows[-1], "calibration row")
    counts = most if rows[0] == rows[-1] else f"{least} to {most}"
    needed = rows[0] + max(check.targets[at].missing for at in lacking)
    scarce = " of the rarest class" if outcome.outputs.classes_each else ""
    names = first_names([outcome.targets[at] for at in lacking])
    return f"none for {names}, which have {counts}{scarce}; this coverage needs {needed:,}"


def _coverage(outcome: FinetuneResult, check: ConformalCheck, target: int) -> str:
    """Return the measured coverage of one target."""
    one = check.targets[target]
    name = "" if len(outcome.targets) == 1 else f"{outcome.targets[target]}: "
    if one.missing:
        scarce = "of the rarest class " if outcome.outputs.classes_each else ""
        return (
            f"{name}none, because {counted(one.calibration_rows, 'calibration row')} {scarce}are too few; this "
            f"coverage needs {one.missing + one.calibration_rows:,}"
        )
    if one.found is None or one.width is None:
        why = "too few test rows have a label" if outcome.has_test else "there are no test rows"
        return f"{name}not checked, since {why}"
    found = one.found
    words = {
        "as promised": f"in line with the promised {check.coverage:.0%}",
        "less": f"LESS than the promised {check.coverage:.0%}: either these test rows are less like the training "
        "rows than the calibration rows are, or it is bad luck",
        "more": f"more than the promised {check.coverage:.0%}",
    }[found.against(check.coverage)]
    held = (
        f"{name}contain {found.share:.0%} of {found.rows:,} test labels (95 % interval {found.low:.0%} to "
        f"{found.high:.0%}; {words})"
    )
    return f"{held}, {_width(outcome, one, target)}"


def _width(outcome: FinetuneResult, one: TargetCoverage, target: int) -> str:
    if one.single is not None:
        return f"{one.single:.0%} of them with a single class"
    unit = outcome.units.get(outcome.targets[target], "")
    assert one.width is not None, "asked for only then"
    width = f"mean width {one.width:.3g}{f' {unit}' if unit else ''}"
    if not outcome.label_std or not outcome.label_std[target]:
        return width
    return f"{width}, {one.width / outcome.label_std[target]:.2g} standard deviations of the labels"


def _where_not(outcome: FinetuneResult) -> str:
    found = outcome.confidence
    assert found is not None, "asked for only then"
    if found.domain is None:
        return "not known, since the domain was turned off (`--no-domain`)"
    check = found.domain
    by = "by fingerprint (ECFP4) and by the model's own vector" if check.with_vectors else "by fingerprint (ECFP4)"
    return (
        f"where `predict` says in_domain = false: {_domain_errors(outcome, check)}. A molecule is in the domain if it "
        f"is at least as similar to a training molecule, {by}, as 95 % of the training molecules are to another "
        "training molecule."
    )


def _domain_errors(outcome: FinetuneResult, check: DomainCheck) -> str:
    regression = outcome.task == "regression"
    units = {outcome.units.get(target, "") for target in outcome.targets}
    unit = (units.pop() if len(units) == 1 else "") if check.in_units else "standard deviations of the labels"

    def shown(error: float | None) -> str:
        if error is None:
            return "not known"
        return f"{error:.3g}{f' {unit}' if unit else ''}" if regression else f"{error:.0%}"

    what = "mean absolute error" if regression else "share of wrong classes"
    judged = check.inside + check.outside
    drawn = "" if judged == check.test_rows else f" (drawn from {check.test_rows:,})"
    if not judged:
        why = "no test row has a label that is a value" if outcome.has_test else "there are no test rows"
        return f"errors outside of the domain are not known, since {why}"
    rows = f"{check.outside:,} of {judged:,} test rows{drawn} are outside of the domain"
    if not check.outside:
        return f"{rows}, so errors outside of it are not known ({what} inside {shown(check.inside_error)})"
    errors = f"{what} outside {shown(check.outside_error)}, inside {shown(check.inside_error)}"
    if check.larger_p is None:
        return f"{rows} ({errors}; too few to compare)"
    sure = "significantly larger" if check.larger_p < _SURE else "not significantly larger"
    return f"{rows} ({errors}: {sure}, p {check.larger_p:.2g})"
