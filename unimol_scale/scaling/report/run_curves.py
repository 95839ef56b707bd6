"""Draws the losses of several runs over the molecules that they have seen. Imports matplotlib."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.figure import Figure

from unimol_scale.common.report.pictures import save_figure
from unimol_scale.scaling.report.picture_axes import log_axes
from unimol_scale.scaling.runs.compared_runs import ComparedRun

_COLOURS = colormaps["tab10"]
_PALE = 0.25  # opacity of the training losses behind those of validation


def draw_run_curves(path: Path, runs: Sequence[ComparedRun]) -> None:
    """Draw one line per run: the validation loss, with the training loss behind it in a pale colour.

    Raises:
        OSError: the picture cannot be written.
    """
    figure = Figure(figsize=(8.0, 4.8), layout="constrained")
    axes = figure.subplots()
    for place, run in enumerate(runs):
        colour = _COLOURS(place % _COLOURS.N)
        axes.plot(*run.train, color=colour, alpha=_PALE, lw=0.7, zorder=1)
        axes.plot(*run.valid, color=colour, lw=1.6, marker="o", ms=3.5, label=run.name, zorder=2)
    axes.set_ylabel("validation loss (pale: training loss)")
    if any(len(loss) for run in runs for _, loss in (run.train, run.valid)):
        log_axes(axes, "D")
    axes.legend(fontsize=8, frameon=False)
    save_figure(figure, path)
