"""What a user must know of a test score before reading it: how many molecules it is of, and whether it beats the mean.

Imports NumPy only. Shapes: M rows, L targets.
"""

from collections.abc import Sequence

import numpy as np

from unimol_scale.downstream.finetuning.metrics import Metric, score
from unimol_scale.store.schema import Float64, Int64

# Of so many molecules the root mean square of normal errors is known to a sixth or worse: a standard error of 1/√(2n).
FEW_MOLECULES = 20
NAMED = 3  # targets that a sentence names


def trivial_scores(metric: Metric, train_RL: Float64, test_RL: Float64) -> tuple[float | None, ...]:
    """Return the score, target by target, of predicting the mean of the training labels for every test row.

    Of classifiers that is the share of ones. None where the metric has no value for it.
    """
    known_RL = ~np.isnan(train_RL)
    mean_L = np.where(known_RL, train_RL, 0.0).sum(0) / np.maximum(known_RL.sum(0), 1)
    return score(metric, test_RL, np.broadcast_to(mean_L, test_RL.shape)).per_target


def labelled_molecules(position_R: Int64, label_RL: Float64) -> tuple[int, ...]:
    """Return the number of distinct molecules with a label, target by target."""
    return tuple(len(np.unique(position_R[~np.isnan(label_R)])) for label_R in label_RL.T)


def cautions(
    metric: str,
    targets: Sequence[str],
    scores: Sequence[float | None],
    trivial: Sequence[float | None],
    molecules: Sequence[int],
    *,
    higher_is_better: bool,
) -> tuple[str, ...]:
    """Return what must stand beside a test score; nothing for a score of many molecules that beats the mean.

    Args:
        metric: name of that of the scores.
        targets: [L] names.
        scores: [L] of the models, mean over seeds; None where undefined.
        trivial: [L] see ``trivial_scores``; empty where it is not known.
        molecules: [L] test molecules with a label; empty where that is not known.
        higher_is_better: which way the metric's up is.
    """
    said = []
    few = {name: number for name, number in zip(targets, molecules, strict=False) if number < FEW_MOLECULES}
    if few:
        least = min(few.values())
        of = "" if len(targets) == 1 else f" for {_names(list(few))}"
        noun = "molecule" if least == 1 else "molecules"
        said.append(f"only {least:,} test {noun}{of}: another choice of test molecules may give quite another score")
    worse = [
        (name, trivially)
        for name, value, trivially in zip(targets, scores, trivial, strict=False)
        if value is not None
        and trivially is not None
        and (value <= trivially if higher_is_better else value >= trivially)
    ]
    if worse:
        of = "" if len(targets) == 1 else f" for {_names([name for name, _ in worse])}"
        said.append(f"no better than predicting the mean of the training labels{of} ({metric} {worse[0][1]:.3g})")
    return tuple(said)


def _names(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more:,} more" if more > 0 else "")
