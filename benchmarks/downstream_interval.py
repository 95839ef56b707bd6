"""Is a difference between two fine-tunings more than the luck of the test rows? A paired bootstrap over them."""

import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from unimol_scale.downstream.config import MetricName
from unimol_scale.downstream.metrics import METRICS, score
from unimol_scale.downstream.outcome import Outcome
from unimol_scale.downstream.rows import PREDICTED
from unimol_scale.store.schema import Float64

RESAMPLES = 400
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Gain:
    """How much of scratch's error is gone; of a ROC-AUC, of what it lacks to 1. With its 95 % interval."""

    value: float
    low: float
    high: float


def gain(own: tuple[Path, Outcome], scratch: tuple[Path, Outcome]) -> Gain:
    """Return the gain of one fine-tuning over another, both of one target and the same rows.

    Test rows are drawn anew with replacement; both are judged on the same draws.

    Args:
        own: folder and outcome of the one.
        scratch: of the other.
    """
    metric = own[1].metric
    label_T, own_predictions = _test_rows(*own)
    _, scratch_predictions = _test_rows(*scratch)
    random = np.random.default_rng(_SEED)
    gains = []
    for _ in range(RESAMPLES):
        rows = random.integers(0, len(label_T), len(label_T))
        mine, other = (
            _mean_score(metric, label_T[rows], [each[rows] for each in some])
            for some in (own_predictions, scratch_predictions)
        )
        if mine is not None and other is not None:  # a draw of one class has no ROC-AUC
            gains.append(_share(mine, other, metric))
    low, high = np.percentile(gains, [2.5, 97.5])
    return Gain(value=_share(own[1].mean, scratch[1].mean, metric), low=float(low), high=float(high))


def _share(own: float, scratch: float, metric: MetricName) -> float:
    if METRICS[metric].higher_is_better:
        return (own - scratch) / (1.0 - scratch)
    return (scratch - own) / scratch


def _mean_score(metric: MetricName, label_T: Float64, predictions: list[Float64]) -> float | None:
    values = [score(metric, label_T[:, None], each[:, None]).value for each in predictions]
    return None if None in values else statistics.fmean(value for value in values if value is not None)


def _test_rows(folder: Path, outcome: Outcome) -> tuple[Float64, list[Float64]]:
    """Return labels and, for each seed, predictions of the test rows, in the order of the table."""
    (target,) = outcome.targets
    predictions = []
    label_T = np.empty(0)
    for seed in outcome.seeds:
        table = pq.read_table(folder / f"predictions-seed-{seed.seed}.parquet")
        test = np.array(table["split"].to_pylist(), dtype=object) == "test"
        label_T = table[target].to_numpy(zero_copy_only=False)[test]
        predictions.append(table[f"{PREDICTED}{target}"].to_numpy(zero_copy_only=False)[test])
    return label_T, predictions
