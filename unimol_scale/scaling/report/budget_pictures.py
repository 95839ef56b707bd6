"""Draws slices of equal compute, the allocation of a budget, and the bootstrap distribution of the exponents.

Imports matplotlib's objects, never pyplot's state.
"""

from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from unimol_scale.common.report.pictures import draw_grid
from unimol_scale.common.units import engineering, greek, powers
from unimol_scale.errors import RunError
from unimol_scale.scaling.law.analysis import Analysis
from unimol_scale.scaling.law.fit import Fit
from unimol_scale.scaling.law.laws import FloatArray
from unimol_scale.scaling.law.optimal import Optimum, compute_optimal, lowest_of_slice, slice_budgets
from unimol_scale.scaling.law.points import columns_at
from unimol_scale.scaling.report.picture_axes import (
    FITTED_COLOUR,
    PALEST,
    PALETTE,
    axis_label,
    log_axes,
    log_x,
    log_y,
)

ALLOCATION_BUDGETS = 13
REACH = 4.0  # a slice is drawn up to this factor beyond the sizes of the runs
STEEPEST = 1.5  # a slice is drawn up to this multiple of its lowest loss
OPTIMUM_COLOUR = "#d95f02"


def isoflop_figure(analysis: Analysis) -> Figure:
    """Draw the predicted loss against N at constant compute, the minima, and the runs coloured by compute."""
    figure = Figure(figsize=(8.4, 4.8), layout="constrained")
    axes = figure.subplots()
    points, fit = analysis.points, analysis.fit
    compute, sizes = points.columns["C"], points.columns["N"]
    budgets = slice_budgets(analysis.points, analysis.optima)
    norm = LogNorm(min(compute.min(), budgets.min()), max(compute.max(), budgets.max()))
    palette = ListedColormap(PALETTE(np.linspace(0, PALEST, 256)))
    minima = []
    for budget in budgets:
        lowest = lowest_of_slice(analysis.fit, analysis.points, budget)
        minima += [] if lowest is None else [lowest]
        centre = [] if lowest is None else [lowest.parameters]
        along = np.geomspace(min([sizes.min(), *centre]) / REACH, max([sizes.max(), *centre]) * REACH, 300)
        columns = columns_at(points, along, budget / columns_at(points, along, np.ones(len(along)))["C"])
        loss = fit.predict(columns)
        near = loss <= STEEPEST * loss.min()
        axes.plot(along[near], loss[near], color=palette(norm(budget)), linewidth=1.6, zorder=2)
    axes.scatter(sizes, points.loss, c=compute, norm=norm, cmap=palette, s=30, edgecolors="white", linewidths=0.6,
                 zorder=3)  # fmt: skip
    axes.plot(
        [one.parameters for one in minima], [one.loss for one in minima], color=OPTIMUM_COLOUR, linestyle="--",
        linewidth=1.2, marker="X", markersize=7, zorder=4,
    )  # fmt: skip
    log_axes(axes, "N")
    axes.set_ylabel("validation loss")
    bar = figure.colorbar(ScalarMappable(norm=norm, cmap=palette), ax=axes, pad=0.02)
    bar.set_label(axis_label("C"))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: powers(value)))
    handles = [
        Line2D([], [], linestyle="", marker="o", color="#555555", markersize=5, label="run, colour: its compute"),
        Line2D([], [], color="#555555", label="law at constant compute"),
        Line2D([], [], color=OPTIMUM_COLOUR, linestyle="--", marker="X", label="lowest point of the law"),
    ]
    axes.legend(handles=handles, fontsize=8, frameon=False, loc="best")
    axes.set_title("Slices of equal compute (curves of the law, not parabolas through the runs)", fontsize=10)
    return figure


def allocation_figure(analysis: Analysis) -> Figure:
    """Draw the compute-optimal N and D against the budget, with intervals, the runs, and the requested budgets."""
    figure = Figure(figsize=(9.6, 4.4), layout="constrained")
    points = analysis.points
    wanted = [optimum.flops for optimum in analysis.optima]
    low, high = min([points.columns["C"].min(), *wanted]), max([points.columns["C"].max(), *wanted])
    found = list(analysis.optima)
    for budget in np.geomspace(low / 2, high * 2, ALLOCATION_BUDGETS):
        try:
            found.append(compute_optimal(analysis.fit, points, float(budget)))
        except RunError:
            continue  # beyond the range of the runs
    found.sort(key=lambda one: one.flops)
    for axes, name in zip(figure.subplots(1, 2), ("N", "D"), strict=True):
        _draw_allocation(axes, analysis, found, name)
        log_x(axes, "C", ticks=5)
        log_y(axes, name, points.unit)
    handles = [
        Line2D([], [], color=OPTIMUM_COLOUR, label="optimum of the law"),
        Line2D([], [], color=OPTIMUM_COLOUR, marker="X", linestyle="", markersize=8, label="requested budget"),
        Line2D([], [], color=FITTED_COLOUR, marker="o", linestyle="", markersize=5, label="run"),
    ]
    band = any(one.parameters_interval is not None for one in found)
    title = f"band: {analysis.fit.confidence:.0%} interval" if band else "no interval"
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=8, frameon=False, title=title,
                  title_fontsize=8)  # fmt: skip
    return figure


