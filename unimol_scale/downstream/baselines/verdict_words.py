"""Puts the comparison with the baselines into words that claim no more than its interval supports."""

from collections.abc import Sequence

from unimol_scale.downstream.baselines.baseline_results import TRIVIAL, BaselineResults, PairedDifference, Verdict
from unimol_scale.downstream.baselines.paired_bootstrap import FEW_MOLECULES
from unimol_scale.downstream.baselines.table_models import TABLE_MODELS

_SHOWN = {
    **{model.name: model.shown for model in TABLE_MODELS},
    TRIVIAL: "the mean of the training labels",
}
_METRICS = {"rmse": "RMSE", "mae": "MAE", "roc_auc": "ROC-AUC", "pr_auc": "PR-AUC", "r2": "R²", "pearson": "Pearson r"}
METRIC_WORDS = {
    "rmse": "root mean square error, the typical error of a prediction in the unit of the label; lower is better",
    "mae": "mean absolute error of the predictions, in the unit of the label; lower is better",
    "roc_auc": "how often a row of the positive class ranks above one of the other class; 0.5 is guessing, 1 perfect",
}
_LAST_PART = 0.1  # of a training: a best epoch within it says that the score was still improving


def shown_baseline(name: str) -> str:
    """Return the name of a baseline in reports."""
    return _SHOWN[name]


def shown_metric(name: str) -> str:
    """Return the spelling of a metric in a sentence."""
    return _METRICS.get(name, name)


def shown_interval(one: PairedDifference, metric: str) -> str:
    """Return the interval of a difference, such as "95 % interval of the RMSE ratio 0.81 to 0.93"."""
    what = _quantity(one, metric)
    if one.low is None or one.high is None:
        return f"the {what} has no interval"
    return f"95 % interval of the {what} {_number(one, one.low)} to {_number(one, one.high)}"


def shown_value(one: PairedDifference) -> str:
    """Return a difference with its interval, such as "0.87 (0.81 to 0.93)"."""
    if one.value is None:
        return "undefined"
    if one.low is None or one.high is None:
        return _number(one, one.value)
    return f"{_number(one, one.value)} ({_number(one, one.low)} to {_number(one, one.high)})"


def shown_verdict(verdict: Verdict) -> str:
    """Return a verdict on the model for a cell of a table."""
    words = {
        "better": "model significantly better",
        "worse": "model significantly worse",
        "no sure difference": "no significant difference",
    }
    return words.get(verdict, verdict)


def advise_worse(courses: Sequence[tuple[int, int]], *, is_probe: bool) -> str:
    """Return what to do about models that are worse than a baseline, in a sentence.

    Args:
        courses: best epoch and number of epochs of each model.
        is_probe: whether only a head was fitted to the vectors of the frozen model.
    """
    if is_probe:
        return "It is a probe: fine-tune the whole model (without `--probe`), or start from another model."
    if all(best <= (1 - _LAST_PART) * epochs for best, epochs in courses):
        return (
            "The validation score had stopped improving, so longer training will not help: search for other settings "
            "(`--tune 20`), or start from another model."
        )
    return "Fine-tune longer, or start from another model."


def verdict_sentence(
    found: BaselineResults,
    metric: str,
    trivial_name: str = "the mean of the training labels",
    advice: str = "",
) -> str:
    """Return whether the models or the best baseline are better; add a sentence if even the mean is not beaten.

    Args:
        found: the baselines of the fine-tuning.
        metric: name of the metric.
        trivial_name: what the trivial baseline predicts, in words.
        advice: what to do about a model that is significantly worse, in a sentence; "": nothing is said.
    """
    best = found.best
    rival, interval = f"the best baseline, {_rival(found)}", shown_interval(best, metric)
    if best.verdict == "better":
        said = f"The model is significantly better than {rival} ({interval})."
    elif best.verdict == "worse":
        said = f"The model is significantly worse than {rival} ({interval}): do not use it as it is. {advice}".rstrip()
    elif best.verdict == "no sure difference":
        said = f"The model and {rival}, do not differ significantly ({interval}): either may be the better one."
    elif found.test_molecules < FEW_MOLECULES:
        count = f"{found.test_molecules:,} test molecule{'' if found.test_molecules == 1 else 's'}"
        said = (
            f"{count} are too few to say whether the model or {rival}, is better; {FEW_MOLECULES} or more are needed."
        )
    else:
        said = f"There are too few test labels to say whether the model or {rival}, is better."
    if best.verdict != "better" and found.trivial.verdict in ("worse", "no sure difference"):
        interval = shown_interval(found.trivial, metric)
        said += f" It is not even significantly better than predicting {trivial_name} ({interval})."
    return said


def short_verdict(found: BaselineResults, metric: str) -> str:
    """Return the verdict as a short line for the terminal."""
    best = found.best
    said = {
        "better": "the model is significantly better than",
        "worse": "the model is significantly worse than",
        "no sure difference": "no significant difference between the model and",
        "too few to tell": "too few test molecules to compare the model with",
    }[best.verdict]
    shown = "" if best.value is None else f": {_quantity(best, metric)} {shown_value(best)}"
    return f"{said} the best baseline, {_rival(found)}{shown}"


def count_verdicts(one: PairedDifference) -> str:
    """Return for how many targets the models are significantly better, significantly worse, or neither."""
    counts = {
        "significantly better": one.verdict_by_target.count("better"),
        "significantly worse": one.verdict_by_target.count("worse"),
        "without a significant difference": one.verdict_by_target.count("no sure difference"),
        "with too few test molecules to tell": one.verdict_by_target.count("too few to tell"),
    }
    return ", ".join(f"{number:,} {what}" for what, number in counts.items() if number)


def _rival(found: BaselineResults) -> str:
    """Return the name of the best baseline, and how many rows it was fitted to if it did not see all of them."""
    if len({member.chosen for member in found.members}) > 1:
        return f"which is chosen for each split separately, most often {shown_baseline(found.chosen)}"
    article = "a " if found.chosen.endswith("forest") else ""
    member = next((one for one in found.members if found.chosen in one.limits), None)
    if member is None:
        return f"{article}{shown_baseline(found.chosen)}"
    limit = member.limits[found.chosen]
    return f"{article}{shown_baseline(found.chosen)} fitted to {limit:,} of the {member.train_rows:,} training rows"


def _quantity(one: PairedDifference, metric: str) -> str:
    return f"{shown_metric(metric)} {'ratio' if one.is_ratio else 'difference'}"


def _number(one: PairedDifference, value: float) -> str:
    return f"{value:.3g}" if one.is_ratio else f"{value:+.3f}"
