"""The table models: a random forest and gradient boosting of scikit-learn, on either kind of features.

One model a target, fitted to the labels that are known. Shapes: R rows, F features, L targets.
"""

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
# Beyond 10,000 rows scikit-learn stops boosting early, by a tenth of the training rows, so that more trees do no harm;
# that tenth needs all classes.
_EARLY_STOPPING_ROWS = 10_000
_LEAST_OF_A_CLASS = 100
_MOST_BOOSTED_TREES = 1000
# A count above 31 is rare; with 255 bins, fingerprints give the same model in three times the time [measured on ESOL].
_COUNT_BINS = 32
# Targets up to which the limits of rows below hold; with more of them, fewer rows each.
_TARGETS = 12
_LEAST_ROWS = 100
_PIECE = 5000  # rows that are predicted at once
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class TableModel:
    """A kind of table model.

    Attributes:
        name: in files.
        shown: in reports.
        features: that it sees.
        forest: a random forest, or else gradient boosting.
        most_rows: training rows of a target that it is fitted to; of more, a random choice. Time and memory grow with
            them: a forest of 10,000 rows takes minutes and 0.5 GB.
    """

    name: str
    shown: str
    features: FeatureKind
    forest: bool
    most_rows: int

    def rows_for(self, num_targets: int) -> int:
        """Return the most training rows of each of so many targets."""
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
    """Fit a model of one target and return its predictions, float64 [R]: numbers, or probabilities of class 1.

    Of a task with a probability for each of K classes, they are [R, K]; a class without a training row has 0.

    The same input gives the same predictions to the last bit, whatever the cores. Everything but the number of trees is
    scikit-learn's default: forests of Breiman 2001 (doi:10.1023/A:1010933404324), boosting after LightGBM (Ke et al.
    2017).

    Args:
        model: which.
        task: of the labels.
        train: features [N, F] and labels float64 [N], none of them NaN.
        asked_RF: features of the rows to predict.
        trees: of a forest.
        num_classes: K; 0: there is one output.
        weight_N: of the training rows; None: all weigh the same.
    """
    features_NF, label_N = train
    trivial_W = trivial_outputs(label_N[:, None], num_classes)
    unchanging = np.tile(trivial_W if num_classes else trivial_W[0], (len(asked_RF), *[1] * bool(num_classes)))
    if np.ptp(label_N) == 0.0:  # a class alone, or one row
        return unchanging
    # What is the same in all training rows, or known in none, cannot be split on.
    low_F, high_F = np.fmin.reduce(features_NF), np.fmax.reduce(features_NF)
    kept_F = (high_F > low_F) | (np.isnan(features_NF).any(0) & ~np.isnan(low_F))
    if not kept_F.any():
        return unchanging
    estimator = _estimator(model, task, label_N, trees)
    estimator.fit(features_NF[:, kept_F], label_N, sample_weight=weight_N)
    if model.forest:
        estimator.n_jobs = 1  # threads add the trees up in any order
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


def _estimator(model: TableModel, task: Task, label_N: Float64, trees: int) -> Any:  # noqa: ANN401 - of scikit-learn
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
    """Return a random choice of at most so many rows, in their order; the same for the same seed."""
    if len(known_N) <= most:
        return known_N
    return known_N[np.sort(np.random.default_rng(seed).permutation(len(known_N))[:most])]
