"""Linear models on frozen vectors: what they learn, by which rows the penalty is chosen, and vectors that are kept."""

import dataclasses

import numpy as np
import pytest

from benchmarks.downstream.folds import fold_probes
from benchmarks.downstream.folds.fold_probes import FrozenModel, fit_probe, kept_vectors, probe_predictions
from tests.helpers.tiny_finetuning import TINY
from unimol_scale.checkpoints.weights import save_pretrained
from unimol_scale.model.accounting import Heads
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.store.schema import Float64


def vectors(data, noise: float = 0.0) -> Float64:
    """Return vectors of which one channel says the first label, and others are random; one never changes."""
    random = np.random.default_rng(0)
    own = np.nan_to_num(data.rows.labels_ML[:, :1])
    others = random.normal(size=(len(own), 2))
    return np.concatenate([3.0 + own + noise * random.normal(size=own.shape), others, np.ones_like(own)], axis=1)


def test_what_is_linear_in_the_vectors_is_learnt_and_test_labels_are_not_seen(set_rows):
    data = set_rows().at(1.0)
    split = data.folds[0][1]
    found = probe_predictions(vectors(data), data, split)
    np.testing.assert_allclose(found[split.test], data.rows.labels_ML[split.test], atol=0.05)
    assert np.isnan(found[split.train]).all()
    hidden = data.rows.labels_ML.copy()
    hidden[split.test] += 100.0
    other = dataclasses.replace(data, rows=dataclasses.replace(data.rows, labels_ML=hidden))
    np.testing.assert_array_equal(probe_predictions(vectors(data), other, split)[split.test], found[split.test])


def test_the_penalty_is_the_one_that_is_best_on_validation(set_rows, monkeypatch):
    data = set_rows().at(1.0)
    split, noisy = data.folds[1][1], vectors(data, noise=3.0)
    errors = {}
    for penalty in (0.01, 1e4):
        monkeypatch.setattr(fold_probes, "RIDGE_PENALTIES", (penalty,))
        alone = probe_predictions(noisy, data, split)
        errors[penalty] = alone, np.abs(alone[split.valid] - data.rows.labels_ML[split.valid])
    best = min(errors, key=lambda penalty: np.mean(errors[penalty][1] ** 2))
    monkeypatch.setattr(fold_probes, "RIDGE_PENALTIES", (0.01, 1e4))
    np.testing.assert_array_equal(probe_predictions(noisy, data, split), errors[best][0])
    assert not np.allclose(errors[0.01][0][split.test], errors[1e4][0][split.test])


def test_classes_get_probabilities_target_by_target(set_rows):
    data = set_rows("classes").at(1.0)
    split = data.folds[0][1]
    found = probe_predictions(vectors(data), data, split)
    assert ((found[split.test] >= 0.0) & (found[split.test] <= 1.0)).all()
    is_one = data.rows.labels_ML[split.test, 0] == 1.0
    assert found[split.test, 0][is_one].min() > found[split.test, 0][~is_one].max()


@pytest.fixture
def saved(tmp_path):
    """Save a model of no size; return where it is."""

    def make(name, **changes):
        save_pretrained(HeadedModel(dataclasses.replace(TINY, **changes), Heads()), tmp_path / name)
        return str(tmp_path / name)

    return make


def test_vectors_are_kept_for_the_same_weights_and_computed_for_others(set_rows, saved, tmp_path, monkeypatch):
    rows, calls = set_rows(), []
    compute = FrozenModel.vectors
    monkeypatch.setattr(FrozenModel, "vectors", lambda self, data: calls.append(self) or compute(self, data))
    one, random = FrozenModel(model=saved("one"), reinitialise=False), None
    random = FrozenModel(model=one.model, reinitialise=True)
    path = tmp_path / "vectors.npz"
    first = kept_vectors(path, one, rows)
    assert first.shape == (30, TINY.atom_width)
    np.testing.assert_array_equal(kept_vectors(path, one, rows), first)
    assert calls == [one]
    other = kept_vectors(path, random, rows)
    assert calls == [one, random]
    assert not np.allclose(first, other)
    np.testing.assert_array_equal(kept_vectors(tmp_path / "again.npz", random, rows), other)


def test_the_vectors_are_those_of_embed_also_of_a_model_of_the_graph_alone(set_rows, saved, conformers):
    from unimol_scale.downstream.embedding.molecular_model import from_pretrained

    rows = set_rows()
    for name, geometry in (("3d", True), ("2d", False)):
        frozen = FrozenModel(model=saved(name, geometry=geometry), reinitialise=False)
        expected = from_pretrained(frozen.model).embed(list(rows.rows.molecules.smiles), cache=conformers)
        np.testing.assert_allclose(frozen.vectors(rows), expected, atol=1e-5)


def test_the_result_says_what_was_frozen_and_is_of_the_same_rows_for_every_share_of_the_labels(
    set_rows, saved, tmp_path
):
    rows, frozen = set_rows(), FrozenModel(model=saved("one"), reinitialise=True)
    results = [
        fit_probe("probe", tmp_path / f"{share}", rows.at(share), lambda: frozen.vectors(rows), frozen)
        for share in (1.0, 0.5)
    ]
    assert [one.outcome.start for one in results] == ["one with random weights, frozen"] * 2
    assert results[0].rows.row_T.tolist() == results[1].rows.row_T.tolist()
    sizes = [one.outcome.seeds[0].split_sizes["train"] for one in results]
    assert sizes[1] == round(sizes[0] / 2)
