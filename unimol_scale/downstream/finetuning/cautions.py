"""Warnings about test scores (few molecules, no better than the mean) and about the spread of the seeds.

Shapes: M rows, L targets.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr

from unimol_scale.downstream.data.molecules import UInt64
from unimol_scale.downstream.labels.outputs import trivial_outputs
from unimol_scale.downstream.metric import Metric
from unimol_scale.downstream.metrics import score
from unimol_scale.store.schema import Float64

# The RMSE of n normal errors has a relative standard error of 1/√(2n): with 20 molecules, one sixth.
FEW_MOLECULES = 20
USEFUL_CORRELATION = 0.5  # smallest correlation at which the spread is useful to sort predictions by likely error
NAMED = 3  # number of targets that a sentence names


def trivial_scores(
    metric: Metric, train_RL: Float64, test_RL: Float64, num_classes: int = 0
) -> tuple[float | None, ...]:
    """Return the score, for each target, of predicting the mean of the training labels for every test row.

    For two classes that mean is the fraction of ones; for several classes it is their frequencies, so that the most
    frequent class is predicted. None where the metric is undefined.
    """
    value_W = trivial_outputs(train_RL, num_classes)
    return score(metric, test_RL, np.tile(value_W, (len(test_RL), 1))).per_target


def mean_scores(scores: Sequence[Sequence[float | None]]) -> tuple[float | None, ...]:
    """Return the mean over folds of the scores of each target, [L]; None where no fold has a score.

    Args:
        scores: scores of every fold, each [L].
    """
    found = ([value for value in values if value is not None] for values in zip(*scores, strict=True))
    return tuple(float(np.mean(values)) if values else None for values in found)


def count_labelled_molecules(key_R: UInt64, label_RL: Float64) -> tuple[int, ...]:
    """Return the number of distinct molecules (keys) with a label, for each target."""
    return tuple(len(np.unique(key_R[~np.isnan(label_R)])) for label_R in label_RL.T)


def cautions(
    metric: str,
    targets: Sequence[str],
    scores: Sequence[float | None],
    trivial: Sequence[float | None],
    molecules: Sequence[int],
    *,
    higher_is_better: bool,
    trivial_name: str = "the mean of the training labels",
) -> tuple[str, ...]:
    """Return warnings about a test score; none for a score of many molecules that is better than predicting the mean.

    Args:
        metric: name of the metric.
        targets: [L] names of the targets.
        scores: [L] scores of the models, averaged over seeds; None where undefined.
        trivial: [L] scores of ``trivial_scores``; empty if unknown.
        molecules: [L] numbers of test molecules with a label; empty if unknown.
        higher_is_better: whether a higher score is better.
        trivial_name: what the trivial predictor predicts for every molecule, in words.
    """
    said = []
    few = {name: number for name, number in zip(targets, molecules, strict=False) if number < FEW_MOLECULES}
    if few:
        least = min(few.values())
        of = "" if len(targets) == 1 else f" for {first_names(list(few))}"
        noun = "molecule" if least == 1 else "molecules"
        said.append(f"only {least:,} test {noun}{of}: other test molecules may give a very different score")
    worse = [
        (name, trivially)
        for name, value, trivially in zip(targets, scores, trivial, strict=False)
        if value is not None
        and trivially is not None
        and (value <= trivially if higher_is_better else value >= trivially)
    ]
    if worse:
        of = "" if len(targets) == 1 else f" for {first_names([name for name, _ in worse])}"
        said.append(f"no better than predicting {trivial_name}{of} ({metric} {worse[0][1]:.3g})")
    return tuple(said)


def first_names(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more:,} more" if more > 0 else "")


def describe_spread(spread_RL: Float64, error_RL: Float64) -> str:
    """Return in words whether the spread over seeds indicates which predictions are wrong.

    It uses Spearman's rank correlation of spread and absolute error, averaged over targets, with the 95 % interval of
    Fieller et al. 1957 (doi:10.1093/biomet/44.3-4.470).

    Args:
        spread_RL: standard deviation over seeds of the predictions for the test rows.
        error_RL: absolute error of their mean; NaN without a label.
    """
    column = "the spread of the seeds (seed_std of `predict`)"
    found = []
    most = 0
    for spread_R, error_R in zip(spread_RL.T, error_RL.T, strict=True):
        known_R = ~np.isnan(error_R)
        if known_R.sum() >= FEW_MOLECULES and np.ptp(spread_R[known_R]) > 0.0 and np.ptp(error_R[known_R]) > 0.0:
            found.append(float(spearmanr(spread_R[known_R], error_R[known_R]).statistic))
            most = max(most, int(known_R.sum()))
    if not found:
        return f"these test rows cannot show whether {column} follows the error: do not rely on it"
    value = float(np.mean(found))
    centre, half = math.atanh(min(max(value, -0.999), 0.999)), 1.96 * math.sqrt(1.06 / (most - 3))
    low, high = math.tanh(centre - half), math.tanh(centre + half)
    numbers = f"Spearman's correlation {value:.2f}, 95 % interval {low:.2f} to {high:.2f}"
    if low <= 0.0:
        return f"do not trust {column} as an uncertainty: on the test rows it does not follow the error ({numbers})"
    if value < USEFUL_CORRELATION:
        return f"{column} follows the error only weakly ({numbers}): a small spread does not mean a small error"
    return f"{column} follows the error ({numbers}): predictions can be sorted by it"
