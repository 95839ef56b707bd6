"""Draws the pictures of a fine-tuning: parity, ROC curves or a confusion matrix of the test rows; training curves.

Each of the first twelve targets has a panel. Imports matplotlib. Shapes: R test rows, L targets, W outputs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from unimol_scale.common.report.pictures import BLUE, GREY, RED, save_figure
from unimol_scale.downstream.finetuning.results import FinetuneResult
from unimol_scale.downstream.labels.confusion_matrix import count_confusions
from unimol_scale.store.schema import Float64, Int64

LOSS_PICTURE, COURSE_PICTURE = "loss.png", "course.png"
MOST_PANELS = 12
MODEL_COLOUR, CHANCE_COLOUR, VALID_COLOUR = BLUE, GREY, RED


def draw_predictions(path: Path, outcome: FinetuneResult, labels_RL: Float64, predictions: Sequence[Float64]) -> None:
    """Draw predictions of the test rows: against the labels (regression), as ROC curves, or as a confusion matrix.

    Args:
        path: file of the picture.
        outcome: names and scores.
        labels_RL: labels of the test rows, NaN where missing.
        predictions: [R, W] predictions of each seed, or of each repeat of a cross-validation.
    """
    if outcome.outputs.num_classes:
        _draw_confusions(path, outcome, count_confusions(outcome.outputs, labels_RL, predictions))
        return
    spread = "repeats" if outcome.folds else "seeds"
    shown = min(len(outcome.targets), MOST_PANELS)
    figure, axes = _panels(shown)
    for at in range(shown):
        target = outcome.targets[at]
        mean = outcome.target_mean(at)
        title = f"{target}: " + (f"{outcome.metric} {mean:.3g}" if mean is not None else f"{outcome.metric} undefined")
        axes[at].set_title(title, fontsize=9, parse_math=False)  # a name may hold a $
        draw = _parity if outcome.task == "regression" else _roc
        draw(axes[at], labels_RL[:, at], [p[:, at] for p in predictions], outcome.units.get(target, ""), spread)
    save_figure(figure, path)


def _draw_confusions(path: Path, outcome: FinetuneResult, count_KK: Int64) -> None:
    figure, axes = _panels(1)
    (axis, *_), names = axes, outcome.outputs.classes[outcome.targets[0]]
    share_KK = count_KK / np.maximum(count_KK.sum(1, keepdims=True), 1)
    axis.imshow(share_KK, cmap="Blues", vmin=0.0, vmax=1.0)
    for (line, column), count in np.ndenumerate(count_KK):
        colour = "white" if share_KK[line, column] > 0.5 else "black"
        axis.text(column, line, f"{count:,}", ha="center", va="center", fontsize=8, color=colour)
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right", parse_math=False)
    axis.set_yticks(range(len(names)), names, parse_math=False)
    axis.set_xlabel("predicted class")
    axis.set_ylabel("class")
    axis.set_title(f"{outcome.targets[0]}: {outcome.metric} {outcome.mean:.3g}", fontsize=9, parse_math=False)
    save_figure(figure, path)


def draw_training_curves(folder: Path, outcome: FinetuneResult) -> None:
    """Draw training loss and validation score of every seed over the epochs; a dot marks the chosen epoch.

    They are two pictures, which stand side by side on a page, and one below the other on a phone.
    """
    for name, title in ((LOSS_PICTURE, "training loss"), (COURSE_PICTURE, f"validation {outcome.metric}")):
        figure = Figure(figsize=(3.45, 3.2), layout="constrained")
        axis = figure.subplots()
        for seed in outcome.seeds:
            epochs = np.arange(1, len(seed.losses) + 1)
            if name == LOSS_PICTURE:
                axis.plot(epochs, seed.losses, color=MODEL_COLOUR, alpha=0.7)
                continue
            axis.plot(epochs, seed.valid_scores, color=VALID_COLOUR, alpha=0.7)
            axis.plot(seed.best_epoch, seed.valid_scores[seed.best_epoch - 1], "o", color=VALID_COLOUR)
        if name == LOSS_PICTURE:
            axis.set_yscale("log")
        axis.set_title(title, fontsize=9, parse_math=False)
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.25)
        save_figure(figure, folder / name)


def _parity(axis: Any, label_R: Float64, predictions: Sequence[Float64], unit: str, spread: str) -> None:  # noqa: ANN401
    there = ~np.isnan(label_R)
    label = label_R[there]
    if len(label):  # with several targets, some may have no test labels
        stacked = np.stack([p[there] for p in predictions])
        mean = stacked.mean(0)
        axis.errorbar(label, mean, yerr=stacked.std(0), fmt="o", ms=2.5, lw=0.5, color=MODEL_COLOUR, alpha=0.6)
        low, high = float(min(label.min(), mean.min())), float(max(label.max(), mean.max()))
        margin = 0.05 * (high - low or 1.0)
        ends = (low - margin, high + margin)
        axis.plot(ends, ends, color=CHANCE_COLOUR, lw=1)
        axis.set(xlim=ends, ylim=ends, aspect="equal")
    axis.set_xlabel(f"measured{f' ({unit})' if unit else ''}", parse_math=False)
    axis.set_ylabel(f"predicted (bars: spread of {spread})" if len(predictions) > 1 else "predicted")
    axis.grid(alpha=0.25)


def _roc(axis: Any, label_R: Float64, predictions: Sequence[Float64], unit: str, spread: str) -> None:  # noqa: ANN401
    there = ~np.isnan(label_R)
    axis.plot((0, 1), (0, 1), color=CHANCE_COLOUR, lw=1)
    if len(np.unique(label_R[there])) == 2:  # a curve needs both classes
        for prediction in predictions:
            false, true, _ = roc_curve(label_R[there], prediction[there])
            axis.plot(false, true, color=MODEL_COLOUR, alpha=0.7)
    axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axis.set_xlabel("false positive rate")
    axis.set_ylabel("true positive rate")
    axis.grid(alpha=0.25)


def _panels(count: int) -> tuple[Figure, list[Any]]:
    columns = min(count, 3)  # more would be drawn so small on a page that nobody could read the titles
    lines = -(-count // columns)
    figure = Figure(figsize=(max(3.6 * columns, 4.2), 3.6 * lines), layout="constrained")
    axes = np.atleast_1d(figure.subplots(lines, columns)).ravel().tolist()
    for empty in axes[count:]:
        empty.set_visible(False)
    return figure, axes[:count]
