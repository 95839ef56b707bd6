"""Is a difference between two fine-tunings more than luck with test rows and seeds? A bootstrap over both.

Shapes: T test rows, S seeds, D draws.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import rankdata

from unimol_scale.downstream.finetuning.labelled_rows import PREDICTED
from unimol_scale.downstream.finetuning.results import FinetuneResult
from unimol_scale.downstream.registry import METRICS
from unimol_scale.store.schema import Float64

RESAMPLES = 4000
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Gain:
    """How much of scratch's error is gone; of a ROC-AUC, of what it lacks to 1.

    Attributes:
        value: of the test rows.
        low: end of its 95 % interval.
        high: its other end.
        valid: of the validation rows, at the epochs that were chosen by them.
    """

    value: float
    low: float
    high: float
    valid: float


def gain(own: tuple[Path, FinetuneResult], scratch: tuple[Path, FinetuneResult]) -> Gain:
    """Return the gain of one fine-tuning over another, both of one target and the same rows.

    Test rows are drawn anew with replacement, and both are judged on the same draws; the seeds of each are drawn anew
    too. Of three seeds that is a rough measure of how much they scatter, and without it there would be none.

    Args:
        own: folder and outcome of the one.
        scratch: of the other.
    """
    metric = own[1].metric
    label_T, own_ST = _test_rows(*own)
    _, scratch_ST = _test_rows(*scratch)
    random = np.random.default_rng(_SEED)
    row_DT = random.integers(0, len(label_T), (RESAMPLES, len(label_T)))
    mine_D, other_D = (
        np.take_along_axis(
            np.stack([scores(metric, label_T[row_DT], prediction_T[row_DT]) for prediction_T in prediction_ST]),
            random.integers(0, len(prediction_ST), (len(prediction_ST), RESAMPLES)),
            axis=0,
        ).mean(0)
        for prediction_ST in (own_ST, scratch_ST)
    )
    low, high = np.nanpercentile(_share(mine_D, other_D, metric), [2.5, 97.5])  # a draw of one class has no ROC-AUC
    value = _share(np.array(own[1].mean), np.array(scratch[1].mean), metric)
    valid = _share(*(np.mean([seed.valid for seed in outcome.seeds]) for _, outcome in (own, scratch)), metric)
    return Gain(value=float(value), low=float(low), high=float(high), valid=float(valid))


def _share(own_D: Float64, scratch_D: Float64, metric: str) -> Float64:
    if METRICS[metric].higher_is_better:
        return (own_D - scratch_D) / (1.0 - scratch_D)
    return (scratch_D - own_D) / scratch_D


def scores(metric: str, label_DT: Float64, prediction_DT: Float64) -> Float64:
    """Return [D], the score of every draw at once; NaN where a draw has one class only.

    Args:
        metric: rmse, mae or roc_auc.
        label_DT: of the rows of each draw.
        prediction_DT: likewise.

    Raises:
        ValueError: the metric is another one.
    """
    if metric == "rmse":
        return np.sqrt(np.square(prediction_DT - label_DT).mean(1))
    if metric == "mae":
        return np.abs(prediction_DT - label_DT).mean(1)
    if metric != "roc_auc":
        raise ValueError(f"no interval is known for {metric}")
    # The share of pairs of a positive and a negative that are in order, from the ranks of the positives.
    positives_D = label_DT.sum(1)
    pairs_D = positives_D * (label_DT.shape[1] - positives_D)
    above_D = (rankdata(prediction_DT, axis=1) * label_DT).sum(1) - positives_D * (positives_D + 1) / 2
    return np.where(pairs_D > 0, above_D / np.maximum(pairs_D, 1), np.nan)


def _test_rows(folder: Path, outcome: FinetuneResult) -> tuple[Float64, Float64]:
    """Return the labels [T] and the predictions [S, T] of the test rows, in the order of the table."""
    (target,) = outcome.targets
    predictions = []
    label_T = np.empty(0)
    for seed in outcome.seeds:
        table = pq.read_table(folder / f"predictions-seed-{seed.seed}.parquet")
        test = np.array(table["split"].to_pylist(), dtype=object) == "test"
        label_T = table[target].to_numpy(zero_copy_only=False)[test]
        predictions.append(table[f"{PREDICTED}{target}"].to_numpy(zero_copy_only=False)[test])
    return label_T, np.stack(predictions)
