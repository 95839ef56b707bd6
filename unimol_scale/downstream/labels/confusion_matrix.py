"""Confusion matrices of a report: numbers of test rows by true and predicted class.

Shapes: R test rows, S seeds, K classes.
"""

from collections.abc import Sequence

import numpy as np

from unimol_scale.common.report.markdown import markdown_table
from unimol_scale.downstream.labels.outputs import Outputs
from unimol_scale.store.schema import Float64, Int64


def count_confusions(outputs: Outputs, label_RL: Float64, predictions: Sequence[Float64]) -> Int64:
    """Return the numbers of rows, int64 [K, K], by true class and by the class that the mean prediction gives.

    Args:
        outputs: outputs of a task of several classes.
        label_RL: labels of the test rows, NaN where missing.
        predictions: [R, K] probabilities of each seed, or of each repeat.
    """
    K = outputs.num_classes
    known_R = ~np.isnan(label_RL[:, 0])
    label_R = label_RL[known_R, 0].astype(np.int64)
    predicted_R = outputs.decide_codes(np.mean(predictions, axis=0)[known_R])
    return np.bincount(K * label_R + predicted_R, minlength=K * K).reshape(K, K)


def confusion_lines(outputs: Outputs, confusion_KK: Int64) -> list[str]:
    """Return the section of the report: true classes are lines, predicted classes are columns."""
    (target,) = outputs.targets
    names = outputs.classes[target]
    rows: list[list[str]] = []
    for name, count_K in zip(names, confusion_KK, strict=True):
        total = int(count_K.sum())
        at = len(rows)
        share = f"{count_K[at] / total:.0%}" if total else "no test row"
        rows.append([name, *(f"{count:,}" for count in count_K.tolist()), share])
    return [
        "",
        "## Confusion matrix",
        "",
        f"Numbers of test rows by true class of {target!r} (lines) and by class predicted with the mean of the models "
        "(columns).",
        "",
        *markdown_table(["class", *(f"predicted {name}" for name in names), "correct"], rows),
    ]


def true_class_probabilities(label_RL: Float64, value_SRK: Float64) -> Float64:
    """Return the predicted probability of each row's true class, float64 [S, R, 1]; NaN without a label."""
    known_R = ~np.isnan(label_RL[:, 0])
    code_R = np.where(known_R, label_RL[:, 0], 0.0).astype(np.int64)
    found_SR = np.take_along_axis(value_SRK, code_R[None, :, None], axis=2)
    return np.where(known_R[None, :, None], found_SR, np.nan)
