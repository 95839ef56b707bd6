"""Metrics of your own in one file: an entry that says all there is to know, and a function whose name says enough.

    PYTHONPATH=tests/extensions unimol-scale finetune … --metric toy_metric:MEDIAN_ERROR
    PYTHONPATH=tests/extensions unimol-scale finetune … --metric toy_metric:rank_score

Functions of scikit-learn are named like this, so that ``--metric sklearn.metrics:median_absolute_error`` works, too.
"""

import numpy as np

from unimol_scale.downstream.metric import Metric

MEDIAN_ERROR = Metric(
    name="median_error",
    tasks=("regression",),
    higher_is_better=False,
    function=lambda labels, predictions: float(np.median(np.abs(labels - predictions))),
    in_label_units=True,  # so that reports write the label's unit behind it
)


def rank_score(labels, predictions):
    """Return Spearman's rank correlation, without ties; *_score means that more is better."""
    ranks = (np.argsort(np.argsort(values)) for values in (labels, predictions))
    return float(np.corrcoef(*ranks)[0, 1])
