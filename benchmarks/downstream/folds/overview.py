"""The overview: every set and result with its interval, which differences are significant, and how many."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.downstream.folds.fold_baselines import BEST
from benchmarks.downstream.folds.results_of_set import ChosenStart, Difference, SetResults
from unimol_scale.common.report.markdown import markdown_table
from unimol_scale.downstream.comparison.fold_results import FoldResult
from unimol_scale.downstream.fold_statistics import corrected_interval

ABOVE_SCRATCH, BELOW_SCRATCH, ABOVE_BASELINE, BELOW_BASELINE = "↑", "↓", "▲", "▼"
LEGEND = (
    f"Mean of the folds ± half of its 95 % interval. {ABOVE_SCRATCH} significantly better than the same model from "
    f"random weights, {BELOW_SCRATCH} significantly worse; {ABOVE_BASELINE} significantly better than the {BEST}, "
    f"{BELOW_BASELINE} significantly worse. No mark: no significant difference. This is the test of the paired scores "
    "of the folds, not whether these intervals overlap."
)
COUNT_COLUMNS = (
    "significantly better",
    "no significant difference",
    "of these with the better mean",
    "significantly worse",
)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """On how many sets a start is better or worse than something.

    Attributes:
        better: significantly.
        open: no significant difference.
        open_with_better_mean: of these, with the better mean.
        worse: significantly.
    """

    better: int
    open: int
    open_with_better_mean: int
    worse: int

    @classmethod
    def of(cls, differences: Sequence[Difference]) -> "Counts":
        """Count differences, one a set."""
        open_ones = [one for one in differences if not one.is_significant]
        return cls(
            better=sum(one.is_significantly_better for one in differences),
            open=len(open_ones),
            open_with_better_mean=sum(one.has_better_mean for one in open_ones),
            worse=sum(one.is_significantly_worse for one in differences),
        )

    @property
    def sets(self) -> int:
        """Number of sets."""
        return self.better + self.open + self.worse


def overview(results: Sequence[SetResults]) -> list[str]:
    """Return, for each share of the labels, a table of sets and results, and a table of counts."""
    lines = ["## Overview", "", LEGEND, ""]
    for fraction in sorted({one.fraction for one in results}, reverse=True):
        here = [one for one in results if one.fraction == fraction and one.main]
        if here:
            lines += [f"### {fraction:.0%} of the training labels", "", *_score_table(here), "", *_count_lines(here)]
    return lines


def _score_table(results: Sequence[SetResults]) -> list[str]:
    names = list(dict.fromkeys(result.name for one in results for result in one.main))
    rows = []
    for one in results:
        outcome = one.main[0].outcome
        better = "higher" if outcome.prefers_high else "lower"
        unit = f", {one.main[0].unit}" if one.main[0].unit else ""
        marks = {start.result.name: _marks(one, start) for start in one.starts}
        cells = {result.name: f"{plus_minus(result)}{marks.get(result.name, '')}" for result in one.main}
        tested = f"{one.set} ({outcome.metric}{unit}; {better} is better)"
        rows.append([tested, outcome.describe_folds(), *(cells.get(name, "–") for name in names)])
    return markdown_table(["set", "tested in", *names], rows)


def _marks(results: SetResults, start: ChosenStart) -> str:
    marks = ""
    for difference, above, below in (
        (results.to_scratch(start), ABOVE_SCRATCH, BELOW_SCRATCH),
        (results.to_reference(start, BEST), ABOVE_BASELINE, BELOW_BASELINE),
    ):
        if difference is not None and difference.is_significant:
            marks += above if difference.is_significantly_better else below
    return f" {marks}" if marks else ""


def plus_minus(result: FoldResult) -> str:
    """Return the mean of the folds and half of its interval, with two digits of the latter."""
    scores = result.scores_J.tolist()
    interval = corrected_interval(scores, result.outcome.test_to_train)
    half = (interval.high - interval.low) / 2.0
    mean = sum(scores) / len(scores)
    if not half > 0.0:  # one fold, or all are equal
        return f"{mean:.4g}"
    digits = max(0, 1 - math.floor(math.log10(half)))
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def _count_lines(results: Sequence[SetResults]) -> list[str]:
    """Return the sentence of every start, and the table of counts."""
    rows, said = [], []
    for name in dict.fromkeys(start.result.name for one in results for start in one.starts):
        found = [(one, start) for one in results for start in one.starts if start.result.name == name]
        scratch = Counts.of([each for one, start in found if (each := one.to_scratch(start)) is not None])
        baseline = Counts.of([each for one, start in found if (each := one.to_reference(start, BEST)) is not None])
        words = []
        if scratch.sets:
            words.append(f"significantly better than scratch on {scratch.better} of {scratch.sets} sets")
            words.append(f"significantly worse on {scratch.worse}")
        if baseline.sets:
            equal = baseline.better + baseline.open
            words.append(f"better than or not significantly different from the {BEST} on {equal} of {baseline.sets}")
        if words:
            said.append(f"- {name}: {', '.join(words)}")
        for what, counts in (("scratch", scratch), (BEST, baseline)):
            if counts.sets:
                numbers = (counts.better, counts.open, counts.open_with_better_mean, counts.worse)
                rows.append([name, what, *(str(number) for number in numbers)])
    if not rows:
        return []
    return [*said, "", *markdown_table(["start", "against", *COUNT_COLUMNS], rows), ""]
