"""Scores of several models on drawn molecules: a bootstrap over the molecules of all folds, the same for every model.

Shapes: R rows of a block (a fold of a repeat), J blocks, S seeds, L targets, K different predictions, U molecules, D
draws, A models.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unimol_scale.downstream.metric import Metric
from unimol_scale.store.schema import Float64, Int64

DRAWS = 2000
SLOW_DRAWS = 400  # of metrics that have to be computed draw by draw
_SEED = 0
_MOST_COUNTS = 2**22  # that are in memory at once


@dataclass(frozen=True, kw_only=True)
class Block:
    """The tested rows of one fold of one repeat.

    Attributes:
        molecule_R: int64, number of the molecule; rows of one molecule have the same one in all blocks.
        labels_RL: NaN where missing.
        predictions: for each model, its predictions [S, R, L].
    """

    molecule_R: Int64
    labels_RL: Float64
    predictions: tuple[Float64, ...]


def drawn_scores(blocks: Sequence[Block], metric: Metric, scale_L: Float64, draws: int | None = None) -> Float64:
    """Return the mean score over blocks of each model for every draw, float64 [A, D].

    Molecules are drawn with replacement; all rows of a molecule, in all repeats, are drawn together, since they are no
    independent evidence. The models are not trained anew, so what another training set would change is not in it.

    Args:
        blocks: of a cross-validation; each has the same models.
        metric: of the scores.
        scale_L: float64, what the scores of the targets are divided by before their mean.
        draws: number of draws; None: 2,000, or 400 of a metric that has to be computed draw by draw.

    Returns:
        NaN where no block has a defined score in a draw.
    """
    draws = draws or (DRAWS if metric.name in _WEIGHTED else SLOW_DRAWS)
    U = 1 + max(int(block.molecule_R.max()) for block in blocks)
    random = np.random.default_rng(_SEED)
    together = max(1, _MOST_COUNTS // U)
    parts = []
    for start in range(0, draws, together):
        drawn = (random.integers(0, U, U) for _ in range(min(together, draws - start)))
        count_DU = np.stack([np.bincount(one, minlength=U) for one in drawn])
        parts.append(_scores(blocks, metric, scale_L, count_DU))
    return np.concatenate(parts, axis=1)


def _scores(blocks: Sequence[Block], metric: Metric, scale_L: Float64, count_DU: Int64) -> Float64:
    """Return [A, D] for molecules that are drawn so many times."""
    scores_JAD = []
    for block in blocks:
        weight_DR = count_DU[:, block.molecule_R].astype(np.float64)
        of_models = []
        for prediction_SRL in block.predictions:
            each = [
                _target_score(block.labels_RL[:, at], prediction_RL[:, at], weight_DR, metric) / scale
                for prediction_RL in prediction_SRL
                for at, scale in enumerate(scale_L.tolist())
            ]
            of_models.append(_nanmean(np.stack(each)))
        scores_JAD.append(np.stack(of_models))
    return _nanmean(np.stack(scores_JAD))


def _target_score(label_R: Float64, prediction_R: Float64, weight_DR: Float64, metric: Metric) -> Float64:
    """Return the score of one target for every draw, [D]; NaN where it is undefined."""
    known_R = ~np.isnan(label_R)
    label, prediction, weight = label_R[known_R], prediction_R[known_R], weight_DR[:, known_R]
    if not len(label) or metric.problem(label):
        return np.full(len(weight_DR), np.nan)
    if (function := _WEIGHTED.get(metric.name)) is not None:
        return function(label, prediction, weight)
    found = np.full(len(weight), np.nan)
    for draw, times in enumerate(weight.astype(np.int64)):
        drawn = np.repeat(np.arange(len(label)), times)
        if len(drawn) and not metric.problem(label[drawn]):
            found[draw] = metric.function(label[drawn], prediction[drawn])
    return found


def _rmse(label_R: Float64, prediction_R: Float64, weight_DR: Float64) -> Float64:
    return np.sqrt(_weighted_mean((prediction_R - label_R) ** 2, weight_DR))


def _mae(label_R: Float64, prediction_R: Float64, weight_DR: Float64) -> Float64:
    return _weighted_mean(np.abs(prediction_R - label_R), weight_DR)


def _roc_auc(label_R: Float64, prediction_R: Float64, weight_DR: Float64) -> Float64:
    """Return the share of pairs of a one and a zero that are in order; a tie counts half."""
    order = np.argsort(prediction_R, kind="stable")
    _, first_K = np.unique(prediction_R[order], return_index=True)
    ones_R, weight_DR = label_R[order] == 1.0, weight_DR[:, order]
    ones_DK, zeros_DK = (
        np.add.reduceat(np.where(chosen_R, weight_DR, 0.0), first_K, axis=1) for chosen_R in (ones_R, ~ones_R)
    )
    below_DK = np.cumsum(zeros_DK, axis=1) - 0.5 * zeros_DK
    pairs_D = ones_DK.sum(1) * zeros_DK.sum(1)
    in_order_D = (ones_DK * below_DK).sum(1)
    return np.where(pairs_D > 0.0, in_order_D / np.where(pairs_D > 0.0, pairs_D, 1.0), np.nan)


_WEIGHTED: Mapping[str, Callable[[Float64, Float64, Float64], Float64]] = {
    "rmse": _rmse,
    "mae": _mae,
    "roc_auc": _roc_auc,
}


def _weighted_mean(value_R: Float64, weight_DR: Float64) -> Float64:
    total_D = weight_DR.sum(1)
    mean_D: Float64 = np.where(total_D > 0.0, weight_DR @ value_R / np.where(total_D > 0.0, total_D, 1.0), np.nan)
    return mean_D


def _nanmean(values: Float64) -> Float64:
    """Return the mean over the first axis of what is not NaN; NaN where nothing is."""
    there = ~np.isnan(values)
    count = there.sum(0)
    mean: Float64 = np.where(count > 0, np.where(there, values, 0.0).sum(0) / np.where(count > 0, count, 1), np.nan)
    return mean
