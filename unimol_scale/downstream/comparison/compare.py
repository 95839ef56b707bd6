"""Compares finished cross-validations of the same data, fold by fold and molecule by molecule.

Shapes: A results, J blocks (a fold of a repeat), D draws of molecules.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unimol_scale.common.report.markdown import markdown_table
from unimol_scale.downstream.baselines.paired_bootstrap import JudgedRows, drawn_scores
from unimol_scale.downstream.comparison.fold_results import FoldResult, read_fold_results
from unimol_scale.downstream.fold_statistics import (
    CONFIDENCE,
    BlockComparison,
    BlockDifference,
    Interval,
    compare_methods,
    corrected_interval,
)
from unimol_scale.downstream.metric import Metric
from unimol_scale.downstream.registry import METRICS
from unimol_scale.errors import ConfigError
from unimol_scale.store.schema import Float64

PAIR_COLUMNS = (
    "difference",
    "95 % interval, all pairs together",
    "significant",
    "p",
    "folds better",
    "effect size",
    "uncorrected interval",
    "interval over molecules",
)


@dataclass(frozen=True, kw_only=True)
class ComparedPair:
    """Two results, the better one first.

    Attributes:
        better: index of the result with the better mean score.
        worse: index of the other result.
        difference: score of the better result minus that of the other.
        interval: 95 % interval of the difference, simultaneous for all pairs and corrected for training rows that folds
            share.
        p: p-value of no difference, simultaneous and corrected as well.
        uncorrected: 95 % interval, simultaneous, as if folds were independent.
        rows: 95 % interval of the difference over bootstrap draws of test molecules, for this pair alone, with the
            models fixed; None if the metric is the user's own.
        effect: absolute mean of the differences of the folds divided by their standard deviation; NaN if they do not
            vary.
        folds_better: number of folds in which the better result has the better score.
    """

    better: int
    worse: int
    difference: float
    interval: Interval
    p: float
    uncorrected: Interval
    rows: Interval | None
    effect: float
    folds_better: int

    @property
    def is_sure(self) -> bool:
        """Whether the difference is significant: the corrected simultaneous interval excludes 0."""
        return not self.interval.holds(0.0)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Several cross-validations of the same data with the same folds.

    Attributes:
        data: name of the data.
        metric: name of the metric.
        unit: unit of the scores; "" if they have none.
        higher_is_better: whether a higher score is better.
        folds: number of blocks J.
        described_folds: the folds in words, such as "5 folds × 2 repeats".
        names: [A] names of the results, in the order in which they were given.
        folders: [A] folders of the results.
        starts: [A] what their training started from.
        means: [A] mean scores over folds.
        intervals: [A] corrected 95 % intervals of the means, each by itself.
        p: p-value of no difference between any of the results, by a corrected repeated-measures analysis of variance.
        uncorrected_p: the same p-value as if folds were independent.
        test_to_train: test rows divided by training and validation rows of a fold, used to correct the variances.
        pairs: all pairs; pairs with the best result come first.
    """

    data: str
    metric: str
    unit: str
    higher_is_better: bool
    folds: int
    described_folds: str
    names: tuple[str, ...]
    folders: tuple[str, ...]
    starts: tuple[str, ...]
    means: tuple[float, ...]
    intervals: tuple[Interval, ...]
    p: float
    uncorrected_p: float
    test_to_train: float
    pairs: tuple[ComparedPair, ...]

    @property
    def ranking(self) -> tuple[int, ...]:
        """Indices of the results, the best mean first."""
        sign = -1.0 if self.higher_is_better else 1.0
        return tuple(sorted(range(len(self.names)), key=lambda at: sign * self.means[at]))

    def headline(self) -> str:
        """Return in words which result is better, and whether the difference is significant."""
        best, *others = self.ranking
        ties = [pair.worse for pair in self.pairs if pair.better == best and not pair.is_sure]
        name = self.names[best]
        if not ties:
            than = self.names[others[0]] if len(others) == 1 else f"all {len(others)} others"
            return f"{name} is significantly better than {than} (95 %)"
        tied = ", ".join(self.names[at] for at in ties)
        sure = [self.names[at] for at in others if at not in ties]
        also = f"; it is significantly better than {', '.join(sure)}" if sure else ""
        return f"{name} has the best mean, but is not significantly better than {tied}{also}"

    def result_table(self) -> list[str]:
        """Return a Markdown table of the results, the best first."""
        unit = f" ({self.unit})" if self.unit else ""
        rows = [
            [self.names[at], self.starts[at], f"{self.means[at]:.4g}", _shown(self.intervals[at])]
            for at in self.ranking
        ]
        return markdown_table(["result", "start", f"{self.metric}{unit}, mean of folds", "95 % interval"], rows)

    def pair_table(self) -> list[str]:
        """Return a Markdown table of all pairs."""
        rows = []
        for pair in self.pairs:
            rows.append(
                [
                    f"{self.names[pair.better]} − {self.names[pair.worse]}",
                    f"{pair.difference:+.3g}",
                    _shown(pair.interval, sign="+"),
                    "yes" if pair.is_sure else "no",
                    f"{pair.p:.2g}",
                    f"{pair.folds_better} of {self.folds}",
                    "" if math.isnan(pair.effect) else f"{pair.effect:.2f}",
                    _shown(pair.uncorrected, sign="+"),
                    "" if pair.rows is None else _shown(pair.rows, sign="+"),
                ]
            )
        return markdown_table([f"better − other, {self.metric}", *PAIR_COLUMNS], rows)

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{self.data}, {self.metric} ({'higher' if self.higher_is_better else 'lower'} is better), "
                f"{self.described_folds}: {self.headline()}",
                "",
                *self.result_table(),
                "",
                *self.pair_table(),
            ]
        )


