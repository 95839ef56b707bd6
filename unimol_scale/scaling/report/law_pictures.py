"""Draws the pictures of a scaling-law report as PNG files. Imports matplotlib (its objects, never pyplot's state)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from unimol_scale.common.report.pictures import draw_grid, save_figure
from unimol_scale.common.units import engineering, greek
from unimol_scale.scaling.law.analysis import Analysis, TermLaw
from unimol_scale.scaling.law.fit import Fit
from unimol_scale.scaling.law.laws import effective_data, term_value
from unimol_scale.scaling.law.optimal import can_slice
from unimol_scale.scaling.law.points import Points, columns_at, distinct
from unimol_scale.scaling.report.budget_pictures import allocation_figure, isoflop_figure, spread_figure
from unimol_scale.scaling.report.picture_axes import (
    AXES,
    FITTED_COLOUR,
    HELD_OUT_COLOUR,
    HELD_OUT_MARK,
    axis_label,
    colours,
    log_axes,
    log_x,
)

MAX_LINES = 8  # most fitted lines in one picture, evenly spaced over all budgets or sizes
BEYOND = 1.6  # lines are drawn up to this factor beyond the data


def draw_pictures(analysis: Analysis, folder: Path) -> dict[str, Path]:
    """Draw all pictures that the runs allow.

    Args:
        analysis: the analysis to draw.
        folder: folder for the pictures, which must exist.

    Returns:
        Title → file, in the order of the report.
    """
    jobs: list[tuple[str, str, Callable[[], Figure]]] = []
    for axis in ("N", "D", "C"):
        column = analysis.points.columns.get(axis)
        # Against a constant variable there is no line to draw.
        if column is not None and int(distinct(column).max()) > 0:
            title = f"Validation loss against {axis_label(axis, analysis.points.unit)}"
            jobs.append((title, f"loss_vs_{axis}.png", lambda axis=axis: law_figure(analysis, axis)))  # type: ignore[misc]
    jobs.append(("Residuals", "residuals.png", lambda: _residual_figure(analysis)))
    if any(len(record.curve) > 1 for record in analysis.records):
        jobs.append(("Validation loss during every run", "curves.png", lambda: _curve_figure(analysis)))
    if any(term.fit is not None for term in analysis.terms):
        jobs.append(("Every loss term with its own law", "terms.png", lambda: _term_figure(analysis)))
    if analysis.fit.draws:
        title = "Bootstrap spread of the exponents"
        jobs.append((title, "exponents.png", lambda: spread_figure(analysis.fit)))
    if analysis.fit.law.fades is not None:
        jobs.append(("What repeated data are worth", "repeats.png", lambda: _repeats_figure(analysis)))
    if can_slice(analysis.fit.law, analysis.points):
        jobs.append(("Slices of equal compute", "isoflop.png", lambda: isoflop_figure(analysis)))
    if analysis.optima:
        jobs.append(("Size and data against the budget", "allocation.png", lambda: allocation_figure(analysis)))
    files = {}
    for title, name, draw in jobs:
        save_figure(draw(), folder / name)
        files[title] = folder / name
    return files


def law_figure(analysis: Analysis, axis: str) -> Figure:
    """Return the picture of the runs and the law against one variable, "N", "D" or "C", which must vary."""
    figure = Figure(figsize=(8.4, 4.8), layout="constrained")
    axes = figure.subplots()
    _draw_law(axes, analysis.points, analysis.held_out, analysis.fit, axis)
    _draw_predictions(axes, analysis, axis)
    log_axes(axes, axis, unit=analysis.points.unit)
    _legend(axes, analysis)
    axes.set_ylabel("validation loss")
    axes.set_title(f"{greek(analysis.fit.law.formula)}   ({analysis.fit.law.label})", fontsize=10)
    return figure


def _draw_law(axes: Any, points: Points, held_out: np.ndarray, fit: Fit, axis: str) -> None:  # noqa: ANN401
    """Draw points, one fitted line for each value of the other variable, its band, and the held-out points."""
    other = "N" if axis == "D" or (axis == "C" and int(distinct(points.columns["D"]).max()) > 0) else "D"
    moving = "D" if other == "N" else "N"
    labels = distinct(points.columns[other])
    levels = _representatives(labels)
    colour_of = colours(int(labels.max()) + 1)
    for level in levels:
        chosen = labels == level
        at = float(np.median(points.columns[other][chosen]))
        # In tables, points may scatter over both variables; then the line spans all of them.
        reach = (
            points.columns[moving][chosen]
            if np.ptp(distinct(points.columns[moving][chosen]))
            else points.columns[moving]
        )
        along = np.geomspace(reach.min() / BEYOND**0.5, reach.max() * BEYOND, 120)
        fixed = np.full(len(along), at)
        columns = columns_at(points, along, fixed) if moving == "N" else columns_at(points, fixed, along)
        colour = colour_of(level)
        label = f"fit at {other} = {engineering(at)}" if len(levels) > 1 else "fit"
        axes.plot(columns[axis], fit.predict(columns), color=colour, linewidth=1.6, label=label, zorder=2)
        band = fit.band(columns)
        if band is not None:
            axes.fill_between(columns[axis], *band, color=colour, alpha=0.2, linewidth=0, zorder=1)
    shades = np.array([colour_of(label) for label in labels])
    x, fitted = points.columns[axis], ~held_out
    # With many validations of each run, large marks would hide each other.
    size = 30 if len(points) == points.num_runs else 9
    axes.scatter(x[fitted], points.loss[fitted], c=shades[fitted], s=size, zorder=3, edgecolors="white", linewidths=0.5)
    axes.scatter(x[held_out], points.loss[held_out], **{**HELD_OUT_MARK, "s": 1.6 * size})


def _draw_predictions(axes: Any, analysis: Analysis, axis: str) -> None:  # noqa: ANN401
    """Draw every prediction with its interval, and the law between the runs and it."""
    points, fit = analysis.points, analysis.fit
    for prediction in analysis.predictions:
        goal = {"N": prediction.parameters, "D": prediction.molecules}
        moving = "N" if axis == "N" else "D"
        way = np.geomspace(points.columns[moving].min(), goal[moving], 120)
        full = {name: way if name == moving else np.full(len(way), value) for name, value in goal.items()}
        columns = columns_at(points, full["N"], full["D"])
        axes.plot(columns[axis], fit.predict(columns), color="black", linewidth=1.1, linestyle=":", zorder=2)
        band = fit.band(columns)
        if band is not None:
            axes.fill_between(columns[axis], *band, color="black", alpha=0.08, linewidth=0, zorder=1)
            axes.plot([columns[axis][-1]] * 2, prediction.interval, color="black", linewidth=1.2, zorder=4)
        x, y = float(columns[axis][-1]), prediction.loss
        axes.plot([x], [y], marker="*", color="black", markersize=10, linestyle="", zorder=5)
        axes.annotate(prediction.request, (x, y), xytext=(-8, -12), textcoords="offset points", ha="right", fontsize=8)


def _legend(axes: Any, analysis: Analysis) -> None:  # noqa: ANN401
    """Put the legend to the right of the axes, where it covers no points."""
    fit, along_runs = analysis.fit, len(analysis.points) > analysis.points.num_runs
    what = "validation of a run" if along_runs else "run"
    handles = [Line2D([], [], linestyle="", marker="o", color="#555555", markersize=5, label=f"fitted {what}")]
    if analysis.held_out.any():
        handle = Line2D([], [], linestyle="", marker="D", markerfacecolor="none", markeredgecolor=HELD_OUT_COLOUR)
        handle.set(markeredgewidth=1.8, label=f"held-out {what}")
        handles.append(handle)
    if analysis.predictions:
        handles.append(Line2D([], [], linestyle="", marker="*", color="black", markersize=9, label="prediction"))
    handles += [line for line in axes.get_lines() if line.get_label().startswith("fit")]
    title = f"band: {fit.confidence:.0%} interval of the law" if fit.draws else "no interval"
    axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8, frameon=False, title=title,
        title_fontsize=8, alignment="left",
    )  # fmt: skip


def _residual_figure(analysis: Analysis) -> Figure:
    figure = Figure(figsize=(10.0, 3.8), layout="constrained")
    points, held_out = analysis.points, analysis.held_out
    predicted = analysis.fit.predict(points.columns)
    residual = 100.0 * (points.loss / predicted - 1)
    names = [
        name for name in ("N", "D", "C") if name in points.columns and int(distinct(points.columns[name]).max()) > 0
    ]
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        axes.axhline(0.0, color="#888888", linewidth=1, zorder=1)
        axes.scatter(
            points.columns[name][~held_out], residual[~held_out], s=24, color=FITTED_COLOUR, alpha=0.75,
            linewidths=0, label="fitted run", zorder=2,
        )  # fmt: skip
        axes.scatter(points.columns[name][held_out], residual[held_out], label="held-out run", **HELD_OUT_MARK)
        axes.margins(x=0.08)
        log_x(axes, name, ticks=5, unit=points.unit)
    panels[0].set_ylabel("measured / fitted loss − 1 (%)")
    handles, texts = panels[0].get_legend_handles_labels()
    shown = 2 if held_out.any() else 1
    figure.legend(handles[:shown], texts[:shown], loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    return figure


def _curve_figure(analysis: Analysis) -> Figure:
    figure = Figure(figsize=(8.4, 4.8), layout="constrained")
    axes = figure.subplots()
    first_point = {int(run): index for index, run in reversed(list(enumerate(analysis.points.runs)))}
    size_of_point = distinct(analysis.points.columns["N"])
    colour_of = colours(int(size_of_point.max()) + 1)
    named: set[int] = set()
    for run in sorted(first_point, key=lambda run: float(analysis.records[run].parameters)):
        record, point = analysis.records[run], first_point[run]
        size = int(size_of_point[point])
        if len(record.curve) < 2:
            continue
        molecules, loss = np.array([event for event in record.curve if event[0] > 0]).T
        held_out = bool(analysis.held_out[point])
        label = f"{record.size or 'N'} ({engineering(record.parameters)}){', held out' if held_out else ''}"
        axes.plot(
            molecules, loss, color=colour_of(size), linewidth=1.2, marker=".", markersize=4,
            linestyle="--" if held_out else "-", label=None if size in named else label,
        )  # fmt: skip
        named.add(size)
    log_axes(axes, "D", unit=analysis.points.unit)
    axes.set_ylabel("validation loss")
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8, frameon=False, title="size (parameters)",
        title_fontsize=8, alignment="left",
    )  # fmt: skip
    return figure


def _term_figure(analysis: Analysis) -> Figure:
    drawable = [
        (term, term.points, term.fit) for term in analysis.terms if term.points is not None and term.fit is not None
    ]
    columns = min(len(drawable), 3)
    rows = -(-len(drawable) // columns)
    figure = Figure(figsize=(max(4.2 * columns, 6.0), 3.7 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (term, points, fit) in zip(panels, drawable, strict=False):
        axis = _term_axis(term)
        _draw_law(axes, points, analysis.held_out, fit, axis)
        log_axes(axes, axis, ticks=5, unit=analysis.points.unit)
        axes.set_title(f"{term.term}: {greek(fit.law.formula)}", fontsize=9)
    for row in range(rows):
        panels[row * columns].set_ylabel("validation loss of the term")
    for axes in panels[len(drawable) :]:
        axes.remove()
    # If terms have laws in different variables, their lines have no common legend.
    keys = [[line.get_label() for line in axes.get_lines()] for axes in panels[: len(drawable)]]
    shared = [line for line in panels[0].get_lines() if all(key == keys[0] for key in keys) and len(keys[0]) > 1]
    if analysis.held_out.any():
        handle = Line2D([], [], linestyle="", marker="D", markerfacecolor="none", markeredgecolor=HELD_OUT_COLOUR)
        handle.set(markeredgewidth=1.8, label="held-out run")
        shared.append(handle)
    if shared:
        figure.legend(handles=shared, loc="outside upper center", ncols=min(len(shared), 4), fontsize=8, frameon=False)
    return figure


def _repeats_figure(analysis: Analysis) -> Figure:
    """Draw D'/U, the epochs of new data that repeated epochs are worth, by the law and by the loss of every run."""
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes: Any = figure.subplots()
    fit, columns, held_out = analysis.fit, analysis.points.columns, analysis.held_out
    epochs = columns["D"] / columns["U"]
    along = np.geomspace(min(float(epochs.min()), 0.5), 2.0 * float(epochs.max()), 200)
    ones, name = np.ones(len(along)), fit.law.fades
    assert name is not None
    axes.plot(along, along, color="#888888", linestyle=":", linewidth=1.2, label="if they were new data")
    axes.plot(along, effective_data(along, ones, np.array(fit.parameters[name])), color=FITTED_COLOUR, label="the law")
    if fit.draws:
        worth = effective_data(along, ones, fit.draws[name][:, None])
        low, high = np.quantile(worth, [(1 - fit.confidence) / 2, (1 + fit.confidence) / 2], axis=0)
        axes.fill_between(along, low, high, color=FITTED_COLOUR, alpha=0.2, linewidth=0)
    term = next(term for term in fit.law.terms if term.fades is not None)
    own = term_value(term, fit.parameters, columns)
    # The loss that remains for the data term, converted into data; a run below the law's floor has no such D'.
    left = analysis.points.loss - fit.predict(columns) + own
    assert term.exponent is not None
    shown = left > 0
    ratio = np.where(shown, left, 1.0) / fit.parameters[term.coefficient]
    measured = ratio ** (-1.0 / fit.parameters[term.exponent]) / columns["U"]
    fitted = shown & ~held_out
    axes.scatter(
        epochs[fitted], measured[fitted], s=18, color=FITTED_COLOUR, alpha=0.6, linewidths=0, label="run, by its loss"
    )
    if (shown & held_out).any():
        rest = shown & held_out
        axes.scatter(epochs[rest], measured[rest], label="held-out run", **{**HELD_OUT_MARK, "s": 24})
    axes.set_xscale("log")
    axes.set_yscale("log")
    inside = along[0] / 3.0
    axes.set_ylim(inside, 1.5 * float(along[-1]))
    axes.set_xlabel(f"epochs, D/U, of the distinct {analysis.points.unit}s")
    axes.set_ylabel("worth in epochs of new data, D'/U")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    draw_grid(axes)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    return figure


def _term_axis(term: TermLaw) -> str:
    assert term.fit is not None
    variables = [name for name in term.fit.law.variables if name in AXES]
    return variables[0] if variables else "N"


def _representatives(labels: np.ndarray) -> list[int]:
    """Return at most MAX_LINES of the labels, evenly distributed over the points."""
    unique = np.unique(labels)
    if len(unique) <= MAX_LINES:
        return [int(label) for label in unique]
    picks = np.quantile(labels, np.linspace(0.02, 0.98, MAX_LINES), method="nearest")
    return [int(label) for label in np.unique(picks)]
