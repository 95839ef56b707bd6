"""A set of thirty small molecules, divided for a cross-validation of three folds, twice, and made-up results."""

import numpy as np
import pytest

from benchmarks.downstream.folds.fold_baselines import BEST
from benchmarks.downstream.folds.fold_data import SetRows
from benchmarks.downstream.folds.results_of_set import ChosenStart, Probe, SetResults
from tests.helpers.fold_folders import write_folds
from tests.helpers.tiny_finetuning import AROMATIC, CARBON, MOLECULES, write_table
from unimol_scale.downstream.comparison.fold_results import read_fold_result
from unimol_scale.downstream.config import FinetuneConfig

CHANCE = np.random.default_rng(0).normal(size=len(MOLECULES))
LABELS = np.random.default_rng(1).normal(size=90)
CLASSES = (np.random.default_rng(2).random(90) < 0.5).astype(float)


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


@pytest.fixture
def results(tmp_path):
    """Return the results of a set, each with an error of so much."""

    def make(name, fraction=1.0, metric="rmse", *, seeds=1, **errors):
        labels = LABELS if metric == "rmse" else CLASSES

        def one(said, at):
            folder = tmp_path / f"{name}-{fraction:g}-{at}"
            write_folds(folder, labels, errors[said], metric=metric, chance=at + round(1000 * fraction), seeds=seeds)
            shown = {"baseline": BEST, "scratch": "scratch (denoise)"}.get(said, said.replace("_", " "))
            return read_fold_result(shown, folder)

        found = {said: one(said, at) for at, said in enumerate(errors)}
        starts = [said for said in ("denoise", "scratch") if said in found]
        return SetResults(
            set=name,
            fraction=fraction,
            starts=tuple(
                ChosenStart(
                    result=found[s],
                    rates=dict.fromkeys(found[s].outcome.folds, 5e-4),
                    scratch="scratch (denoise)" if s == "denoise" else "",
                    is_scratch=s == "scratch",
                )
                for s in starts
            ),
            references=tuple(found[said] for said in ("baseline", "chemprop") if said in found),
            probes=tuple(Probe(result=found[s], start="denoise") for s in ("probe_of_denoise",) if s in found),
        )

    return make
