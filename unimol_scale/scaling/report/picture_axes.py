"""Axes, colours and marks that the pictures of a report share. Imports matplotlib."""

from collections.abc import Callable
from typing import Any

from matplotlib import colormaps
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from unimol_scale.common.report.pictures import BLUE, RED, draw_grid
from unimol_scale.common.units import engineering, powers

AXES = ("N", "D", "C")
HELD_OUT_COLOUR, FITTED_COLOUR = RED, BLUE
HELD_OUT_MARK = {
    "marker": "D",
    "s": 46,
    "facecolors": "none",
    "edgecolors": HELD_OUT_COLOUR,
    "linewidths": 1.8,
    "zorder": 4,
}
PALETTE = colormaps["viridis"]
PALEST = 0.88  # the yellow end of the palette is not visible on white


def axis_label(name: str, unit: str = "molecule") -> str:
    """Return the label of the axis of N, D or C; ``unit`` is what D counts."""
    return {"N": "parameters N", "D": f"{unit}s seen D", "C": "training compute C (FLOPs)"}[name]


def colours(count: int) -> Callable[[int], Any]:
    """Return a function from a label to its colour; colours get brighter as the label increases."""
    return lambda label: PALETTE(PALEST * label / max(count - 1, 1))


def log_axes(axes: Any, name: str, ticks: int = 6, unit: str = "molecule") -> None:  # noqa: ANN401
    """Make both axes logarithmic: ``name`` horizontally, losses vertically."""
    log_x(axes, name, ticks, unit)
    log_losses(axes)


def log_losses(axes: Any) -> None:  # noqa: ANN401
    """Make the vertical axis a logarithmic one of losses."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    # Losses of a ladder span less than a decade, for which a logarithmic locator gives at most one tick.
    narrow = high / low < 5
    axes.yaxis.set_major_locator(MaxNLocator(6) if narrow else LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def log_x(axes: Any, name: str, ticks: int = 6, unit: str = "molecule") -> None:  # noqa: ANN401
    """Make the horizontal axis a logarithmic one of N, D or C."""
    axes.set_xscale("log")
    axes.set_xlabel(axis_label(name, unit))
    _log_ticks(axes.xaxis, axes.get_xlim(), powers if name == "C" else engineering, ticks)
    draw_grid(axes)


def log_y(axes: Any, name: str, unit: str = "molecule") -> None:  # noqa: ANN401
    """Make the vertical axis a logarithmic one of N, D or C."""
    axes.set_yscale("log")
    axes.set_ylabel(axis_label(name, unit))
    _log_ticks(axes.yaxis, axes.get_ylim(), powers if name == "C" else engineering, 6)
    draw_grid(axes)


def _log_ticks(axis: Any, limits: tuple[float, float], write: Callable[[float], str], most: int) -> None:  # noqa: ANN401
    """Choose the densest ticks within a decade, at most ``most`` of them."""
    low, high = limits
    for steps in ((1, 2, 5), (1, 3), (1,)):
        if sum(low <= step * 10.0**power <= high for step in steps for power in range(-30, 31)) <= most:
            axis.set_major_locator(LogLocator(subs=steps))
            break
    else:
        axis.set_major_locator(LogLocator(subs=(1,), numticks=most))
    axis.set_major_formatter(FuncFormatter(lambda value, _: write(value)))
    axis.set_minor_formatter(NullFormatter())
