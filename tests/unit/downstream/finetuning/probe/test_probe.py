"""Fine-tunings that fit a head to frozen vectors: what is learnt, what is kept, and what later programs see."""

import logging

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from tests.helpers.tiny_finetuning import AROMATIC, MOLECULES, fitting, write_table
from unimol_scale.checkpoints.weights import load_pretrained
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.downstream.finetuning.model.saved_model import load_member, read_config
from unimol_scale.downstream.finetuning.predict import predict_molecules
from unimol_scale.downstream.finetuning.probe import seed_probe
from unimol_scale.downstream.finetuning.probe.linear_models import (
    LOGISTIC_PENALTIES,
    RIDGE_PENALTIES,
    choose,
    fit_logistic,
    fit_ridge,
)
from unimol_scale.downstream.registry import METRICS
from unimol_scale.errors import ConfigError


def probing(kind, **changes):
    return fitting(probe=kind, **{"epochs": 3, **changes})


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_probe_leaves_the_backbone_as_it_is_and_is_opened_as_any_fine_tuned_model(settings, place, kind):
    config = settings(train=probing(kind), inputs="2d", seeds=1)
    done = finetune(config)
    saved = read_config(config.output)
    assert saved.head == kind
    model = load_member(config.output, saved, saved.members[0])
    for name, value in load_pretrained(place / "pretrained").backbone.state_dict().items():
        assert np.array_equal(model.backbone.state_dict()[name].numpy(), value.numpy()), name
    options = {"smiles_column": None, "skip_bad": False, "cache": place / "cache", "max_pairs": None}
    found = predict_molecules(list(MOLECULES), config.output, device_name="cpu", **options).value_SRL[0, :, 0]
    table = pq.read_table(config.output / "predictions-seed-0.parquet").column("predicted size").to_numpy()
    np.testing.assert_allclose(found, table, rtol=1e-4)
    chosen = done.seeds[0].chosen
    assert set(chosen) == {"penalty" if kind == "linear" else "learning_rate"}
    assert done.seeds[0].valid < 4.0  # the standard deviation of the labels is 2.9; a model that learnt nothing has it
    report = (config.output / "report.md").read_text()
    assert "frozen" in report
    for course in (
        "![](course.png)",
        "| best epoch |",
    ):  # a linear model is solved at once
        assert (course in report) == (kind == "mlp"), course


def test_an_mlp_probe_shows_its_epochs_and_a_linear_one_has_none(settings, tmp_path, caplog):
    caplog.set_level(logging.INFO, "unimol_scale")
    for kind in ("linear", "mlp"):
        finetune(settings(train=probing(kind), inputs="2d", seeds=1, output=tmp_path / kind))
    shown = [text for record in caplog.records if "epoch" in (text := record.getMessage())]
    assert any("learning rate 1 of 4, epoch 1/3" in text for text in shown)
    assert all("learning rate" in text for text in shown)
    assert any(record.getMessage().startswith("vectors for the domain: ") for record in caplog.records)


def test_vectors_are_computed_once_whatever_is_learnt_from_them(settings, place, tmp_path, monkeypatch):
    passes = []
    predict = seed_probe.predict_conformers
    monkeypatch.setattr(seed_probe, "predict_conformers", lambda *a, **k: passes.append(1) or predict(*a, **k))
    common = {"inputs": "2d", "split": "random-kfold", "folds": 2, "seeds": None, "cache": tmp_path / "cache"}
    first = finetune(settings(train=probing("linear"), **common))
    assert len(passes) == 1
    assert [seed.chosen["penalty"] in RIDGE_PENALTIES for seed in first.seeds] == [True, True]
    finetune(settings(train=probing("mlp"), output=tmp_path / "mlp", **common))
    finetune(
        settings(train=probing("linear"), targets=("aromatic",), metric="accuracy", output=tmp_path / "other", **common)
    )
    assert len(passes) == 1
    finetune(settings(train=probing("linear"), pooling="virtual_node", output=tmp_path / "node", **common))
    assert len(passes) == 2


