"""The benchmark's baseline is the package's, on the rows of a finished fine-tuning."""

import functools
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.downstream.baseline import best_baseline
from unimol_scale.downstream.baselines import fitted_baselines
from unimol_scale.downstream.finetuning.results import FinetuneResult, SeedResult

SMILES = [f"{'C' * length}{end}" for length in range(1, 11) for end in ("O", "N", "F", "S")]
PARTS = ["train"] * 24 + ["valid"] * 8 + ["test"] * 8


def test_the_best_on_validation_is_judged_once_and_kept(tmp_path, monkeypatch):
    calls = []
    few = functools.partial(fitted_baselines.fit_baselines, trees=20)
    monkeypatch.setattr(fitted_baselines, "fit_baselines", lambda *a: calls.append(1) or few(*a))
    label = np.array([len(text) for text in SMILES], float)
    table = {"smiles": [*SMILES, None], "split": [*PARTS, None], "y": [*label, None], "predicted y": [*label, None]}
    pq.write_table(pa.table(table), tmp_path / "predictions-seed-0.parquet")
    seed = SeedResult(
        seed=0, valid=1.0, test=1.0, test_by_target=(1.0,), undefined=(), best_epoch=1, losses=(), valid_scores=()
    )
    outcome = FinetuneResult(
        name="set", start="start", start_sha256=None, task="regression", metric="rmse", targets=("y",), units={},
        rows=40, unlabelled=0, skipped=1, split_sizes={}, notes=(), leakage=None, seeds=(seed,),
    )  # fmt: skip
    found = best_baseline(tmp_path, outcome)
    assert best_baseline(tmp_path, outcome) == found
    assert calls == [1]
    kept = pq.read_table(tmp_path / "baselines-seed-0.parquet").to_pydict()
    test = np.array(kept["split"]) == "test"
    errors = {
        name: np.sqrt(np.mean((np.array(kept[f"{name} predicted y"]) - np.array(kept["y"]))[test] ** 2))
        for name in ("ecfp_forest", "ecfp_boosting", "rdkit_forest", "rdkit_boosting")
    }
    assert any(np.isclose(found.test, error) for error in errors.values())
    assert "on" in found.name


def test_of_several_targets_the_mean_counts(tmp_path, monkeypatch):
    few = functools.partial(fitted_baselines.fit_baselines, trees=5)
    monkeypatch.setattr(fitted_baselines, "fit_baselines", few)
    one = np.array(["N" in text or "F" in text for text in SMILES], float)
    two = np.array([np.nan if at % 5 == 4 else float(len(text) % 2) for at, text in enumerate(SMILES)])
    columns = {"smiles": SMILES, "split": PARTS, "a": one, "b": two, "predicted a": one, "predicted b": one}
    pq.write_table(pa.table(columns), tmp_path / "predictions-seed-0.parquet")
    seed = SeedResult(
        seed=0, valid=1.0, test=1.0, test_by_target=(1.0, 1.0), undefined=(), best_epoch=1, losses=(), valid_scores=()
    )
    outcome = FinetuneResult(
        name="set", start="start", start_sha256=None, task="multilabel", metric="roc_auc", targets=("a", "b"), units={},
        rows=40, unlabelled=0, skipped=0, split_sizes={}, notes=(), leakage=None, seeds=(seed,),
    )  # fmt: skip
    found = best_baseline(tmp_path, outcome)
    (scores,) = [
        each["test_by_target"]
        for each in json.loads((tmp_path / "baselines-seed-0.json").read_text())["member"]["scores"]
        if np.mean(each["test_by_target"]) == found.test
    ][:1]
    assert len(scores) == 2
