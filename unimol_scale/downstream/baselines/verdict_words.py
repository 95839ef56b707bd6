"""What a comparison with the baselines came to, in words that claim no more than the interval does."""

from unimol_scale.downstream.baselines.baseline_results import TRIVIAL, BaselineResults, PairedDifference, Verdict
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
    """Return what a verdict says of the model, for a cell of a table."""
    return {"better": "model surely better", "worse": "model surely worse"}.get(verdict, verdict)


def verdict_sentence(found: BaselineResults, metric: str, trivial_name: str = "the mean of the training labels") -> str:
    """Return which is better, the models or the best baseline, and a second sentence if not even the mean is beaten.

    Args:
        found: of the fine-tuning.
        metric: its name.
        trivial_name: what the trivial baseline predicts.
    """
    best = found.best
    rival, interval = f"the best baseline, {_rival(found)}", shown_interval(best, metric)
    if best.verdict == "better":
        said = f"The model is surely better than {rival} ({interval})."
    elif best.verdict == "worse":
        said = (
            f"The model is surely worse than {rival} ({interval}): do not use it as it is; fine-tune longer, or from "
            "another start."
        )
    elif best.verdict == "no sure difference":
        said = f"There is no sure difference between the model and {rival} ({interval}): either may be the better one."
    elif found.test_molecules < FEW_MOLECULES:
        count = f"{found.test_molecules:,} test molecule{'' if found.test_molecules == 1 else 's'}"
        said = (
            f"{count} are too few to say whether the model or {rival}, is better; {FEW_MOLECULES} or more are needed."
        )
    else:
        said = f"The test labels are too few to say whether the model or {rival}, is better."
    if best.verdict != "better" and found.trivial.verdict in ("worse", "no sure difference"):
        interval = shown_interval(found.trivial, metric)
        said += f" It is not even surely better than predicting {trivial_name} ({interval})."
    return said


def short_verdict(found: BaselineResults, metric: str) -> str:
    """Return the same in a short line for a terminal."""
    best = found.best
    said = {
        "better": "the model is surely better than",
        "worse": "the model is surely worse than",
        "no sure difference": "no sure difference between the model and",
        "too few to tell": "too few test molecules to compare the model with",
    }[best.verdict]
    shown = "" if best.value is None else f": {_quantity(best, metric)} {shown_value(best)}"
    return f"{said} the best baseline, {_rival(found)}{shown}"


def count_verdicts(one: PairedDifference) -> str:
    """Return of how many targets the models are surely better, surely worse, or neither."""
    counts = {
        "surely better": one.verdict_by_target.count("better"),
        "surely worse": one.verdict_by_target.count("worse"),
        "without a sure difference": one.verdict_by_target.count("no sure difference"),
        "with too few test molecules to tell": one.verdict_by_target.count("too few to tell"),
    }
    return ", ".join(f"{number:,} {what}" for what, number in counts.items() if number)


def _rival(found: BaselineResults) -> str:
    """Return the best baseline by name, and that it did not get all rows, which a reader must know to judge it."""
    if len({member.chosen for member in found.members}) > 1:
        return f"which is chosen for each split by itself, most often {shown_baseline(found.chosen)}"
    article = "a " if found.chosen.endswith("forest") else ""
    member = next((one for one in found.members if found.chosen in one.limits), None)
    if member is None:
        return f"{article}{shown_baseline(found.chosen)}"
    limit = member.limits[found.chosen]
    return f"{article}{shown_baseline(found.chosen)} of {limit:,} of the {member.train_rows:,} training rows"


def _quantity(one: PairedDifference, metric: str) -> str:
    return f"{shown_metric(metric)} {'ratio' if one.is_ratio else 'difference'}"


def _number(one: PairedDifference, value: float) -> str:
    return f"{value:.3g}" if one.is_ratio else f"{value:+.3f}"