@pytest.mark.parametrize("channels", [5, 80])  # fewer channels than rows, and more
@pytest.mark.parametrize("weighted", [False, True])
def test_ridge_regressions_are_those_of_scikit_learn(channels, weighted):
    random = np.random.default_rng(0)
    vector_ND, label_N = random.normal(size=(40, channels)), random.normal(size=40)
    label_N[[3, 7]] = np.nan
    weight_N = random.uniform(0.1, 3.0, size=40) if weighted else None
    path = fit_ridge(vector_ND, label_N, (10.0, 0.1), weight_N)
    known_N = ~np.isnan(label_N)
    for penalty, found_N1 in zip((10.0, 0.1), path.outputs(vector_ND), strict=True):
        model = Ridge(alpha=penalty)
        model.fit(vector_ND[known_N], label_N[known_N], None if weight_N is None else weight_N[known_N])
        np.testing.assert_allclose(found_N1[:, 0], model.predict(vector_ND), atol=1e-9)


def test_a_probe_sees_every_layer_unless_told_otherwise(settings, tmp_path):
    for kind in ("linear", "mlp"):
        finetune(settings(train=probing(kind), inputs="2d", seeds=1, output=tmp_path / kind))
        assert read_config(tmp_path / kind).pooling == "layers"
    finetune(settings(train=probing("linear"), pooling="mean", inputs="2d", seeds=1, output=tmp_path / "mean"))
    assert read_config(tmp_path / "mean").pooling == "mean"
    assert settings(train=fitting()).with_choices.pooling == "mean"


def test_a_softmax_gives_a_class_without_a_row_no_chance():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(60, 3))
    labels = np.where(vectors[:, 0] > 0.0, 2.0, 0.0)  # no row of class 1
    path = fit_logistic(vectors, labels, (1.0, 100.0), num_classes=3)
    logits = path.outputs(vectors)[0]
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert shares[:, 1].max() < 0.02
    assert ((shares.argmax(1) == labels).mean()) > 0.95
    expected = LogisticRegression(C=1.0, max_iter=2000).fit(vectors, labels).predict_proba(vectors)
    np.testing.assert_allclose(shares[:, [0, 2]] / shares[:, [0, 2]].sum(1, keepdims=True), expected, atol=1e-3)


def test_classes_with_names_and_missing_labels_are_learnt_from_vectors(settings, tmp_path):
    names = np.where(AROMATIC > 0.0, "ring", np.where(np.arange(30) % 2 == 0, "even", "odd"))
    path = write_table(tmp_path / "names.csv", kind=names)
    done = finetune(
        settings(data=path, targets=("kind",), train=probing("linear"), inputs="2d", seeds=None, metric="accuracy")
    )
    assert len(done.seeds) == 1
    assert done.task == "multiclass"
    assert done.seeds[0].chosen["penalty"] > 0.0


def test_of_penalties_that_are_equally_good_the_strongest_is_taken():
    """A few validation rows that every penalty ranks right say nothing for probabilities of 0 and 1."""
    vector_ND = np.random.default_rng(0).normal(size=(40, 3))
    label_N = (vector_ND[:, 0] > 0.0).astype(float)
    path = fit_logistic(vector_ND, label_N, LOGISTIC_PENALTIES)
    probability_PRK = 1.0 / (1.0 + np.exp(-path.outputs(5.0 * np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]))))
    at = choose(METRICS["roc_auc"], np.array([[1.0], [0.0]]), list(probability_PRK))
    assert LOGISTIC_PENALTIES[at] == max(LOGISTIC_PENALTIES)


def test_what_a_probe_cannot_do_is_refused(settings):
    for changes, message in (
        ({"seeds": 3}, "does not depend on the seed"),
        ({"seeds": 1, "loss": "mae"}, "minimises squares"),
        ({"seeds": 1, "task": "ordinal"}, "cannot learn ordered classes"),
        ({"seeds": 1, "head": "dense-tanh"}, "has its own head"),
    ):
        with pytest.raises(ConfigError, match=message):
            settings(train=probing("linear"), **changes)
    with pytest.raises(ConfigError, match=r"remove train\.trained_layers and"):
        probing("mlp", trained_layers=1)
    with pytest.raises(ConfigError, match="apply to training the backbone"):
        probing("mlp", precision="bf16")
