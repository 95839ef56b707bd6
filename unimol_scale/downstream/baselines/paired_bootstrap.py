"""A paired bootstrap over test molecules and seeds: is the difference between two predictors more than chance?

All predictors are scored on the same draws of test molecules (Efron and Tibshirani 1993, An Introduction to the
Bootstrap). All rows of a molecule are drawn together, in all groups of rows, because they are not independent.

Shapes: R test rows, S seeds, L targets, U distinct molecules, D draws.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unimol_scale.downstream.baselines.baseline_results import PairedDifference, Verdict
from unimol_scale.downstream.metric import Metric, of_target
from unimol_scale.downstream.metrics import log_losses

Float64 = npt.NDArray[np.float64]

DRAWS = 2000
# For metrics that are computed draw by draw.
SLOW_DRAWS = 500
FEW_MOLECULES = 20  # with fewer test molecules, bootstrap intervals are too narrow to conclude anything from them
# Differences below this fraction of the score are never called significant; they may be due to rounding.
NO_DIFFERENCE = 1e-3
_ENDS = (0.025, 0.975)  # ends of a 95 % interval, as quantiles
_SEED = 0
_CHUNK = 2**22  # number of weights held in memory at once


@dataclass(frozen=True, kw_only=True)
class JudgedRows:
    """Test rows, and the predictions of every predictor for them.

    Attributes:
        label_RL: labels, NaN for missing ones.
        molecule_R: identifies the molecule of each row; equal for rows of one molecule, across all groups.
        predictions: name of a predictor → predictions of each of its seeds, float64 [S, R, W]; the W outputs are one
            per target, or the probabilities of all classes of a single target.
        scale_L: float64, by which the errors of a target are divided before averaging over targets.
    """

    label_RL: Float64
    molecule_R: npt.NDArray[np.generic]
    predictions: Mapping[str, Float64]
    scale_L: Float64


def drawn_scores(
    groups: Sequence[JudgedRows], metric: Metric, draws: int | None = None
) -> tuple[dict[str, Float64], dict[str, Float64]]:
    """Return the score of every predictor for every target: of all rows, and of every draw of molecules and seeds.

    A score is the mean over the seeds and over the groups. If there are several seeds, every draw also draws the seeds
    with replacement. With three seeds this is only a rough measure of their spread, but better than none.

    Args:
        groups: the rows of a fine-tuning, or of each of its folds.
        metric: metric of the scores; errors in the units of the labels are divided by ``scale_L``.
        draws: number of draws; None: 2,000, or 500 for metrics that are computed draw by draw.

    Returns:
        Predictor → scores of all rows, float64 [1, L]; and predictor → scores of the draws, float64 [D, L]. NaN where
        a score is undefined.
    """
    draws = draws or (DRAWS if metric.name in _WEIGHTED else SLOW_DRAWS)
    distinct_U, molecule_all = np.unique(np.concatenate([group.molecule_R for group in groups]), return_inverse=True)
    molecules = np.split(molecule_all, np.cumsum([len(group.molecule_R) for group in groups])[:-1])
    names = list(groups[0].predictions)
    random = {name: np.random.default_rng([_SEED, at + 1]) for at, name in enumerate(names)}

    def means(count_DU: Float64, name: str, *, redrawn: bool) -> Float64:
        each = []
        for group, molecule_R in zip(groups, molecules, strict=True):
            score_SDL = _scores(group, group.predictions[name], metric, count_DU[:, molecule_R])
            each.append(_some_seeds(score_SDL, random[name]) if redrawn else score_SDL.mean(0))
        return _nanmean(np.stack(each), 0)

    found: dict[str, list[Float64]] = {name: [] for name in names}
    for count_DU in _drawn_counts(len(distinct_U), draws):
        for name in names:
            found[name].append(means(count_DU, name, redrawn=True))
    whole = {name: means(np.ones((1, len(distinct_U))), name, redrawn=False) for name in names}
    return whole, {name: np.concatenate(parts) for name, parts in found.items()}


def paired_difference(
    against: str,
    one: tuple[Float64, Float64],
    other: tuple[Float64, Float64],
    metric: Metric,
    molecules_L: Sequence[int],
) -> PairedDifference:
    """Return how the models (``one``) differ from a baseline (``other``), and whether the difference is significant.

    Args:
        against: name of the baseline.
        one: scores of the models: of all rows [1, L] and of every draw [D, L]; see ``drawn_scores``.
        other: scores of the baseline, for the same draws.
        metric: metric of the scores.
        molecules_L: number of distinct test molecules with a label, for each target.
    """
    sign = 1.0 if metric.higher_is_better else -1.0
    (own_L,), (their_L,) = one[0], other[0]
    # Targets for which both scores are defined.
    defined_L = ~np.isnan(own_L + their_L)
    means = [_nanmean(values[:, defined_L], 1) for values in (one[1], other[1], one[0], other[0])]
    own_D, their_D, own, theirs = means
    verdicts = [
        _verdict(sign * (one[1][:, at] - other[1][:, at]), their_L[at], molecules_L[at])
        if defined_L[at]
        else "too few to tell"
        for at in range(len(molecules_L))
    ]
    is_ratio = metric.in_label_units
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = own_D / their_D if is_ratio else own_D - their_D
        (value,) = own / theirs if is_ratio else own - theirs
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.quantile(drawn, _ENDS, method="nearest") if len(drawn) else (np.nan, np.nan)
    value, low, high = (float(end) if np.isfinite(end) else None for end in (value, low, high))
    return PairedDifference(
        against=against,
        is_ratio=is_ratio,
        value=value,
        low=low,
        high=high,
        verdict=_verdict(sign * (own_D - their_D), float(theirs[0]), max(molecules_L)),
        verdict_by_target=tuple(verdicts),
    )


def _verdict(gain_D: Float64, score: float, molecules: int) -> Verdict:
    """Return the conclusion from draws of a gain [D]; more than half of them must be defined (not NaN)."""
    there = gain_D[~np.isnan(gain_D)]
    if molecules < FEW_MOLECULES or 2 * len(there) <= len(gain_D):
        return "too few to tell"
    low, high = np.quantile(there, _ENDS)
    least = NO_DIFFERENCE * abs(score)
    return "better" if low > least else "worse" if high < -least else "no sure difference"


def _drawn_counts(num_molecules: int, draws: int) -> Iterator[Float64]:
    """Yield how often each molecule occurs in each draw, float64 [at most D, U], some draws at a time."""
    random = np.random.default_rng(_SEED)
    size = max(1, _CHUNK // num_molecules)
    for start in range(0, draws, size):
        drawn = (random.integers(0, num_molecules, num_molecules) for _ in range(min(size, draws - start)))
        yield np.stack([np.bincount(one, minlength=num_molecules) for one in drawn]).astype(np.float64)


def _some_seeds(score_SDL: Float64, random: np.random.Generator) -> Float64:
    """Return the mean over as many seeds as there are, drawn with replacement for every draw, [D, L]."""
    num_seeds, num_draws, _ = score_SDL.shape
    drawn_SD = random.integers(0, num_seeds, (num_draws, num_seeds)).T
    mean_DL: Float64 = np.take_along_axis(score_SDL, drawn_SD[:, :, None], axis=0).mean(0)
    return mean_DL


def _scores(group: JudgedRows, prediction_SRL: Float64, metric: Metric, weight_DR: Float64) -> Float64:
    """Return the scores [S, D, L] of rows weighted by ``weight_DR``; NaN where undefined."""
    num_seeds, num_targets = len(prediction_SRL), group.label_RL.shape[1]
    found: Float64 = np.full((num_seeds, len(weight_DR), num_targets), np.nan)
    function = _WEIGHTED.get(metric.name, functools.partial(_draw_by_draw, metric))
    for at in range(num_targets):
        known_R = ~np.isnan(group.label_RL[:, at])
        weight_DK, label_K = weight_DR[:, known_R], group.label_RL[known_R, at]
        if not len(label_K) or metric.problem(label_K):
            continue
        for seed in range(num_seeds):
            value_K = of_target(prediction_SRL[seed], at, num_targets)[known_R]
            found[seed, :, at] = function(label_K, value_K, weight_DK)
    return found / group.scale_L if metric.in_label_units else found


def _rmse(label_R: Float64, prediction_R: Float64, weight_DR: Float64) -> Float64:
    rmse_D: Float64 = np.sqrt(_weighted_mean(np.square(prediction_R - label_R), weight_DR))
    return rmse_D


def _mae(label_R: Float64, prediction_R: Float64, weight_DR: Float64) -> Float64:
    return _weighted_mean(np.abs(prediction_R - label_R), weight_DR)


def _log_loss(label_R: Float64, prediction_R: Float64, weight_DR: Float64) -> Float64:
    return _weighted_mean(log_losses(label_R, prediction_R), weight_DR)


def _any_roc_auc(label_R: Float64, prediction_R: Float64, weight_DR: Float64) -> Float64:
    """Return the area; for several classes, the mean over classes that occur in the labels, each against the rest."""
    if prediction_R.ndim == 1:
        return _roc_auc(label_R, prediction_R, weight_DR)
    classes = np.unique(label_R)
    each = [_roc_auc((label_R == name).astype(np.float64), prediction_R[:, int(name)], weight_DR) for name in classes]
    return _nanmean(np.stack(each), 0)


def _roc_auc(label_R: Float64, prediction_R: Float64, weight_DR: Float64) -> Float64:
    """Return the fraction of pairs of a positive and a negative in the right order; ties count as half."""
    order = np.argsort(prediction_R, kind="stable")
    positive_R = label_R[order] == 1.0
    _, first, tied_R = np.unique(prediction_R[order], return_index=True, return_inverse=True)
    last_R = np.append(first[1:], len(order))[tied_R]  # index after the last row with the same prediction
    negatives_DR = np.where(positive_R, 0.0, weight_DR[:, order])
    below_DR = np.pad(np.cumsum(negatives_DR, axis=1), ((0, 0), (1, 0)))  # number of negatives before each place
    positives_DR = np.where(positive_R, weight_DR[:, order], 0.0)
    above_D = (positives_DR * (below_DR[:, first[tied_R]] + below_DR[:, last_R]) / 2.0).sum(1)
    pairs_D = positives_DR.sum(1) * negatives_DR.sum(1)
    return np.where(pairs_D > 0.0, above_D / np.maximum(pairs_D, 1.0), np.nan)


def _draw_by_draw(metric: Metric, label_R: Float64, prediction_R: Float64, weight_DR: Float64) -> Float64:
    found = np.full(len(weight_DR), np.nan)
    for draw, weight_R in enumerate(weight_DR.astype(np.int64)):
        label = np.repeat(label_R, weight_R)
        if len(label) and not metric.problem(label):
            found[draw] = metric.function(label, np.repeat(prediction_R, weight_R, axis=0))
    return found


def _weighted_mean(value_R: Float64, weight_DR: Float64) -> Float64:
    total_D = weight_DR.sum(1)
    mean_D: Float64 = np.where(total_D > 0.0, weight_DR @ value_R / np.maximum(total_D, 1.0), np.nan)
    return mean_D


def _nanmean(values: Float64, axis: int) -> Float64:
    """Return means over values that are not NaN; NaN where there are none."""
    there = ~np.isnan(values)
    count = there.sum(axis)
    mean: Float64 = np.where(count > 0, np.where(there, values, 0.0).sum(axis) / np.maximum(count, 1), np.nan)
    return mean


_WEIGHTED: dict[str, Callable[[Float64, Float64, Float64], Float64]] = {
    "rmse": _rmse,
    "mae": _mae,
    "roc_auc": _any_roc_auc,
    "log_loss": _log_loss,
}
