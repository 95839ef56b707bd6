"""Estimators of molecules that take tables of numbers, so that scikit-learn's own checks can call them."""

from typing import Any

import numpy as np

import unimol_scale as us
from tests.helpers.tiny_finetuning import MOLECULES


def molecules_of(X: Any) -> Any:
    """Return a molecule for each row of finite numbers; whatever is no such table is returned as it is."""
    if getattr(X, "ndim", 0) != 2 or np.asarray(X).dtype.kind not in "fiu" or not np.isfinite(X).all():
        return X
    return [MOLECULES[int(abs(float(row.sum())) * 97) % len(MOLECULES)] for row in np.asarray(X)]


class _Numbered:
    def fit(self, X, y=None):
        return super().fit(molecules_of(X), y)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.one_d_array = False
        return tags


class NumberedRegressor(_Numbered, us.MoleculeRegressor):
    def predict(self, X, return_std=False):
        return super().predict(molecules_of(X), return_std)

    def score(self, X, y, sample_weight=None):
        return super().score(molecules_of(X), y, sample_weight)


class NumberedClassifier(_Numbered, us.MoleculeClassifier):
    def predict(self, X):
        return super().predict(molecules_of(X))

    def predict_proba(self, X):
        return super().predict_proba(molecules_of(X))

    def score(self, X, y, sample_weight=None):
        return super().score(molecules_of(X), y, sample_weight)


class NumberedEmbedder(_Numbered, us.MoleculeEmbedder):
    def transform(self, X):
        return super().transform(molecules_of(X))
