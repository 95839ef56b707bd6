"""The table models: scikit-learn's random forest and gradient boosting, each on either kind of features.

There is one model per target, fitted to the known labels. Shapes: R rows, F features, L targets.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)

from unimol_scale.downstream.baselines.table_features import FeatureKind, cores
from unimol_scale.downstream.config import Task
from unimol_scale.downstream.labels.outputs import trivial_outputs

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

TREES = 500
# Above 10,000 rows boosting stops early, judged by a tenth of the training rows, so that more trees do no harm. That
# tenth must contain all classes.
_EARLY_STOPPING_ROWS = 10_000
_LEAST_OF_A_CLASS = 100
_MOST_BOOSTED_TREES = 1000
# Counts above 31 are rare; with 255 bins, fitting to fingerprints takes three times as long and yields the same model
# [measured on ESOL].
_COUNT_BINS = 32
# The limits on rows below hold for up to this many targets; with more targets, each gets fewer rows.
_TARGETS = 12
_LEAST_ROWS = 100
_PIECE = 5000  # number of rows predicted at once
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class TableModel:
    """A kind of table model.

    Attributes:
        name: name in files.
        shown: name in reports.
        features: kind of features that it uses.
        forest: True for a random forest, False for gradient boosting.
        most_rows: largest number of training rows per target; from more rows a random subset is drawn. Time and memory
            grow with the rows: a forest on 10,000 rows takes minutes and 0.5 GB.
    """

    name: str
    shown: str
    features: FeatureKind
    forest: bool
    most_rows: int

    def rows_for(self, num_targets: int) -> int:
        """Return the largest number of training rows per target, given the number of targets."""
        return max(_LEAST_ROWS, self.most_rows * _TARGETS // max(_TARGETS, num_targets))


TABLE_MODELS = (
    TableModel(
        name="ecfp_forest", shown="random forest on ECFP counts", features="ecfp", forest=True, most_rows=10_000
    ),
    TableModel(
        name="ecfp_boosting", shown="gradient boosting on ECFP counts", features="ecfp", forest=False, most_rows=10_000
    ),
    TableModel(
        name="rdkit_forest", shown="random forest on RDKit descriptors", features="rdkit", forest=True, most_rows=10_000
    ),
    TableModel(
        name="rdkit_boosting",
        shown="gradient boosting on RDKit descriptors",
        features="rdkit",
        forest=False,
        most_rows=200_000,
    ),
)


def fit_and_predict(
    model: TableModel,
    task: Task,
    train: tuple[npt.NDArray[Any], Float64],
    asked_RF: npt.NDArray[Any],
    trees: int = TREES,
    num_classes: int = 0,
    weight_N: Float64 | None = None,
) -> Float64:
    """Fit a model of one target and return its predictions for other rows.

    Equal inputs yield bitwise equal predictions, independent of the number of cores. Settings other than the number of
    trees, the bins and early stopping are scikit-learn's defaults: forests after Breiman 2001
    (doi:10.1023/A:1010933404324), boosting after LightGBM (Ke et al. 2017).

    Args:
        model: the kind of model.
        task: kind of the labels.
        train: features [N, F] and labels, float64 [N], without NaN.
        asked_RF: features of the rows to predict.
        trees: number of trees of a forest.
        num_classes: number of classes K that each get a probability; 0: there is one output.
        weight_N: weights of the training rows; None: equal weights.

    Returns:
        float64 [R]: numbers, or probabilities of class 1; float64 [R, K] with ``num_classes``, where a class without
        training rows has probability 0.
    """
    features_NF, label_N = train
    trivial_W = trivial_outputs(label_N[:, None], num_classes)
    unchanging = np.tile(trivial_W if num_classes else trivial_W[0], (len(asked_RF), *[1] * bool(num_classes)))
    if np.ptp(label_N) == 0.0:  # a single class, or a single row
        return unchanging
    # Features that are constant over the training rows, or missing in all of them, cannot be split on.
    low_F, high_F = np.fmin.reduce(features_NF), np.fmax.reduce(features_NF)
    kept_F = (high_F > low_F) | (np.isnan(features_NF).any(0) & ~np.isnan(low_F))
    if not kept_F.any():
        return unchanging
    estimator = _estimator(model, task, label_N, trees)
    # scikit-learn's threads change the filters of warnings for a moment, and before Python 3.14 all threads share them:
    # now and then none are left, and every tree of the next forest warns of that.
    with warnings.catch_warnings():
        estimator.fit(features_NF[:, kept_F], label_N, sample_weight=weight_N)
    if model.forest:
        estimator.n_jobs = 1  # several threads would add up the trees in varying order
    pieces = [asked_RF[start : start + _PIECE][:, kept_F] for start in range(0, len(asked_RF), _PIECE)]
    return np.concatenate([unchanging[:0], *(_predict(estimator, task, piece, num_classes) for piece in pieces)])


def _predict(estimator: Any, task: Task, piece_RF: npt.NDArray[Any], num_classes: int) -> Float64:  # noqa: ANN401
    if task == "regression":
        value_R: Float64 = estimator.predict(piece_RF)
        return value_R
    known_RK: Float64 = estimator.predict_proba(piece_RF)
    if not num_classes:
        return known_RK[:, 1]
    value_RK = np.zeros((len(piece_RF), num_classes))
    value_RK[:, estimator.classes_.astype(np.int64)] = known_RK
    return value_RK


def _estimator(model: TableModel, task: Task, label_N: Float64, trees: int) -> Any:  # noqa: ANN401 - a scikit-learn estimator
    if model.forest:
        forest = RandomForestRegressor if task == "regression" else RandomForestClassifier
        return forest(n_estimators=trees, random_state=_SEED, n_jobs=cores())
    boosting = HistGradientBoostingRegressor if task == "regression" else HistGradientBoostingClassifier
    rare = task != "regression" and np.unique(label_N, return_counts=True)[1].min() < _LEAST_OF_A_CLASS
    stops_early = len(label_N) > _EARLY_STOPPING_ROWS and not rare
    return boosting(
        early_stopping=stops_early,
        max_iter=_MOST_BOOSTED_TREES if stops_early else 100,
        max_bins=_COUNT_BINS if model.features == "ecfp" else 255,
        random_state=_SEED,
    )


def choose_rows(known_N: Int64, most: int, seed: int) -> Int64:
    """Return at most ``most`` of the rows, chosen at random by ``seed``, in their original order."""
    if len(known_N) <= most:
        return known_N
    return known_N[np.sort(np.random.default_rng(seed).permutation(len(known_N))[:most])]
