"""Draws curve.png, the picture of a run, from metrics.jsonl: losses, their terms, learning rate and gradient norm.

Imports matplotlib (its objects, never pyplot's state). Colours mean the same in every panel: blue is training, pale for
logged values and full for the smoothed curve; red is validation.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from unimol_scale.common.metrics_file import number_of, read_metrics, values_by_step
from unimol_scale.common.report.pictures import BLUE, GREY, RED, draw_grid, save_figure
from unimol_scale.common.run_files import CURVE_NAME, METRICS_NAME

TRAIN_COLOUR, VALID_COLOUR, SKIPPED_COLOUR, RESUMED_COLOUR = BLUE, RED, "#ff7f0e", GREY
_COLUMNS = 3
# A curve whose values span more than this factor is drawn on a log axis.
_LOG_FROM = 3.0
# The smoothed curve is a mean over this share of the events.
_SMOOTHING = 0.02
_FEWEST_TO_SMOOTH = 12
_MOST_MARKED = 60
_SHORT = FuncFormatter(lambda value, _: f"{value:.3g}")

Series = tuple[np.ndarray, np.ndarray]
Events = Sequence[dict[str, Any]]


def draw_curve(folder: Path) -> Path | None:
    """Draw the run's events into its folder.

    Args:
        folder: folder of the run.

    Returns:
        Path of the picture, which is replaced atomically; None if nothing has been logged yet.

    Raises:
        OSError: the picture cannot be written.
    """
    path = folder / METRICS_NAME
    events = read_metrics(path).events if path.is_file() else ()
    if not any("loss" in event or "valid/loss" in event for event in events):
        return None
    save_figure(curve_figure(events, folder.resolve().name), folder / CURVE_NAME)
    return folder / CURVE_NAME


def curve_figure(events: Events, title: str) -> Figure:
    """Return the figure for the events of a run, which must contain at least one loss."""
    terms = _terms(events)
    rows = -(-(2 + len(terms)) // _COLUMNS)
    figure = Figure(figsize=(10.4, 4.2 + 2.1 * rows), layout="constrained")
    grid = figure.add_gridspec(1 + rows, _COLUMNS, height_ratios=[2.0] + [1.0] * rows)
    main = figure.add_subplot(grid[0, :])
    _draw_losses(main, _series(events, "loss"), _series(events, "valid/loss"))
    _draw_marks(main, events)
    main.set_ylabel("loss")
    figure.suptitle(title, fontsize=11, parse_math=False)
    main.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5, fontsize=8, frameon=False)
    panels = [figure.add_subplot(grid[1 + place // _COLUMNS, place % _COLUMNS]) for place in range(2 + len(terms))]
    for axes, term in zip(panels, terms, strict=False):
        _draw_losses(axes, _series(events, f"loss/{term}"), _series(events, f"valid/loss/{term}"))
        axes.set_title(term, fontsize=9, parse_math=False)
    _draw_setting(panels[-2], _series(events, "grad_norm"), "gradient norm", smooth=True)
    _draw_setting(panels[-1], _series(events, "lr"), "learning rate", smooth=False)
    last = max(event["step"] for event in events)
    for axes in (main, *panels):
        _finish_axes(axes, last)
    return figure


def _terms(events: Events) -> list[str]:
    """Return the names of the loss terms in order of appearance."""
    names: dict[str, None] = {}
    for event in events:
        for key in event:
            for prefix in ("loss/", "valid/loss/"):
                if key.startswith(prefix):
                    names[key.removeprefix(prefix)] = None
    return list(names)


def _series(events: Events, key: str) -> Series:
    """Return the steps at which a key was logged with a finite value, and those values."""
    table = np.array(list(values_by_step(events, key).items()), dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _draw_losses(axes: Any, train: Series, valid: Series) -> None:  # noqa: ANN401
    core = [valid[1]]
    if len(train[0]) >= _FEWEST_TO_SMOOTH:
        smoothed = _smooth(train[1])
        axes.plot(*train, color=TRAIN_COLOUR, alpha=0.3, linewidth=0.7, label="training, every log event", zorder=1)
        axes.plot(train[0], smoothed, color=TRAIN_COLOUR, linewidth=1.5, label="training, smoothed", zorder=2)
        # Single spikes may leave the panel, but most of the events must fit.
        core += [smoothed, np.quantile(train[1], [0.005, 0.995])]
    elif len(train[0]):
        axes.plot(*train, color=TRAIN_COLOUR, linewidth=1.2, marker=".", markersize=5, label="training", zorder=2)
        core.append(train[1])
    if len(valid[0]):
        marker = "o" if len(valid[0]) <= _MOST_MARKED else None  # more markers would merge into a thick line
        axes.plot(
            *valid, color=VALID_COLOUR, linewidth=1.2, marker=marker, markersize=4.5, markeredgecolor="white",
            markeredgewidth=0.5, label="validation", zorder=3,
        )  # fmt: skip
    _scale_y(axes, np.concatenate(core))


def _draw_setting(axes: Any, series: Series, name: str, *, smooth: bool) -> None:  # noqa: ANN401
    axes.set_title(name, fontsize=9)
    steps, values = series
    if not len(steps):
        axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", va="center", color="#999999")
        axes.yaxis.set_major_locator(NullLocator())
        return
    if smooth and len(steps) >= _FEWEST_TO_SMOOTH:
        axes.plot(steps, values, color=TRAIN_COLOUR, alpha=0.3, linewidth=0.7)
        axes.plot(steps, _smooth(values), color=TRAIN_COLOUR, linewidth=1.5)
        _scale_y(axes, np.quantile(values, [0.005, 0.995]))
    else:
        marker = "." if len(steps) < _FEWEST_TO_SMOOTH else None
        axes.plot(steps, values, color=TRAIN_COLOUR, linewidth=1.5, marker=marker)
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_formatter(_SHORT)


def _draw_marks(axes: Any, events: Events) -> None:  # noqa: ANN401
    """Mark where the run was resumed and where steps were skipped."""
    bottom = axes.get_xaxis_transform()
    resumed = [
        before["step"]
        for before, event in itertools.pairwise(events)
        if (number_of(event.get("session")) or 1) > (number_of(before.get("session")) or 1)
    ]
    for index, step in enumerate(resumed):
        label = f"resumed ({len(resumed)}×)" if index == 0 else None
        axes.axvline(step, color=RESUMED_COLOUR, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.8, label=label, zorder=0)
    steps, so_far = _series(events, "skipped")
    counts = np.diff(so_far, prepend=0.0)
    steps, counts = steps[counts > 0], counts[counts > 0]
    if len(steps):
        axes.plot(
            steps, np.full(len(steps), 0.02), transform=bottom, color=SKIPPED_COLOUR, marker="^", markersize=6,
            linestyle="", label=f"steps skipped ({int(counts.sum())})", zorder=4,
        )  # fmt: skip


def _smooth(values: np.ndarray) -> np.ndarray:
    """Return a mean weighted by a bell curve over ``_SMOOTHING`` of the values, without lag or edge effects."""
    width = max(3, round(_SMOOTHING * len(values))) | 1
    bell = np.hanning(width + 2)[1:-1]
    weight = np.convolve(np.ones(len(values)), bell, mode="same")
    return np.asarray(np.convolve(values, bell, mode="same") / weight)


def _scale_y(axes: Any, core: np.ndarray) -> None:  # noqa: ANN401
    """Choose scale and limits so that ``core`` fills the panel."""
    if not len(core):
        return
    low, high = float(core.min()), float(core.max())
    if low > 0.0 and high / low > _LOG_FROM:
        axes.set_yscale("log")
        margin = (high / low) ** 0.06
        axes.set_ylim(low / margin, high * margin)
        subs = (1, 2, 5) if high / low < 300 else (1,)
        axes.yaxis.set_major_locator(LogLocator(subs=subs))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_ylim(low - margin, high + margin)
        axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(_SHORT)


def _finish_axes(axes: Any, last_step: float) -> None:  # noqa: ANN401
    last = max(last_step, 1)
    axes.set_xlim(-0.015 * last, 1.015 * last)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("step", fontsize=8)
    axes.tick_params(labelsize=8)
    draw_grid(axes)
