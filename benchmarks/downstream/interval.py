"""Is the difference of two fine-tunings more than chance in test molecules and seeds? A bootstrap over both.

Shapes: T test rows, S seeds, L targets, D draws.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from unimol_scale.downstream.baselines.paired_bootstrap import JudgedRows, drawn_scores
from unimol_scale.downstream.finetuning.results import FinetuneResult, read_predictions
from unimol_scale.downstream.registry import METRICS
from unimol_scale.store.schema import Float64

RESAMPLES = 4000


@dataclass(frozen=True, kw_only=True)
class Gain:
    """The relative reduction of scratch's error; for ROC-AUC, the error is 1 − AUC.

    Attributes:
        value: reduction on the test rows.
        low: lower end of its 95 % interval.
        high: upper end.
        valid: reduction on the validation rows, at the epochs that were chosen by them.
    """

    value: float
    low: float
    high: float
    valid: float


def gain(own: tuple[Path, FinetuneResult], scratch: tuple[Path, FinetuneResult]) -> Gain:
    """Return the gain of one fine-tuning over another, both of the same targets and rows; of several, of their mean.

    Test molecules are drawn with replacement, and both fine-tunings are evaluated on the same draws; the seeds of each
    are drawn with replacement too.

    Args:
        own: folder and outcome of one fine-tuning.
        scratch: those of the other, with which it is compared.
    """
    metric = own[1].metric
    label_TL, molecule_T, own_STL = _test_rows(*own)
    _, _, scratch_STL = _test_rows(*scratch)
    rows = JudgedRows(
        label_RL=label_TL,
        molecule_R=molecule_T,
        predictions={"own": own_STL, "scratch": scratch_STL},
        scale_L=np.ones(label_TL.shape[1]),
    )
    _, drawn = drawn_scores([rows], METRICS[metric], RESAMPLES)
    with warnings.catch_warnings():  # a draw in which no target has a score
        warnings.simplefilter("ignore", RuntimeWarning)
        own_D, scratch_D = (np.nanmean(drawn[name], axis=1) for name in ("own", "scratch"))
    share_D = share_gone(own_D, scratch_D, metric)
    low, high = np.nanpercentile(share_D, [2.5, 97.5])  # a draw of one class has no ROC-AUC
    value = share_gone(np.array(own[1].mean), np.array(scratch[1].mean), metric)
    valid = share_gone(*(np.mean([seed.valid for seed in outcome.seeds]) for _, outcome in (own, scratch)), metric)
    return Gain(value=float(value), low=float(low), high=float(high), valid=float(valid))


def share_gone(own_D: Float64, scratch_D: Float64, metric: str) -> Float64:
    """Return the relative reduction of scratch's error; if a higher score is better, the error is 1 − score."""
    if METRICS[metric].higher_is_better:
        return (own_D - scratch_D) / (1.0 - scratch_D)
    return (scratch_D - own_D) / scratch_D


def _test_rows(folder: Path, outcome: FinetuneResult) -> tuple[Float64, np.ndarray, Float64]:
    """Return labels [T, L], SMILES [T] and predictions [S, T, L] of the test rows, in the order of the table."""
    table = pq.read_table(folder / f"predictions-seed-{outcome.seeds[0].seed}.parquet")
    test = np.array(table["split"].to_pylist(), dtype=object) == "test"
    labels = [table[target].to_numpy(zero_copy_only=False)[test] for target in outcome.targets]
    smiles_T = np.array(table["smiles"].to_pylist(), dtype=object)[test].astype(str)
    predictions = [read_predictions(folder, seed.seed, outcome.targets)[test] for seed in outcome.seeds]
    return np.stack(labels, axis=1), smiles_T, np.stack(predictions)
