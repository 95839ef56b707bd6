"""Learning curve: the same fine-tuning with fewer training labels, scored on the same test rows.

Each point is a fine-tuning in a folder below that of the whole, so an interrupted curve continues where it stopped.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from unimol_scale.common.files import commit_text
from unimol_scale.common.report.markdown import markdown_table
from unimol_scale.common.report.pictures import BLUE, GREY, draw_grid, save_figure
from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.finetuning.results import FinetuneResult, plus_minus, sample_std
from unimol_scale.errors import ConfigError, RunError

FRACTIONS = (0.125, 0.25, 0.5)  # of the training rows of the whole fine-tuning
CURVE_TABLE, CURVE_PICTURE, CURVE_FOLDER = "learning-curve.csv", "learning-curve.png", "learning-curve"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Scores with a part of the training labels.

    Attributes:
        fraction: fraction of the training rows of the whole fine-tuning.
        train_rows: number of training rows; in a cross-validation, of its first fold.
        score: test score, mean over seeds; for targets in different units, in standard deviations of the labels.
        seed_std: standard deviation of the score over seeds; NaN with one seed.
        baseline: score of the best baseline; None: there are no baselines.
    """

    fraction: float
    train_rows: int
    score: float
    seed_std: float
    baseline: float | None


def measure_curve(
    config: FinetuneConfig, whole: FinetuneResult, fit: Callable[[FinetuneConfig], FinetuneResult]
) -> tuple[CurvePoint, ...]:
    """Return the points of a curve, from the fewest labels to the whole fine-tuning.

    Args:
        config: settings of the whole fine-tuning.
        whole: result of the whole fine-tuning.
        fit: runs a fine-tuning, or reads its results if it is finished. A point with too few labels to learn from is
            left out with a warning.
    """
    points = []
    for fraction in FRACTIONS:
        folder = config.folder / CURVE_FOLDER / f"labels-{fraction:g}"
        part = replace(
            config,
            label_fraction=fraction * config.label_fraction,
            output=folder,
            learning_curve=False,
            domain=False,
        )
        try:
            points.append(_point(fraction, fit(part), whole))
        except (ConfigError, RunError) as error:
            _log.warning("the learning curve has no point for a fraction of %g of the labels: %s", fraction, error)
    return (*points, _point(1.0, whole, whole))


def lacks_curve(folder: Path) -> bool:
    """Return whether a finished fine-tuning has no learning curve."""
    return not (folder / CURVE_TABLE).is_file()


def curve_section(folder: Path, outcome: FinetuneResult, points: Sequence[CurvePoint]) -> list[str]:
    """Write the table and the picture of a learning curve, and return its section; [] without points."""
    if not points:
        return []
    lines = ["fraction,train_rows,score,seed_std,baseline"]
    lines += [
        f"{one.fraction:g},{one.train_rows},{one.score!r},{_cell(one.seed_std)},{_cell(one.baseline)}" for one in points
    ]
    commit_text(folder / CURVE_TABLE, "\n".join(lines) + "\n")
    metric = _axis_name(outcome)
    draw_curve(folder / CURVE_PICTURE, metric, points)
    has_baseline = any(one.baseline is not None for one in points)
    header = ["labels", "training rows", f"test {metric}", *(["best baseline"] if has_baseline else [])]
    rows = [
        [
            f"{one.fraction:.3g}",
            f"{one.train_rows:,}",
            plus_minus(one.score, one.seed_std),
            *(["" if one.baseline is None else f"{one.baseline:.4g}"] if has_baseline else []),
        ]
        for one in points
    ]
    return [
        "",
        "## Learning curve",
        "",
        "The same fine-tuning with only a part of its training rows. If the curve still improves at its end, more "
        "labels would help. If it is flat there, less noisy labels or another model would help more.",
        "",
        f"![]({CURVE_PICTURE})",
        "",
        *markdown_table(header, rows),
    ]


def draw_curve(path: Path, metric: str, points: Sequence[CurvePoint]) -> None:
    """Draw scores against the number of training rows: the model, with its spread over seeds, and the best baseline."""
    figure = Figure(figsize=(4.5, 3.6), layout="constrained")
    axes = figure.subplots()
    rows = [one.train_rows for one in points]
    bars = " (bars: seeds)" if any(one.seed_std > 0.0 for one in points) else ""  # NaN for a single seed
    axes.errorbar(
        rows, [one.score for one in points], yerr=np.nan_to_num([one.seed_std for one in points]), color=BLUE,
        marker="o", ms=5, lw=1.5, capsize=3, label=f"this model{bars}",
    )  # fmt: skip
    baselines = [(one.train_rows, one.baseline) for one in points if one.baseline is not None]
    if baselines:
        axes.plot(*zip(*baselines, strict=True), color=GREY, marker="s", ms=4, lw=1.2, label="best baseline")
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(rows, [f"{number:,}" for number in rows])
    axes.set_xlabel("training rows")
    axes.set_ylabel(f"test {metric}", parse_math=False)
    axes.legend(fontsize=8, frameon=False)
    draw_grid(axes)
    save_figure(figure, path)


def _point(fraction: float, outcome: FinetuneResult, whole: FinetuneResult) -> CurvePoint:
    scores = [score for score in _scores(outcome, whole) if score is not None]
    found = outcome.baselines
    return CurvePoint(
        fraction=fraction,
        train_rows=outcome.split_sizes["train"],
        score=float(np.mean(scores)),
        seed_std=sample_std(scores),
        baseline=None if found is None else found.mean(None, standardised=not whole.has_mean),
    )


def _scores(outcome: FinetuneResult, whole: FinetuneResult) -> list[float | None]:
    """Return the score of each seed; errors in different units are scaled as in the whole fine-tuning."""
    if whole.has_mean:
        return [seed.test for seed in outcome.seeds]
    alike = replace(outcome, label_std=whole.label_std)
    return [alike.standardised(seed) for seed in outcome.seeds]


def _axis_name(outcome: FinetuneResult) -> str:
    unit = outcome.unit if outcome.has_mean else "standard deviations of the labels"
    return f"{outcome.metric}{f' ({unit})' if unit else ''}"


def _cell(value: float | None) -> str:
    return "" if value is None or np.isnan(value) else repr(value)
