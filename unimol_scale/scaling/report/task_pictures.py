"""Draws the error on tasks against the pretraining loss. Imports matplotlib's objects."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from unimol_scale.common.report.pictures import draw_grid
from unimol_scale.scaling.report.picture_axes import FITTED_COLOUR, log_losses
from unimol_scale.scaling.report.task_report import error_name
from unimol_scale.scaling.tasks.task_law import FORMULAS, TaskLaw

MOST_COLUMNS = 3


def tasks_figure(tasks: Sequence[TaskLaw]) -> Figure:
    """Draw every task with its rows, its law and its predictions."""
    drawn = [law for law in tasks if law.form is not None]
    columns = min(len(drawn), MOST_COLUMNS)
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(4.6 * columns + 0.6, 4.0 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, law in zip(panels, drawn, strict=False):
        _draw(axes, law)
    for axes in panels[len(drawn) :]:
        axes.remove()
    return figure


def _draw(axes: Any, law: TaskLaw) -> None:  # noqa: ANN401
    wanted = [one for one in law.predictions if one.error is not None]
    ends = [*law.losses.tolist(), *(one.loss for one in wanted)]
    along = np.geomspace(min(ends) / 1.05, max(ends) * 1.05, 200)
    axes.plot(along, law.predict(along), color=FITTED_COLOUR, linewidth=1.6)
    band = law.band(along)
    if band is not None:
        axes.fill_between(along, *band, color=FITTED_COLOUR, alpha=0.2, linewidth=0)
    axes.scatter(law.losses, law.errors, s=18, color=FITTED_COLOUR, alpha=0.6, linewidths=0)
    for one in wanted:
        if one.interval is not None:
            axes.plot([one.loss] * 2, one.interval, color="black", linewidth=1.2)
        axes.plot([one.loss], [one.error], marker="*", color="black", markersize=10, linestyle="")
        axes.annotate(one.request, (one.loss, one.error), xytext=(8, -10), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    log_losses(axes)
    axes.set_xlabel("pretraining validation loss")
    axes.set_ylabel(error_name(law))
    assert law.form is not None
    axes.set_title(f"{law.task}: {FORMULAS[law.form]}", fontsize=10)
    draw_grid(axes)
