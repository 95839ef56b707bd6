"""What a comparison with the baselines came to, in words that claim no more than the interval does."""

from unimol_scale.downstream.baselines.baseline_results import TRIVIAL, BaselineResults, Difference
from unimol_scale.downstream.baselines.paired_bootstrap import FEW_MOLECULES
from unimol_scale.downstream.baselines.table_models import TABLE_MODELS

_SHOWN = {
    **{model.name: model.shown for model in TABLE_MODELS},
    TRIVIAL: "the mean of the training labels",
}
_METRICS = {"rmse": "RMSE", "mae": "MAE", "roc_auc": "ROC-AUC", "pr_auc": "PR-AUC", "r2": "R²", "pearson": "Pearson r"}


def shown_baseline(name: str) -> str:
    """Return what a baseline is called in reports."""
    return _SHOWN[name]


def shown_metric(name: str) -> str:
    """Return how a metric is written in a sentence."""
    return _METRICS.get(name, name)


def shown_interval(one: Difference, metric: str) -> str:
    """Return the interval of a difference, such as "95 % interval of the RMSE ratio 0.81 to 0.93"."""
    what = f"{shown_metric(metric)} {'ratio' if one.is_ratio else 'difference'}"
    if one.low is None or one.high is None:
        return f"the {what} has no interval"
    return f"95 % interval of the {what} {_number(one, one.low)} to {_number(one, one.high)}"


def shown_value(one: Difference) -> str:
    """Return the difference with its interval for a cell of a table, such as "0.87 (0.81 to 0.93)"."""
    if one.value is None:
        return "undefined"
    if one.low is None or one.high is None:
        return _number(one, one.value)
    return f"{_number(one, one.value)} ({_number(one, one.low)} to {_number(one, one.high)})"


def verdict_sentence(found: BaselineResults, metric: str, trivial_name: str = "the mean of the training labels") -> str:
    """Return which is better, the models or the best baseline, and a second sentence if not even the mean is beaten.

    Args:
        found: of the fine-tuning.
        metric: its name.
        trivial_name: what the trivial baseline predicts.
    """
    best = found.best
    rival = f"the best of {len(found.names)} baselines ({_rival(found)})"
    interval = shown_interval(best, metric)
    if best.verdict == "better":
        said = f"The model is better than {rival}, surely ({interval})."
    elif best.verdict == "worse":
        said = (
            f"The model is worse than {rival}, surely ({interval}): predict with that one, or fine-tune longer or from "
            "another start."
        )
    elif best.verdict == "no sure difference":
        said = f"No sure difference between the model and {rival}: {interval}, so either may be the better one."
    elif found.test_molecules < FEW_MOLECULES:
        said = (
            f"Too few test molecules ({found.test_molecules:,}) to say whether the model or {rival} is better; "
            f"{FEW_MOLECULES} are the least."
        )
    else:
        said = f"Too few test labels to say whether the model or {rival} is better."
    if best.verdict != "better" and found.trivial.verdict in ("worse", "no sure difference"):
        interval = shown_interval(found.trivial, metric)
        said += f" It is not even surely better than predicting {trivial_name} ({interval})."
    return said


def short_verdict(found: BaselineResults, metric: str) -> str:
    """Return the same in a short line for a terminal."""
    said = {
        "better": "surely better than",
        "worse": "surely worse than",
        "no sure difference": "no sure difference to",
        "too few to tell": "too few test molecules to compare with",
    }[found.best.verdict]
    value = "" if found.best.value is None else f": {_quantity(found.best, metric)} {shown_value(found.best)}"
    return f"{said} the best baseline, {_rival(found)}{value}"


def count_verdicts(one: Difference) -> str:
    """Return of how many targets the models are surely better, surely worse, or neither."""
    counts = {
        "surely better": one.verdict_by_target.count("better"),
        "surely worse": one.verdict_by_target.count("worse"),
        "without a sure difference": one.verdict_by_target.count("no sure difference"),
        "with too few test molecules to tell": one.verdict_by_target.count("too few to tell"),
    }
    return ", ".join(f"{number:,} {what}" for what, number in counts.items() if number)


def _rival(found: BaselineResults) -> str:
    chosen = {member.chosen for member in found.members}
    article = "a " if len(chosen) == 1 and found.chosen.endswith("forest") else ""
    most = "" if len(chosen) == 1 else "chosen anew for each split, most often "
    return f"{most}{article}{shown_baseline(found.chosen)}"


def _quantity(one: Difference, metric: str) -> str:
    return f"{shown_metric(metric)} {'ratio' if one.is_ratio else 'difference'}"


def _number(one: Difference, value: float) -> str:
    return f"{value:.3g}" if one.is_ratio else f"{value:+.3f}"
