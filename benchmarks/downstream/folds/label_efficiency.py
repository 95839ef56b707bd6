"""How the scores improve with the fraction of training labels: a picture of all sets, and the gain over scratch."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from benchmarks.downstream.folds.results_of_set import ChosenStart, SetResults
from benchmarks.downstream.interval import share_gone
from unimol_scale.common.report.markdown import markdown_table
from unimol_scale.common.report.pictures import GREY, draw_grid, save_figure
from unimol_scale.downstream.comparison.fold_results import FoldResult
from unimol_scale.downstream.fold_statistics import corrected_interval

NAME = "label_efficiency.png"
_COLUMNS = 4
_MARGIN = 1.15
_MARKS = "osD^vPX*"
_COLOURS = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "C8", "C9")  # grey is of scratch


def label_efficiency(results: Sequence[SetResults], folder: Path) -> list[str]:
    """Return a picture, which goes into the folder, and a table of the gains; nothing for a single share of labels."""
    fractions = sorted({one.fraction for one in results if one.main})
    if len(fractions) < 2:
        return []
    draw_label_efficiency(folder / NAME, results)
    lines = [
        "## Label efficiency",
        "",
        f"![Score of every start against the share of the training labels]({folder.name}/{NAME})",
        "",
    ]
    if rows := _gain_rows(results, fractions):
        lines += [
            "Relative reduction of scratch's error (for ROC-AUC, of 1 − AUC), mean over the sets that have "
            "all of a start's shares:",
            "",
            *markdown_table(["start", "sets", *(f"{fraction:.0%}" for fraction in fractions)], rows),
            "",
        ]
    return lines


def _gain_rows(results: Sequence[SetResults], fractions: Sequence[float]) -> list[list[str]]:
    found = {(one.set, one.fraction): one for one in results}
    sets = list(dict.fromkeys(one.set for one in results))
    rows = []
    for name in dict.fromkeys(s.result.name for one in results for s in one.starts if s.scratch):
        gain_SF = np.array([[_gain(found.get((one, fraction)), name) for fraction in fractions] for one in sets])
        own_F = ~np.isnan(gain_SF).all(0)  # a start may have been given fewer shares than another
        whole_S = ~np.isnan(gain_SF[:, own_F]).any(1)
        if own_F.any() and whole_S.any():
            mean_F = np.where(own_F, gain_SF[whole_S].mean(0), np.nan)
            cells = ["–" if np.isnan(gain) else f"{gain:+.1%}" for gain in mean_F.tolist()]
            rows.append([name, str(whole_S.sum()), *cells])
    return rows


def _gain(results: SetResults | None, name: str) -> float:
    """Return the relative reduction of scratch's error; NaN where one of the two scores is missing."""
    of_name: dict[str, ChosenStart] = {start.result.name: start for start in results.starts} if results else {}
    start = of_name.get(name)
    if start is None or start.scratch not in of_name:
        return math.nan
    own, scratch = start.result, of_name[start.scratch].result
    return float(share_gone(own.scores_J.mean(), scratch.scores_J.mean(), own.outcome.metric))


def draw_label_efficiency(path: Path, results: Sequence[SetResults]) -> None:
    """Draw, for each set, the mean scores with their intervals against the share of the labels."""
    sets = [name for name in dict.fromkeys(one.set for one in results) if any(o.main for o in results if o.set == name)]
    names = list(dict.fromkeys(result.name for one in results for result in one.main))
    shares = sorted({one.fraction for one in results if one.main})
    columns = min(_COLUMNS, len(sets))
    height = math.ceil(len(sets) / columns)
    figure = Figure(figsize=(3.4 * columns, 2.9 * height + 0.5 + 0.2 * len(names) / columns), layout="constrained")
    panels = figure.subplots(height, columns, squeeze=False).ravel()
    for axes, name in zip(panels, sets, strict=False):
        here = sorted((one for one in results if one.set == name), key=lambda one: one.fraction)
        for at, start in enumerate(names):
            _draw_line(axes, here, start, at, len(names))
        outcome = next(one for one in here if one.main).main[0].outcome
        better = "higher" if outcome.prefers_high else "lower"
        unit = f" ({outcome.unit})" if outcome.unit else ""
        axes.set_title(name, fontsize=10)
        axes.set_ylabel(f"{outcome.metric}{unit}, {better} is better", fontsize=8)
        axes.set_xscale("log")
        axes.set_xlim(shares[0] / _MARGIN, shares[-1] * _MARGIN)
        ticks = [one.fraction for one in here]
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([f"{tick:.0%}" for tick in ticks])
        axes.tick_params(labelsize=8)
        draw_grid(axes)
    for axes in panels[len(sets) :]:
        axes.set_visible(False)
    for axes in panels[max(0, len(sets) - columns) : len(sets)]:
        axes.set_xlabel("share of the training labels", fontsize=8)
    lines = {line.get_label(): line for axes in panels for line in axes.containers}
    figure.legend(
        [lines[name] for name in names if name in lines],
        [name for name in names if name in lines],
        loc="outside lower center",
        ncols=min(len(names), 1 + columns // 2 + columns // 4),
        fontsize=8,
    )
    save_figure(figure, path)


def _draw_line(axes, results: Sequence[SetResults], name: str, at: int, names: int) -> None:  # noqa: ANN001
    """Draw the scores of one result; those of the same share stand a little beside each other."""
    points: list[tuple[float, FoldResult]] = [
        (one.fraction, result) for one in results for result in one.main if result.name == name
    ]
    if not points:
        return
    fraction_P = np.array([fraction for fraction, _ in points]) * 1.035 ** (at - (names - 1) / 2)
    mean_P = np.array([result.scores_J.mean() for _, result in points])
    intervals = [corrected_interval(result.scores_J.tolist(), result.outcome.test_to_train) for _, result in points]
    half_P = np.array([(one.high - one.low) / 2.0 for one in intervals])
    is_scratch = any(start.is_scratch and start.result.name == name for one in results for start in one.starts)
    colour, line = (GREY, "--") if is_scratch else (_COLOURS[at % len(_COLOURS)], "-")
    axes.errorbar(
        fraction_P, mean_P, yerr=np.where(np.isnan(half_P), 0.0, half_P), label=name, color=colour,
        fmt=f"{line}{_MARKS[at % len(_MARKS)]}", ms=4, lw=1.3, elinewidth=0.9, capsize=2,
    )  # fmt: skip
