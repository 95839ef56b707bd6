"""The pictures of a scaling-law report, as PNG files. Imports matplotlib (its objects, never pyplot's state)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from unimol_scale.scaling.analysis import Analysis, TermLaw
from unimol_scale.scaling.fit import Fit
from unimol_scale.scaling.points import Points, columns_at, distinct

AXIS_LABELS = {"N": "parameters N", "D": "molecules seen D", "C": "training compute C (FLOPs)"}
HELD_OUT_COLOUR = "#d62728"
MAX_LINES = 6  # fitted lines in one picture; more budgets or sizes are represented by these
BEYOND = 1.6  # how far lines run past the data, as a factor


def draw_all(analysis: Analysis, folder: Path) -> dict[str, Path]:
    """Draw every picture that the runs allow.

    Args:
        analysis: what to show.
        folder: exists.

    Returns:
        Title → file, in the order of the report.
    """
    jobs: list[tuple[str, str, Callable[[], Figure]]] = []
    for axis in ("N", "D", "C"):
        column = analysis.points.columns.get(axis)
        # A picture against a constant would show a column of points and no law.
        if column is not None and int(distinct(column).max()) > 0:
            title = f"Validation loss against {AXIS_LABELS[axis]}"
            jobs.append((title, f"loss_vs_{axis}.png", lambda axis=axis: _law_figure(analysis, axis)))  # type: ignore[misc]
    jobs.append(("Residuals", "residuals.png", lambda: _residual_figure(analysis)))
    if any(len(record.curve) > 1 for record in analysis.records):
        jobs.append(("Validation loss in the course of every run", "curves.png", lambda: _curve_figure(analysis)))
    if any(term.fit is not None for term in analysis.terms):
        jobs.append(("Every loss term and its own law", "terms.png", lambda: _term_figure(analysis)))
    files = {}
    for title, name, draw in jobs:
        figure = draw()
        FigureCanvasAgg(figure)
        figure.savefig(folder / name, dpi=130)
        files[title] = folder / name
    return files


def _law_figure(analysis: Analysis, axis: str) -> Figure:
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = figure.subplots()
    _draw_law(axes, analysis.points, analysis.held_out, analysis.fit, axis)
    axes.set_ylabel("validation loss")
    axes.set_title(f"{analysis.fit.law.formula}   ({analysis.fit.law.label})", fontsize=10)
    return figure


def _draw_law(axes: Any, points: Points, held_out: np.ndarray, fit: Fit, axis: str) -> None:  # noqa: ANN401
    """Draw points, one fitted line for each value of the other variable, its band, and the held-out points."""
    other = "N" if axis == "D" or (axis == "C" and int(distinct(points.columns["D"]).max()) > 0) else "D"
    moving = "D" if other == "N" else "N"
    labels = distinct(points.columns[other])
    levels = _representatives(labels)
    colour_of = _colours(int(labels.max()) + 1)
    for level in levels:
        chosen = labels == level
        at = float(np.median(points.columns[other][chosen]))
        # Points of a table scatter over both variables: there the line spans all of them.
        reach = (
            points.columns[moving][chosen]
            if np.ptp(distinct(points.columns[moving][chosen]))
            else points.columns[moving]
        )
        grid = np.geomspace(reach.min() / BEYOND**0.5, reach.max() * BEYOND, 120)
        fixed = np.full(len(grid), at)
        columns = columns_at(points, grid, fixed) if moving == "N" else columns_at(points, fixed, grid)
        colour = colour_of(level)
        label = f"fit at {other} = {_engineering(at)}" if len(levels) > 1 else "fit"
        axes.plot(columns[axis], fit.predict(columns), color=colour, linewidth=1.6, label=label, zorder=2)
        band = fit.band(columns)
        if band is not None:
            axes.fill_between(columns[axis], *band, color=colour, alpha=0.15, linewidth=0, zorder=1)
    colours = np.array([colour_of(label) for label in labels])
    x, fitted = points.columns[axis], ~held_out
    axes.scatter(x[fitted], points.loss[fitted], c=colours[fitted], s=30, zorder=3, edgecolors="white", linewidths=0.6)
    if held_out.any():
        axes.scatter(
            x[held_out], points.loss[held_out], marker="D", s=52, facecolors="none",
            edgecolors=HELD_OUT_COLOUR, linewidths=1.8, zorder=4,
        )  # fmt: skip
    _log_axes(axes, axis)
    _legend(axes, bool(held_out.any()), fit)


def _legend(axes: Any, has_held_out: bool, fit: Fit) -> None:  # noqa: ANN401
    """Put the legend at the right of the axes, where it covers nothing."""
    handles = [Line2D([], [], linestyle="", marker="o", color="#555555", markersize=5, label="fitted run")]
    if has_held_out:
        handle = Line2D([], [], linestyle="", marker="D", markerfacecolor="none", markeredgecolor=HELD_OUT_COLOUR)
        handle.set(markeredgewidth=1.8, label="held-out run")
        handles.append(handle)
    handles += axes.get_lines()[:MAX_LINES]
    title = f"band: {fit.confidence:.0%} interval" if fit.draws else "no interval: too few runs"
    axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8, frameon=False, title=title,
        title_fontsize=8, alignment="left",
    )  # fmt: skip


def _residual_figure(analysis: Analysis) -> Figure:
    figure = Figure(figsize=(8.4, 3.8), layout="constrained")
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
            points.columns[name][~held_out], residual[~held_out], s=24, color="#1f77b4", label="fitted run", zorder=2
        )
        axes.scatter(
            points.columns[name][held_out], residual[held_out], marker="D", s=46, facecolors="none",
            edgecolors=HELD_OUT_COLOUR, linewidths=1.8, label="held-out run", zorder=3,
        )  # fmt: skip
        _log_x(axes, name)
    panels[0].set_ylabel("measured / fitted loss − 1 (%)")
    handles, texts = panels[0].get_legend_handles_labels()
    shown = 2 if held_out.any() else 1
    figure.legend(handles[:shown], texts[:shown], loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    return figure


def _curve_figure(analysis: Analysis) -> Figure:
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = figure.subplots()
    sizes = distinct(analysis.points.columns["N"])
    colour_of = _colours(int(sizes.max()) + 1)
    named: set[int] = set()
    for index in np.argsort(analysis.points.columns["N"], kind="stable"):
        record, size = analysis.records[index], int(sizes[index])
        if len(record.curve) < 2:
            continue
        molecules, loss = np.array([event for event in record.curve if event[0] > 0]).T
        label = None if size in named else f"{record.size or 'N'} ({_engineering(record.parameters)})"
        named.add(size)
        axes.plot(molecules, loss, color=colour_of(size), linewidth=1.4, marker=".", markersize=4, label=label)
    _log_axes(axes, "D")
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
    columns = min(len(drawable), 2)
    rows = -(-len(drawable) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.6 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (term, points, fit) in zip(panels, drawable, strict=False):
        _draw_law(axes, points, analysis.held_out, fit, _term_axis(analysis, term))
        axes.get_legend().remove()
        axes.set_title(f"{term.term}: {fit.law.formula}", fontsize=9)
        axes.set_ylabel("validation loss")
    for axes in panels[len(drawable) :]:
        axes.remove()
    return figure


def _term_axis(analysis: Analysis, term: TermLaw) -> str:
    assert term.fit is not None
    variables = [name for name in term.fit.law.variables if name in AXIS_LABELS]
    return variables[0] if variables else "N"


def _representatives(labels: np.ndarray) -> list[int]:
    """Return at most MAX_LINES of the labels, evenly over the points."""
    unique = np.unique(labels)
    if len(unique) <= MAX_LINES:
        return [int(label) for label in unique]
    picks = np.quantile(labels, np.linspace(0.02, 0.98, MAX_LINES), method="nearest")
    return [int(label) for label in np.unique(picks)]


def _colours(count: int) -> Callable[[int], Any]:
    """Return label → colour; dark to bright with the label, the palest end left out."""
    palette = colormaps["viridis"]
    return lambda label: palette(0.88 * label / max(count - 1, 1))


def _log_axes(axes: Any, name: str) -> None:  # noqa: ANN401
    _log_x(axes, name)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    # Losses of a ladder span less than a decade, where a log axis would show one tick or none.
    narrow = high / low < 5
    axes.yaxis.set_major_locator(MaxNLocator(6) if narrow else LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def _log_x(axes: Any, name: str) -> None:  # noqa: ANN401
    axes.set_xscale("log")
    axes.set_xlabel(AXIS_LABELS[name])
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
    write = _powers if name == "C" else _engineering
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: write(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(True, which="major", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)


def _engineering(value: float) -> str:
    """Return a count as people write it: 120k, 3.4M, 1.1B; powers of ten from a trillion on."""
    for factor, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k"), (1.0, "")):
        if 0.9995 * factor <= value < 999.5e9:
            return f"{value / factor:.3g}{suffix}"
    return _powers(value)


def _powers(value: float) -> str:
    """Return a positive number as 2e+12 is read by people: 2e12."""
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
