"""The table that loss_to_task.py makes: its errors, and what it does after an interruption."""

import argparse
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.downstream import loss_to_task
from benchmarks.downstream.loss_to_task import (
    FINE_TUNING_RATES,
    LIPOPHILICITY,
    QM9,
    PretrainedModel,
    build_parser,
    ridge_error,
    run,
)
from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.errors import ConfigError
from unimol_scale.scaling.tasks.task_table import read_task_table

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(300, 8)).astype(np.float32)
LABELS = VECTORS @ np.arange(8.0) + 3.0
PARTS = (np.arange(200), np.arange(200, 250), np.arange(250, 300))


def test_a_linear_label_is_found_and_a_random_one_is_not() -> None:
    assert ridge_error(QM9, VECTORS, LABELS, PARTS) < 1e-3
    noise = RNG.normal(size=300)
    # The penalty that validation chooses lets a model say the mean, whose error is about one.
    assert 0.8 < ridge_error(LIPOPHILICITY, VECTORS, noise, PARTS) < 1.2


def test_the_test_rows_choose_nothing() -> None:
    changed = LABELS + RNG.normal(size=300)
    one = ridge_error(QM9, VECTORS, changed, PARTS)
    other = changed.copy()
    other[PARTS[2]] += 10.0
    assert ridge_error(QM9, VECTORS, other, PARTS) == pytest.approx(one + 10.0, abs=2.0)


def options(tmp_path: Path, *more: str) -> argparse.Namespace:
    words = ["a", "b", "--lipophilicity", str(tmp_path / "lipo.csv"), "--work", str(tmp_path / "work"), "--seeds", "3"]
    return build_parser().parse_args([*words, "--output", str(tmp_path / "t.parquet"), *more])


def test_what_is_measured_is_kept_and_the_table_is_one_that_the_fit_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    molecules = SimpleNamespace(
        position_M=np.arange(300), scaffold_smiles=[f"s{row // 5}" for row in range(300)], split=None
    )
    rows = SimpleNamespace(molecules=molecules, labels_ML=LABELS[:, None], usable_M=np.ones(300, bool))

    def vectors(model: PretrainedModel, *_: object) -> np.ndarray:
        seen.append(model.run)
        return VECTORS

    losses = {"a": 1.0, "b": 0.5}
    monkeypatch.setattr(
        loss_to_task,
        "model_at",
        lambda path: PretrainedModel(path=path, run=path.name, step=10, loss=losses[path.name], sha256=path.name),
    )
    monkeypatch.setattr(loss_to_task, "load_task", lambda *_: (rows, np.arange(300)))
    monkeypatch.setattr(loss_to_task, "vectors_of", vectors)
    run(options(tmp_path))
    table = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert [(row["run"], row["loss"], row["seed"]) for row in table] == [
        (name, losses[name], seed) for name in ("a", "b") for seed in range(3)
    ]
    results = read_task_table(tmp_path / "t.parquet", [])
    assert {(one.task, one.metric) for one in results} == {("Lipophilicity", "rmse")}
    run(options(tmp_path))
    assert seen == ["a", "b"]
    run(options(tmp_path, "--seeds", "4"))  # other splits are another measurement
    assert seen == ["a", "b", "a", "b"]


def test_without_a_task_there_is_nothing_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--qm9 and --lipophilicity"):
        run(build_parser().parse_args(["a", "--output", str(tmp_path / "t.parquet")]))


def test_fine_tuned_models_have_a_task_of_their_own_at_the_rate_that_validation_prefers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = SimpleNamespace(usable_M=np.ones(300, bool))
    asked = []

    def fitted(config: FinetuneConfig) -> SimpleNamespace:
        asked.append(config)
        better = config.train.learning_rate == FINE_TUNING_RATES[1]
        seeds = range(config.seeds or 0)
        # The test prefers the other rate, and is not asked.
        return SimpleNamespace(
            seeds=[SimpleNamespace(seed=seed, valid=1.0 - better, test=5.0 + better) for seed in seeds]
        )

    monkeypatch.setattr(
        loss_to_task,
        "model_at",
        lambda path: PretrainedModel(path=path, run=path.name, step=10, loss=0.5, sha256=path.name),
    )
    monkeypatch.setattr(loss_to_task, "load_task", lambda *_: (rows, np.arange(60)))
    monkeypatch.setattr(loss_to_task, "measure", lambda *_: [])
    monkeypatch.setattr(loss_to_task, "kept_rows", lambda model, task, made_of, measured, work: measured())
    monkeypatch.setattr(loss_to_task, "finetune", fitted)
    run(options(tmp_path, "--fine-tune", "b", "--fine-tuning-seeds", "2"))
    table = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert [(row["run"], row["task"], row["value"], row["seed"]) for row in table] == [
        ("b", "Lipophilicity, fine-tuned", 6.0, 0),
        ("b", "Lipophilicity, fine-tuned", 6.0, 1),
    ]
    assert {config.label_fraction for config in asked} == {0.2}  # 60 of 300 molecules count
