"""Pictures of a fine-tuning can be opened and show something, whatever labels are missing."""

import matplotlib.image
import numpy as np
import pytest

from unimol_scale.common.report.html_page import WIDE_PICTURE
from unimol_scale.common.report.pictures import png_width
from unimol_scale.downstream.finetuning.reporting.finetune_pictures import (
    COURSE_PICTURE,
    LOSS_PICTURE,
    MOST_PANELS,
    draw_predictions,
    draw_training_curves,
)
from unimol_scale.downstream.finetuning.results import FinetuneResult, SeedResult

NAN = np.nan


def outcome(task, targets):
    seeds = tuple(
        SeedResult(
            seed=seed,
            valid=0.5,
            test=0.6,
            test_by_target=tuple(None if target == "empty" else 0.6 for target in targets),
            undefined=(),
            best_epoch=2,
            losses=(1.0, 0.5, 0.4),
            valid_scores=(0.9, 0.5, 0.7),
        )
        for seed in (0, 1)
    )
    return FinetuneResult(
        name="set", start="scratch", start_sha256=None, task=task, metric="rmse" if task == "regression" else "roc_auc",
        targets=targets, units={"y": "eV"}, rows=9, unlabelled=0, skipped=0,
        split_sizes={"train": 3, "valid": 3, "test": 3}, notes=(), leakage=None, seeds=seeds,
    )  # fmt: skip


def ink(path):
    picture = matplotlib.image.imread(path)
    assert picture.shape[0] > 200
    assert picture.shape[1] > 200
    return int((picture[..., :3] < 0.8).any(axis=2).sum())


@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_predictions_are_drawn_and_a_target_without_test_labels_has_an_empty_panel(tmp_path, task):
    labels = np.array([[0, NAN], [1, NAN], [1, NAN], [0, NAN]], float)
    predictions = [np.array([[0.1, 0.5], [0.9, 0.5], [0.6, 0.5], [0.4, 0.5]]), np.full((4, 2), 0.5)]
    draw_predictions(tmp_path / "p.png", outcome(task, ("y", "empty")), labels, predictions)
    draw_predictions(tmp_path / "none.png", outcome(task, ("y", "empty")), np.full((4, 2), NAN), predictions)
    assert ink(tmp_path / "p.png") > ink(tmp_path / "none.png") > 1000


def test_a_wrong_prediction_is_away_from_the_line(tmp_path):
    labels = np.linspace(0, 1, 40)[:, None]
    draw_predictions(tmp_path / "right.png", outcome("regression", ("y",)), labels, [labels, labels])
    draw_predictions(tmp_path / "wrong.png", outcome("regression", ("y",)), labels, [labels[::-1], labels[::-1]])
    right, wrong = matplotlib.image.imread(tmp_path / "right.png"), matplotlib.image.imread(tmp_path / "wrong.png")
    assert right.shape == wrong.shape
    assert (right != wrong).any(axis=2).sum() > 1000


def test_a_name_is_no_formula(tmp_path):
    labels = np.linspace(0, 1, 5)[:, None]
    draw_predictions(tmp_path / "p.png", outcome("regression", ("a$_{b$ x",)), labels, [labels])
    assert ink(tmp_path / "p.png") > 1000


def test_many_targets_are_drawn_up_to_a_number_of_panels(tmp_path):
    targets = tuple(f"t{at}" for at in range(MOST_PANELS + 5))
    labels = np.random.default_rng(0).random((6, len(targets)))
    draw_predictions(tmp_path / "p.png", outcome("regression", targets), labels, [labels, labels])
    assert ink(tmp_path / "p.png") > 5000


def test_the_course_shows_losses_and_scores(tmp_path):
    draw_training_curves(tmp_path, outcome("regression", ("y",)))
    for name in (LOSS_PICTURE, COURSE_PICTURE):
        assert ink(tmp_path / name) > 1000
        assert png_width((tmp_path / name).read_bytes()) < WIDE_PICTURE  # it is not cut off on a phone