def _draw_allocation(axes: Any, analysis: Analysis, found: list[Optimum], name: str) -> None:  # noqa: ANN401
    def value(one: Optimum) -> float:
        return one.parameters if name == "N" else one.molecules

    def interval(one: Optimum) -> tuple[float, float] | None:
        return one.parameters_interval if name == "N" else one.molecules_interval

    points = analysis.points
    axes.scatter(points.columns["C"], points.columns[name], s=22, color=FITTED_COLOUR, alpha=0.6, linewidths=0)
    axes.plot([one.flops for one in found], [value(one) for one in found], color=OPTIMUM_COLOUR, linewidth=1.6)
    known = [(one.flops, *ends) for one in found if (ends := interval(one)) is not None]
    if known:
        axes.fill_between(*np.array(known).T, color=OPTIMUM_COLOUR, alpha=0.2, linewidth=0)
    middle = float(np.sqrt(found[0].flops * found[-1].flops))
    for optimum in analysis.optima:
        ends = interval(optimum)
        if ends is not None:
            axes.plot([optimum.flops] * 2, ends, color=OPTIMUM_COLOUR, linewidth=1.2)
        axes.plot([optimum.flops], [value(optimum)], marker="X", markersize=9, color=OPTIMUM_COLOUR, linestyle="")
        text = f"{engineering(value(optimum))} at {powers(optimum.flops)}"
        # Below the rising line in its first half and above it in the second, where there is no space on the right.
        left = optimum.flops > middle
        axes.annotate(
            text, (optimum.flops, value(optimum)), xytext=(-9, 9) if left else (9, -13), textcoords="offset points",
            ha="right" if left else "left", fontsize=8,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0},
        )  # fmt: skip


def spread_figure(fit: Fit) -> Figure:
    """Draw the bootstrap estimates of the exponents: a histogram of each, and a scatter plot of every pair."""
    names = [term.exponent for term in fit.law.terms if term.exponent is not None]
    count = len(names)
    figure = Figure(figsize=(2.9 * count + 0.8 + 1.6 * (count == 1), 2.7 * count + 0.9), layout="constrained")
    panels = figure.subplots(count, count, squeeze=False)
    for row, across in np.ndindex(count, count):
        axes: Any = panels[row, across]
        if across > row:
            axes.remove()
            continue
        if across == row:
            _histogram(axes, fit, names[row])
        else:
            _pair(axes, fit, names[across], names[row])
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.tick_params(labelsize=8)
        if row == count - 1:
            axes.set_xlabel(greek(names[across]))
    draws = len(next(iter(fit.draws.values())))
    figure.suptitle(f"{draws:,} bootstrap fits; line: estimate, band: {fit.confidence:.0%} interval", fontsize=9)
    return figure


def _histogram(axes: Any, fit: Fit, name: str) -> None:  # noqa: ANN401
    draws = fit.draws[name]
    axes.hist(draws, bins=40, range=_window(draws), color=FITTED_COLOUR, alpha=0.8)
    assert fit.intervals is not None
    axes.axvspan(*fit.intervals[name], color=OPTIMUM_COLOUR, alpha=0.15, linewidth=0, zorder=0)
    axes.axvline(fit.parameters[name], color=OPTIMUM_COLOUR, linewidth=1.6)
    axes.set_ylabel("fits", fontsize=8)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    low, high = fit.intervals[name]
    axes.set_title(f"{greek(name)} = {fit.parameters[name]:.4g} ({low:.3g} to {high:.3g})", fontsize=9)
    axes.set_xlim(_window(draws))


def _pair(axes: Any, fit: Fit, across: str, up: str) -> None:  # noqa: ANN401
    axes.scatter(fit.draws[across], fit.draws[up], s=5, color=FITTED_COLOUR, alpha=0.35, linewidths=0)
    axes.plot([fit.parameters[across]], [fit.parameters[up]], marker="X", markersize=9, color=OPTIMUM_COLOUR)
    axes.set_xlim(_window(fit.draws[across]))
    axes.set_ylim(_window(fit.draws[up]))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_ylabel(greek(up))
    draw_grid(axes)


def _window(draws: FloatArray) -> tuple[float, float]:
    """Return axis limits that exclude the outermost draws."""
    low, high = np.quantile(draws, [0.005, 0.995])
    margin = 0.15 * (high - low) or 0.05 * abs(high) or 1.0
    return float(low - margin), float(high + margin)
