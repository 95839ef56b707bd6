"""Writes the lines of a report about a cross-validation: what was tested, the scores, and a table of the folds."""

import numpy as np

from unimol_scale.common.report.markdown import markdown_table
from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.finetuning.folds.fold_files import OUT_OF_FOLD_NAME, SPLITS_NAME
from unimol_scale.downstream.finetuning.results import FinetuneResult

_GROUPS = {
    "scaffold-kfold": "molecules of the same scaffold are in the same fold; those without rings are placed one by one",
    "cluster-kfold": "similar molecules (Butina clusters of Morgan fingerprints) are in the same fold",
    "random-kfold": "rows of the same molecule are in the same fold",
    "column-kfold": "the folds are those of the split column",
}


def describe_split(outcome: FinetuneResult, config: FinetuneConfig) -> str:
    """Return a description of the split: which rows were trained on and tested."""
    sizes = {
        name: _span([seed.split_sizes[name] for seed in outcome.seeds if seed.split_sizes])
        for name in ("train", "valid", "test")
    }
    fraction = "" if config.label_fraction == 1.0 else f" ({config.label_fraction:.0%} of the training rows)"
    times = "once" if outcome.num_repeats == 1 else f"{outcome.num_repeats} times, once in each repeat"
    return (
        f"{config.split} split, {outcome.describe_folds()}: {_GROUPS[config.split]}. Every row is tested {times}, by a "
        f"model that was not trained on it ({OUT_OF_FOLD_NAME}; {SPLITS_NAME} has the parts). A fold has "
        f"{sizes['train']} train{fraction}, {sizes['valid']} valid, {sizes['test']} test"
    )


def describe_score(outcome: FinetuneResult) -> str:
    """Return the mean score with its interval, and the range over folds."""
    interval = outcome.interval
    assert interval is not None, "a cross-validation"
    unit = f" {outcome.unit}" if outcome.unit else ""
    scores = outcome.fold_scores
    return (
        f"{outcome.metric} of the test rows: **{outcome.mean:.4g}**{unit}, mean of {len(scores)} folds, with a 95 % "
        f"interval of {interval.low:.4g} to {interval.high:.4g} (corrected for the training rows that folds share: "
        f"Nadeau and Bengio 2003); single folds range from {min(scores):.4g} to {max(scores):.4g}"
    )


def fold_table(outcome: FinetuneResult) -> list[str]:
    """Return a Markdown table with one row per model."""
    metric = outcome.metric if outcome.has_mean else f"{outcome.metric} (in standard deviations of the training labels)"
    rows = []
    for seed in outcome.seeds:
        assert seed.fold is not None, "a cross-validation"
        scores: list[float | None] = [seed.valid, seed.test, _mean(seed.trivial)]
        if not outcome.has_mean:
            scores = [seed.valid_scaled, outcome.standardised(seed), None]
        shown = ["not known" if value is None else f"{value:.4g}" for value in scores]
        sizes = [f"{seed.split_sizes[name]:,}" for name in ("train", "test")]
        places = [str(number) for number in (seed.fold.repeat, seed.fold.fold, seed.seed)]
        epochs = [str(seed.best_epoch), str(len(seed.losses))] if outcome.has_course else []
        rows.append([*places, *sizes, *epochs, *shown])
    header = ["repeat", "fold", "seed", "train", "test", *(["best epoch", "of"] if outcome.has_course else [])]
    return markdown_table([*header, f"valid {metric}", f"test {metric}", "predicting the mean"], rows)


def _mean(values: tuple[float | None, ...]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


def _span(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
