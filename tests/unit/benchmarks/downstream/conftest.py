"""A set of thirty small molecules, divided for a cross-validation of three folds, twice."""

import numpy as np
import pytest

from benchmarks.downstream.folds.fold_data import SetRows
from tests.helpers.tiny_finetuning import AROMATIC, CARBON, MOLECULES, write_table
from unimol_scale.downstream.config import FinetuneConfig

CHANCE = np.random.default_rng(0).normal(size=len(MOLECULES))


@pytest.fixture(scope="session")
def conformers(tmp_path_factory):
    """Return the folder in which the conformers of all these tests are kept."""
    return tmp_path_factory.mktemp("conformers")


@pytest.fixture
def set_rows(tmp_path, conformers):
    """Return the rows of a set: the number of carbons, or chance, or whether there is a ring and another target."""

    def make(kind="regression"):
        own = {"regression": CARBON, "classes": AROMATIC, "chance": CHANCE}[kind]
        second = own[::-1]
        gaps = [("" if row % 5 == 4 else label) for row, label in enumerate(second.tolist())]
        path = write_table(tmp_path / f"{kind}.csv", smiles=MOLECULES, y=own, z=gaps)
        targets, metric = (("y", "z"), "roc_auc") if kind == "classes" else (("y",), "rmse")
        config = FinetuneConfig(
            data=path, size="0.5M", targets=targets, metric=metric, split="random-kfold", folds=3, repeats=2,
            fractions=(0.5, 0.4, 0.1), cache=conformers,
        )  # fmt: skip
        return SetRows("set", config)

    return make


@pytest.fixture
def labels_of():
    """Return what a perfect predictor says in every fold."""

    def make(data):
        return [np.where(np.isnan(data.rows.labels_ML), 0.5, data.rows.labels_ML) for _ in data.folds]

    return make
