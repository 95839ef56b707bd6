"""Settings of a fine-tuning that make no sense are refused with their key, the value and what is allowed."""

from pathlib import Path

import pytest

from unimol_scale.downstream.config import FinetuneConfig, FinetuneTrainConfig
from unimol_scale.errors import ConfigError


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": ()}, "no target"),
        ({"targets": ("a", "a")}, "one is named twice"),
        ({"size": "0.03M"}, "give either --from"),
        ({"pretrained": None, "size": "0.03M", "reinitialise": True}, "--reinitialise needs the dimensions"),
        ({"split": "column"}, "need each other"),
        ({"split_column": "x"}, "need each other"),
        ({"fractions": (0.8, 0.2)}, "three positive numbers"),
        ({"fractions": (0.9, 0.2, -0.1)}, "may be 0"),
        ({"fractions": (0.9, 0.1, 0.0)}, "no test rows to compare baselines on"),
        ({"split": "file"}, "split=file and split_file=FILE need each other"),
        ({"split_file": Path("s.csv")}, "split=file and split_file=FILE need each other"),
        (
            {"split_parts": {"val": "valid"}},
            "split_parts applies to split=column and split=file, not to split=scaffold",
        ),
        ({"valid_rows": 3}, "valid_rows applies to split=column"),
        ({"split": "column", "split_column": "x", "valid_rows": 0}, "valid_rows must be at least 1"),
        ({"split": "column", "split_column": "x", "split_sizes": (1, 1, None)}, "split=column has its own"),
        ({"split_sizes": (5, None, None)}, "two numbers of rows and one null"),
        ({"split_sizes": (5, 5, 5)}, "two numbers of rows and one null"),
        ({"split_sizes": (0, 5, None)}, "two numbers of rows and one null"),
        ({"label_fraction": 0.0}, "label_fraction must be above 0"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"seed": -1}, "seed must not be negative"),
        ({"max_atoms": 0}, "max_atoms must be at least 1"),
        ({"conformer_workers": 0}, "conformer_workers must be at least 1"),
        ({"loss": "mae", "task": "multilabel"}, "loss mae applies to regression"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, message):
    common = {"data": Path("set.csv"), "pretrained": "runs/mine", "targets": ("y",)}
    FinetuneConfig(**common)
    with pytest.raises(ConfigError, match=message):
        FinetuneConfig(**{**common, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.0}, {"learning_rate": float("nan")}, {"layer_decay": 1.5}, {"batch_size": 0}, {"epochs": 0},
        {"warm_up": 2.0}, {"patience": 0}, {"weight_decay": -1.0}, {"gradient_clip": 0.0}, {"dropout": 1.0},
        {"max_pairs": 0}, {"workers": -1}, {"beta1": 1.0}, {"beta2": -0.1}, {"epsilon": 0.0}, {"ema_decay": 1.0},
        {"ema_decay": 0.0}, {"backbone_dropout": 1.0}, {"attention_dropout": -0.1}, {"triangle_dropout": 1.0},
        {"activation_dropout": 1.5}, {"drop_path": 1.0}, {"noise_std": -0.1}, {"noise_weight": -1.0},
        {"noise_std": float("nan")}, {"end_learning_rate": -1e-9}, {"end_learning_rate": 1.0, "learning_rate": 0.5},
        {"end_learning_rate": 1e-9, "schedule": "constant"},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_ways_of_fitting_that_make_no_sense_name_their_key(change):
    with pytest.raises(ConfigError, match=rf"train\.{next(iter(change))} must"):
        FinetuneTrainConfig(**change)


@pytest.mark.parametrize(
    ("change", "folder"),
    [
        ({}, "finetuned/set-mine"),
        ({"reinitialise": True}, "finetuned/set-scratch"),
        ({"pretrained": None, "size": "4M"}, "finetuned/set-scratch"),
        ({"output": Path("here")}, "here"),
    ],
)
def test_results_go_to_a_folder_that_says_of_what(change, folder):
    common = {"data": Path("data/set.csv.gz"), "pretrained": "runs/mine/", "targets": ("y",)}
    assert FinetuneConfig(**{**common, **change}).folder == Path(folder)
