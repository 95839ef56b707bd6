"""Ridge and logistic regressions of one target for several penalties, and the choice of one on validation rows.

Shapes: N training rows, R rows to predict, D channels, P penalties, K outputs: 1, or the number of softmax classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from sklearn.linear_model import LogisticRegression

from unimol_scale.downstream.metric import Metric
from unimol_scale.downstream.metrics import score
from unimol_scale.store.schema import Float64

# Fixed before any score; the best on validation is hardly ever at an end. The strongest comes first, so it is taken of
# those that are equally good: a ROC-AUC of few rows has ties, and does not see probabilities of 0 and 1.
RIDGE_PENALTIES = tuple(10.0**power for power in range(5, -3, -1))
LOGISTIC_PENALTIES = tuple(10.0**power for power in range(4, -3, -1))  # 1/C of scikit-learn
_MOST_ITERATIONS = 2000


@dataclass(frozen=True, kw_only=True)
class LinearPath:
    """Linear models of one target, one for each penalty.

    Attributes:
        weight_PKD: weights, float64.
        bias_PK: biases, float64.
    """

    weight_PKD: Float64
    bias_PK: Float64

    def outputs(self, vector_RD: Float64) -> Float64:
        """Return the outputs of all models, [P, R, K]: values, or logits of classes."""
        outputs: Float64 = np.einsum("rd,pkd->prk", vector_RD, self.weight_PKD) + self.bias_PK[:, None]
        return outputs


def fit_ridge(
    train_ND: Float64, label_N: Float64, penalties: Sequence[float], weight_N: Float64 | None = None
) -> LinearPath:
    """Fit ridge regressions, whose bias is not penalised. They equal those of scikit-learn.

    Args:
        train_ND: vectors, whose channels should have about the same scale.
        label_N: labels, NaN where missing.
        penalties: factors of the sum of squared weights, which is added to the sum of squared errors.
        weight_N: weights of the rows; None: equal weights.
    """
    train_ND, label_N, weight_N = _known(train_ND, label_N, weight_N)
    mean_D, mean = np.average(train_ND, axis=0, weights=weight_N), np.average(label_N, weights=weight_N)
    centred_ND, centred_N = train_ND - mean_D, label_N - mean
    if weight_N is not None:
        centred_ND, centred_N = centred_ND * np.sqrt(weight_N)[:, None], centred_N * np.sqrt(weight_N)
    # All penalties share the products of the rows, or of the channels, whichever are fewer.
    by_rows = len(centred_ND) < centred_ND.shape[1]
    products = centred_ND @ centred_ND.T if by_rows else centred_ND.T @ centred_ND
    right = centred_N if by_rows else centred_ND.T @ centred_N
    weight_PD = np.stack([_solved(products, penalty, right) for penalty in penalties])
    if by_rows:
        weight_PD = weight_PD @ centred_ND
    return LinearPath(weight_PKD=weight_PD[:, None], bias_PK=(mean - weight_PD @ mean_D)[:, None])


def _solved(products: Float64, penalty: float, right: Float64) -> Float64:
    """Return x of (products + penalty·1) x = right."""
    system = products.copy()
    system[np.diag_indices_from(system)] += penalty
    x: Float64 = cho_solve(cho_factor(system, overwrite_a=True), right)
    return x


def fit_logistic(
    train_ND: Float64,
    label_N: Float64,
    penalties: Sequence[float],
    weight_N: Float64 | None = None,
    *,
    num_classes: int = 0,
) -> LinearPath:
    """Fit logistic regressions, whose bias is not penalised.

    For the biases, a class without rows counts as half a row, or as 1/K of a row with a softmax of K classes.

    Args:
        train_ND: vectors, whose channels should have about the same scale.
        label_N: labels 0 or 1, or class numbers; NaN where missing.
        penalties: factors of half the sum of squared weights, which is added to the sum of cross-entropies.
        weight_N: weights of the rows; None: equal weights.
        num_classes: number of softmax classes K; 0: one output, the logit of class 1.
    """
    train_ND, label_N, weight_N = _known(train_ND, label_N, weight_N)
    P, D, K = len(penalties), train_ND.shape[1], num_classes or 2
    weight_PKD, bias_PK = np.zeros((P, K, D)), np.zeros((P, K))
    there, count = np.unique(label_N).astype(np.int64), len(label_N)
    absent = np.setdiff1d(np.arange(K), there)
    if len(there) > 1:
        # From the strongest penalty down, each fit starts from the previous solution.
        model = LogisticRegression(max_iter=_MOST_ITERATIONS, warm_start=True)
        for at in np.argsort(penalties)[::-1].tolist():
            model.set_params(C=1.0 / penalties[at]).fit(train_ND, label_N, sample_weight=weight_N)
            coefficients = model.coef_ if len(there) > 2 else np.concatenate([-model.coef_, model.coef_]) / 2.0
            intercepts = (
                model.intercept_ if len(there) > 2 else np.concatenate([-model.intercept_, model.intercept_]) / 2.0
            )
            weight_PKD[at, there], bias_PK[at, there] = coefficients, intercepts
    bias_PK[:, absent] = bias_PK[:, there].min(1, keepdims=True) - np.log(K * count + 1.0)
    if num_classes:
        return LinearPath(weight_PKD=weight_PKD, bias_PK=bias_PK)
    return LinearPath(weight_PKD=weight_PKD[:, 1:] - weight_PKD[:, :1], bias_PK=bias_PK[:, 1:] - bias_PK[:, :1])


def choose(metric: Metric, labels_RL: Float64, predictions: Sequence[Float64]) -> int:
    """Return which predictions of validation rows are best; the first of equals, or if the metric is defined for none.

    Args:
        metric: metric of the scores.
        labels_RL: labels, NaN where missing.
        predictions: predictions [R, L] of each model, or probabilities [R, K] of the classes of the only target.
    """
    sign = 1.0 if metric.higher_is_better else -1.0
    worth = [score(metric, labels_RL, prediction_RL).value for prediction_RL in predictions]
    return max(range(len(worth)), key=lambda at: -np.inf if (value := worth[at]) is None else sign * value)


def _known(train_ND: Float64, label_N: Float64, weight_N: Float64 | None) -> tuple[Float64, Float64, Float64 | None]:
    """Return vectors, labels and weights of the rows that have a label."""
    known_N = ~np.isnan(label_N)
    assert known_N.any(), "every target has a training label"
    return train_ND[known_N], label_N[known_N], None if weight_N is None else weight_N[known_N]
