"""Weights of training labels in the loss: the weight of the row times the weight of the class.

Shapes: M rows, R training rows, L targets, K classes.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from unimol_scale.downstream.config import ClassWeights
from unimol_scale.downstream.labels.label_columns import ROWS_SHOWN, named_rows, numbers
from unimol_scale.errors import SourceError

Float64 = npt.NDArray[np.float64]


def read_weights(
    where: str, name: str, column: pa.ChunkedArray, smiles: Sequence[str], labelled_M: npt.NDArray[np.bool_]
) -> Float64:
    """Return the weights of rows, float64 [M]; 0 for rows without a label, which need no weight.

    Args:
        where: name of the data, for messages.
        name: name of the weight column.
        column: [M] values as stored in the data.
        smiles: [M] SMILES, for messages.
        labelled_M: whether a row has a label.

    Raises:
        SourceError: a weight is missing, not a number, infinite or negative, or all are 0; names the first rows.
    """
    weight_M, _ = numbers(column)
    wrong = np.flatnonzero(labelled_M & ~(weight_M >= 0.0))  # NaN is not
    if len(wrong):
        shown = named_rows(wrong, smiles, [column[row].as_py() for row in wrong[:ROWS_SHOWN].tolist()])
        raise SourceError(
            f"{where}: {len(wrong):,} weights in the column {name!r} are missing, negative, or no numbers: {shown}"
        )
    weight_M = np.where(labelled_M, weight_M, 0.0)
    if not weight_M.any():
        first = int(np.argmax(labelled_M))
        raise SourceError(
            f"{where}: all weights in the column {name!r} are 0, from row {first + 1} on: nothing could be learnt"
        )
    return weight_M


def loss_weights(label_RL: Float64, row_weight_R: Float64 | None, class_weights: ClassWeights) -> Float64 | None:
    """Return the factor on the loss of each training label, float64 [R, L]; None if all weights are equal.

    Args:
        label_RL: labels of the training rows, NaN where missing; class numbers for classes.
        row_weight_R: weights of the rows, none negative, not all 0; they are divided by their mean. None: all are 1.
        class_weights: "balanced" multiplies the loss of a label of class k by N / (K·N_k), where N is the number of
            labels of the target, N_k the number of class k, and K the number of classes that occur (King and Zeng 2001,
            Political Analysis 9:137; the same as scikit-learn's "balanced").
    """
    if row_weight_R is None and class_weights == "none":
        return None
    weight_RL = np.ones(label_RL.shape)
    if row_weight_R is not None:
        weight_RL *= (row_weight_R / row_weight_R.mean())[:, None]
    if class_weights == "balanced":
        for at, label_R in enumerate(label_RL.T):
            known_R = ~np.isnan(label_R)
            classes, class_R, count_K = np.unique(label_R[known_R], return_inverse=True, return_counts=True)
            weight_RL[known_R, at] *= known_R.sum() / (len(classes) * count_K[class_R])
    return weight_RL
