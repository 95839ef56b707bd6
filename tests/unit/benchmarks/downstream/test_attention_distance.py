"""What is said of attention and distance is so for heads that follow distances, and is told of every model."""

import json

import numpy as np
import pytest
import torch

from benchmarks.downstream.attention_distance import (
    attended_distances,
    correlations,
    distances,
    main,
    measure,
    name_and_path,
)
from tests.helpers.store_samples import chain_record, random_record, write_store
from unimol_scale.checkpoints.weights import save_pretrained
from unimol_scale.downstream.embedding.representations import RepresentationConfig, represent
from unimol_scale.model.accounting import Heads
from unimol_scale.model.backbone import TwoTrackBackbone
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.model.presets import preset

POINTS = np.random.default_rng(0).normal(size=(6, 3))
APART = np.linalg.norm(POINTS[:, None] - POINTS[None], axis=-1)
OTHERS = ~np.eye(6, dtype=bool)


def scores(*channels):
    return np.stack(channels, axis=-1).astype(np.float32)


def test_correlation_is_pearsons_over_pairs_of_different_atoms():
    noise = np.random.default_rng(1).normal(size=(6, 6))
    on_itself = np.where(OTHERS, 1.0 - 3.0 * APART, 50.0)  # what an atom gives itself is of no pair
    found = correlations(scores(APART, on_itself, noise, np.full((6, 6), 2.5)), APART)
    np.testing.assert_allclose(found[:2], [1.0, -1.0], atol=1e-6)
    assert found[2] == pytest.approx(np.corrcoef(noise[OTHERS], APART[OTHERS])[0, 1], abs=1e-6)
    assert np.isnan(found[3])
    assert np.isnan(correlations(scores(noise), 1.5 * OTHERS)).all(), "all atoms are equally far apart"


def test_a_head_attends_where_its_scores_say():
    nearest = np.where(OTHERS, APART, np.inf).min(1).mean()
    farthest = APART.max(1).mean()
    found = attended_distances(scores(-1e3 * APART, 1e3 * APART, np.zeros((6, 6))), APART)
    np.testing.assert_allclose(found, [nearest, farthest, APART[OTHERS].mean()], rtol=1e-5)


@pytest.fixture
def store(tmp_path):
    records = [*(random_record(number, max_atoms=9) for number in range(6)), chain_record(7)]
    return write_store(tmp_path / "store", records, records, hydrogens=True)


def test_every_head_is_held_against_the_distances_of_its_own_molecule(store):
    torch.manual_seed(0)
    backbone = TwoTrackBackbone(preset("0.03M", heads=2)).eval()
    split = store.split("valid")
    rows = np.flatnonzero(split.sizes(np.arange(7))[0] >= 3).astype(np.int64)
    config = RepresentationConfig(kind="attention")
    found = measure(backbone, store, rows, config)
    assert found.correlation_LH.shape == found.distance_LH.shape == (backbone.config.layers, 2)
    alone = [measure(backbone, store, rows[[at]], config) for at in range(len(rows))]
    np.testing.assert_allclose(found.correlation_LH, np.mean([one.correlation_LH for one in alone], axis=0), atol=1e-4)
    np.testing.assert_allclose(found.distance_LH, np.mean([one.distance_LH for one in alone], axis=0), atol=1e-4)
    # By hand, of one molecule and the second head of the second layer.
    ((score_nnC,),) = represent(backbone, split, rows[:1], config, drop_hydrogens=True)
    (apart,) = distances(split, rows[:1], hydrogens=True)
    others = ~np.eye(len(apart), dtype=bool)
    by_hand = abs(np.corrcoef(score_nnC[others][:, 3], apart[others])[0, 1])
    assert alone[0].correlation_LH[1, 1] == pytest.approx(by_hand, abs=1e-5)


def test_models_and_random_ones_are_told_of_and_drawn(store, tmp_path):
    torch.manual_seed(0)
    for name, geometry in (("student", False), ("teacher", True)):
        save_pretrained(HeadedModel(preset("0.03M", geometry=geometry), Heads()), tmp_path / name)
    models = [f"--model={name}={tmp_path / name}" for name in ("student", "teacher")]
    output = tmp_path / "results" / "attention.md"
    assert main([str(store.path), *models, "--inputs", "3d", "--output", str(output)]) == 0
    rows = [line.split(" | ") for line in output.read_text().splitlines() if line.startswith("| ")][1:]
    assert [(row[0], row[1]) for row in rows] == [
        ("| student", "2d"),
        ("| student's shape, random weights", "2d"),
        ("| teacher", "3d"),
        ("| teacher's shape, random weights", "3d"),
    ]
    assert "![correlations and distances of every head](attention/heads.png)" in output.read_text()
    assert (tmp_path / "results" / "attention" / "heads.png").stat().st_size > 1000
    values = json.loads((tmp_path / "results" / "attention" / "results.json").read_text())
    assert np.array(values[1]["trained"]["distance_LH"]).shape == (preset("0.03M").layers, preset("0.03M").heads)


def test_a_model_has_a_name():
    assert name_and_path("D&D=runs/a=b") == ("D&D", "runs/a=b")
    with pytest.raises(Exception, match="not of the form NAME=PATH"):
        name_and_path("runs/student")
