"""Rows with features that are numbers of a generator, and labels that follow from them."""

import numpy as np
import pytest
from scipy import sparse

from unimol_scale.downstream.baselines import fitted_baselines
from unimol_scale.downstream.baselines.fitted_baselines import TableRows, fit_baselines
from unimol_scale.downstream.baselines.table_features import TableFeatures
from unimol_scale.downstream.data.splitting.parts import DataSplit
from unimol_scale.downstream.registry import METRICS

ROWS = 120
TREES = 25  # of a forest, in place of 500: what is tested does not depend on it
SPLIT = DataSplit(train=np.arange(70), valid=np.arange(70, 95), test=np.arange(95, ROWS))


@pytest.fixture
def features():
    random = np.random.default_rng(1)
    return TableFeatures(
        ecfp=sparse.csr_matrix(random.poisson(0.5, (ROWS, 48)).astype(np.uint16)),
        rdkit=random.normal(size=(ROWS, 8)).astype(np.float32),
        readable=np.ones(ROWS, bool),
    )


@pytest.fixture
def labels(features):
    """Labels of a regression that the descriptors tell, [M, 1]."""
    return features.rdkit[:, :1].astype(np.float64) * 3.0 + 5.0


def rows_of(labels_ML, task="regression", metric="rmse", **changes):
    given = {
        "smiles": [f"molecule {row}" for row in range(ROWS)],
        "targets": tuple(f"t{at}" for at in range(labels_ML.shape[1])),
        "task": task,
        "metric": METRICS[metric],
        "split": SPLIT,
        "learnt_ML": labels_ML,
        **changes,
    }
    return TableRows(**given)


@pytest.fixture
def fitted(features):
    """Fit the baselines to some labels."""

    def fit(labels_ML, task="regression", metric="rmse", features=features, **changes):
        return fit_baselines(rows_of(labels_ML, task, metric, **changes), features, (0,), TREES)

    return fit


@pytest.fixture
def few_trees(monkeypatch):
    """Let a whole call fit forests of few trees."""

    def fit(rows, features, seeds):
        return fit_baselines(rows, features, seeds, TREES)

    monkeypatch.setattr(fitted_baselines, "fit_baselines", fit)
