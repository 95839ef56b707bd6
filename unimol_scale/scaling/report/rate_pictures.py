"""Draws the sweeps over the learning rate and the law of their minima as PNG files. Imports matplotlib's objects."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from unimol_scale.common.report.pictures import draw_grid, save_figure
from unimol_scale.common.units import engineering
from unimol_scale.scaling.law.points import distinct
from unimol_scale.scaling.rates.rate_law import EXPONENTS, RateAnalysis
from unimol_scale.scaling.rates.sweeps import Minimum
from unimol_scale.scaling.report.picture_axes import HELD_OUT_COLOUR, axis_label, colours, log_losses, log_x

MOST_LABELLED = 12


def draw_rate_pictures(analysis: RateAnalysis, folder: Path) -> dict[str, Path]:
    """Draw both pictures into a folder, which must exist; return title → file."""
    files = {}
    for title, name, draw in (
        ("Validation loss against the learning rate", "rates.png", sweep_figure),
        ("The best learning rate and its law", "rate_law.png", rate_law_figure),
    ):
        save_figure(draw(analysis), folder / name)
        files[title] = folder / name
    return files


def sweep_figure(analysis: RateAnalysis) -> Figure:
    """Draw the loss of every run against its rate, the parabola of every sweep, and its minimum."""
    figure = Figure(figsize=(8.8, 5.0), layout="constrained")
    axes: Any = figure.subplots()
    sizes = distinct(np.array([one.sweep.parameters for one in analysis.minima]))
    colour_of = colours(int(sizes.max()) + 1)
    for one, size in zip(analysis.minima, sizes.tolist(), strict=True):
        sweep, colour = one.sweep, colour_of(size)
        axes.plot(sweep.rate, sweep.loss, color=colour, linewidth=0.6, alpha=0.5, marker="o", markersize=4)
        if one.rate is None:
            lowest = int(np.argmin(sweep.loss))
            axes.plot([sweep.rate[lowest]], [sweep.loss[lowest]], marker="o", markersize=9, markerfacecolor="none",
                      color=HELD_OUT_COLOUR, linestyle="")  # fmt: skip
            continue
        along = np.geomspace(sweep.rate[one.used].min(), sweep.rate[one.used].max(), 100)
        axes.plot(along, np.exp(np.polyval(one.coefficients, np.log(along))), color=colour, linewidth=1.7)
        axes.plot([one.rate], [one.loss], marker="X", markersize=9, color=colour, markeredgecolor="black", linestyle="")
    _log_rates(axes.xaxis, axes.set_xscale)
    axes.set_xlabel("peak learning rate")
    log_losses(axes)
    axes.set_ylabel("validation loss")
    draw_grid(axes)
    handles = [
        Line2D([], [], marker="o", linestyle="", color="#555555", markersize=4, label="run"),
        Line2D([], [], color="#555555", label="parabola around the lowest run"),
        Line2D([], [], marker="X", linestyle="", color="#555555", markeredgecolor="black", label="best rate"),
    ]
    if any(one.rate is None for one in analysis.minima):
        handles.append(Line2D([], [], marker="o", linestyle="", markerfacecolor="none", color=HELD_OUT_COLOUR,
                              markersize=8, label="no minimum in the sweep"))  # fmt: skip
    firsts = {size: one.sweep for one, size in reversed(list(zip(analysis.minima, sizes.tolist(), strict=True)))}
    handles += [
        Line2D([], [], color=colour_of(size), linewidth=3, label=f"N = {engineering(sweep.parameters)}")
        for size, sweep in sorted(firsts.items())[:MOST_LABELLED]
    ]
    axes.legend(handles=handles, fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return figure


def rate_law_figure(analysis: RateAnalysis) -> Figure:
    """Draw the best rate against every variable of the law, with the other variables held at their middle.

    The law's effect of the other variables is subtracted from the points, so that their scatter around the line shows
    what the law leaves unexplained.
    """
    names = [variable for variable, name in EXPONENTS.items() if name in analysis.law.coefficients]
    figure = Figure(figsize=(4.4 * len(names) + 0.6, 4.2), layout="constrained")
    found = [one for one in analysis.minima if one.rate is not None]
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        _draw_rate_law(axes, analysis, found, name)
    band = "" if analysis.law.intervals is None else f"; band: {analysis.config.confidence:.0%} interval of the law"
    figure.suptitle(f"{analysis.law.formula}{band}", fontsize=10)
    return figure


def _draw_rate_law(axes: Any, analysis: RateAnalysis, found: list[Minimum], name: str) -> None:  # noqa: ANN401
    columns = {
        "N": np.array([one.sweep.parameters for one in found]),
        "D": np.array([one.sweep.molecules for one in found]),
        "batch": np.array([float(one.sweep.batch or 1) for one in found]),
    }
    middle = {key: float(np.exp(np.log(values).mean())) for key, values in columns.items()}
    low, high = float(columns[name].min()), float(columns[name].max())
    along = {key: np.full(100, value) for key, value in middle.items()}
    along[name] = np.geomspace(low / 1.5, high * 3.0, 100)
    line = np.array([analysis.law.rate(*row) for row in zip(along["N"], along["D"], along["batch"], strict=True)])
    axes.plot(along[name], line, color="#1f77b4", linewidth=1.6)
    band = analysis.interval_at(along["N"], along["D"], along["batch"])
    if band is not None:
        axes.fill_between(along[name], *band.T, color="#1f77b4", alpha=0.2, linewidth=0)
    best = np.array([one.rate for one in found])
    own = np.array([analysis.law.rate(*row) for row in zip(columns["N"], columns["D"], columns["batch"], strict=True)])
    moved = {key: values if key == name else np.full(len(found), middle[key]) for key, values in columns.items()}
    there = np.array([analysis.law.rate(*row) for row in zip(moved["N"], moved["D"], moved["batch"], strict=True)])
    errors = np.nan_to_num(np.array([one.standard_error for one in found]))
    shown = best / own * there
    spread = np.stack([shown - shown * np.exp(-errors), shown * np.exp(errors) - shown])
    axes.errorbar(columns[name], shown, yerr=spread, fmt="X", color="black", markersize=6, elinewidth=1)
    if name == "batch":
        axes.set_xscale("log")
        axes.set_xlabel("batch size")
        axes.xaxis.set_major_locator(LogLocator(base=2, numticks=6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        draw_grid(axes)
    else:
        log_x(axes, name, ticks=5, unit=analysis.records[0].unit)
        axes.set_xlabel(axis_label(name, analysis.records[0].unit))
    _log_rates(axes.yaxis, axes.set_yscale)
    axes.set_ylabel("best learning rate")


def _log_rates(axis: Any, set_scale: Any) -> None:  # noqa: ANN401
    """Make an axis one of learning rates; ``set_scale`` sets the scale of that axis."""
    set_scale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