def compare_folds(folders: Sequence[Path]) -> Comparison:
    """Compare cross-validations of the same data with the same folds, in pairs.

    The scores of the folds are compared by ``compare_methods``: a repeated-measures analysis of variance and Tukey's
    intervals (Ash et al., JCIM 2025), with the variance corrected for the training rows that folds share (Nadeau and
    Bengio 2003). These intervals also account for training on other molecules from the same distribution. In addition,
    each pair has an interval from a bootstrap of the test molecules with the models fixed.

    Args:
        folders: folders of finished cross-validations.

    Raises:
        ConfigError: there are fewer than two folders, or they differ in data, metric or folds.
        SourceError: the out-of-fold predictions of a result are missing or damaged.
    """
    return compare_results(read_fold_results(folders))


def compare_results(found: Sequence[FoldResult]) -> Comparison:
    """Compare cross-validations as ``compare_folds`` does.

    Args:
        found: two or more results that passed ``check_alike``.

    Raises:
        ConfigError: the metric is not defined in every fold.
    """
    outcome = found[0].outcome
    scores_AJ = np.stack([one.scores_J for one in found])
    if not np.isfinite(scores_AJ).all():
        raise ConfigError(f"{outcome.metric} is not defined in every fold, so the folds cannot be compared")
    ratio = max(one.outcome.test_to_train for one in found)
    statistics = compare_methods(scores_AJ, ratio)
    return Comparison(
        data=outcome.name,
        metric=outcome.metric,
        unit=found[0].unit,
        higher_is_better=outcome.prefers_high,
        folds=scores_AJ.shape[1],
        described_folds=outcome.describe_folds(),
        names=tuple(one.name for one in found),
        folders=tuple(str(one.folder) for one in found),
        starts=tuple(one.outcome.start for one in found),
        means=statistics.means,
        intervals=tuple(corrected_interval(scores_J.tolist(), ratio) for scores_J in scores_AJ),
        p=statistics.p,
        uncorrected_p=statistics.uncorrected_p,
        test_to_train=ratio,
        pairs=_pairs(found, statistics),
    )


def _pairs(found: Sequence[FoldResult], statistics: BlockComparison) -> tuple[ComparedPair, ...]:
    outcome = found[0].outcome
    drawn_AD = _drawn(found)
    sign = 1.0 if outcome.prefers_high else -1.0
    rank = {
        at: place for place, at in enumerate(sorted(range(len(found)), key=lambda at: -sign * statistics.means[at]))
    }
    pairs = [_pair(one, sign, drawn_AD) for one in statistics.pairs]
    return tuple(sorted(pairs, key=lambda pair: (rank[pair.better], rank[pair.worse])))


def _pair(one: BlockDifference, sign: float, drawn_AD: Float64 | None) -> ComparedPair:
    """Return a difference with the better result first; ``sign`` is −1 where a lower score is better."""
    direction = 1.0 if sign * one.value >= 0.0 else -1.0
    better, worse = (one.first, one.second) if direction > 0.0 else (one.second, one.first)
    rows = None
    if drawn_AD is not None:
        low, high = np.nanquantile(drawn_AD[better] - drawn_AD[worse], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        rows = Interval(low=float(low), high=float(high))
    return ComparedPair(
        better=better,
        worse=worse,
        difference=direction * one.value,
        interval=_turned(one.interval, direction),
        p=one.p,
        uncorrected=_turned(one.uncorrected, direction),
        rows=rows,
        effect=abs(one.effect),
        folds_better=one.blocks_higher if sign * direction > 0.0 else one.blocks_lower,
    )


def _turned(interval: Interval, direction: float) -> Interval:
    return interval if direction > 0.0 else Interval(low=-interval.high, high=-interval.low)


def _drawn(found: Sequence[FoldResult]) -> Float64 | None:
    """Return the scores for draws of molecules, [A, D]; None if the metric is the user's own."""
    outcome = found[0].outcome
    if outcome.metric not in METRICS:
        return None
    metric: Metric = METRICS[outcome.metric]
    _, molecule_T = np.unique(np.array(found[0].rows.smiles_T), return_inverse=True)
    of_row = dict(zip(found[0].rows.row_T.tolist(), molecule_T.tolist(), strict=True))
    scale_L = np.ones(len(outcome.targets)) if outcome.has_mean else np.array(outcome.label_std)
    groups = []
    for fold in outcome.folds:
        rows = [_of_fold(one, fold.repeat, fold.fold) for one in found]
        row_R, label_RL, _ = rows[0]
        groups.append(
            JudgedRows(
                label_RL=label_RL,
                molecule_R=np.array([of_row[row] for row in row_R.tolist()], np.int64),
                predictions={str(at): prediction_SRL for at, (_, _, prediction_SRL) in enumerate(rows)},
                scale_L=scale_L,
            )
        )
    _, drawn = drawn_scores(groups, metric)
    with warnings.catch_warnings():  # a draw without a defined score
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.stack([np.nanmean(drawn[str(at)], axis=1) for at in range(len(found))])


def _of_fold(one: FoldResult, repeat: int, fold: int) -> tuple[Float64, Float64, Float64]:
    """Return row numbers [R], labels [R, L] and predictions [S, R, L] of a fold; input rows are sorted by row, seed."""
    here = (one.rows.repeat_T == repeat) & (one.rows.fold_T == fold)
    seeds = len(np.unique(one.rows.seed_T[here]))
    row_R = one.rows.row_T[here][::seeds]
    prediction_TL = one.rows.prediction_TL[here]
    prediction_SRL = prediction_TL.reshape(len(row_R), seeds, -1).swapaxes(0, 1)
    return row_R, one.rows.labels_TL[here][::seeds], prediction_SRL


def _shown(interval: Interval, sign: str = "") -> str:
    return f"{interval.low:{sign}.3g} to {interval.high:{sign}.3g}"
