"""The interval of a gain says when a test set can tell two fine-tunings apart, and when it cannot."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.downstream.interval import gain
from unimol_scale.downstream.finetuning.results import FinetuneResult, SeedResult
from unimol_scale.downstream.metrics import score
from unimol_scale.downstream.registry import METRICS

ROWS = 200
RANDOM = np.random.default_rng(3)
LABEL = {"rmse": RANDOM.normal(size=ROWS), "roc_auc": (RANDOM.random(ROWS) < 0.5).astype(float)}
NOISE = RANDOM.normal(size=(2, ROWS))


@pytest.fixture
def fine_tuned(tmp_path):
    """Write the predictions of a fine-tuning, whose seeds err by so much; return its folder and outcome."""

    def make(name, metric, errors, noise):
        folder = tmp_path / name
        folder.mkdir()
        seeds = []
        for seed, error in enumerate(np.atleast_1d(errors)):
            prediction = LABEL[metric] + error * NOISE[noise]
            table = {"split": ["train"] * 5 + ["test"] * ROWS, "smiles": [f"{row}" for row in range(5 + ROWS)]}
            table |= {"y": np.r_[np.zeros(5), LABEL[metric]], "predicted y": np.r_[np.full(5, 1e6), prediction]}
            pq.write_table(pa.table(table), folder / f"predictions-seed-{seed}.parquet")
            test = score(METRICS[metric], LABEL[metric][:, None], prediction[:, None]).value
            seeds.append(
                SeedResult(
                    seed=seed, valid=test, test=test, test_by_target=(test,), undefined=(), best_epoch=1, losses=(),
                    valid_scores=(),
                )
            )  # fmt: skip
        outcome = FinetuneResult(
            name="set", start=name, start_sha256=None, task="regression", metric=metric, targets=("y",), units={},
            rows=ROWS, unlabelled=0, skipped=0, split_sizes={}, notes=(), leakage=None, seeds=tuple(seeds),
        )  # fmt: skip
        return folder, outcome

    return make


@pytest.mark.parametrize("metric", ["rmse", "roc_auc"])
def test_a_clear_gain_is_above_zero_and_its_reverse_below(fine_tuned, metric):
    good, bad = fine_tuned("good", metric, 0.5, 0), fine_tuned("bad", metric, 1.5, 1)
    better, worse = gain(good, bad), gain(bad, good)
    assert 0.0 < better.low < better.value < better.high < 1.0
    assert worse.low < worse.value < worse.high < 0.0


@pytest.mark.parametrize("metric", ["rmse", "roc_auc"])
def test_two_models_that_err_by_as_much_can_not_be_told_apart(fine_tuned, metric):
    found = gain(fine_tuned("one", metric, 1.0, 0), fine_tuned("other", metric, 1.0, 1))
    assert found.low < 0.0 < found.high


def test_the_gain_is_the_share_of_the_error_that_is_gone(fine_tuned):
    found = gain(fine_tuned("half", "rmse", 0.5, 0), fine_tuned("whole", "rmse", 1.0, 0))
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))  # paired: the same rows for both
    assert found.valid == pytest.approx(0.5)


def test_seeds_that_scatter_widen_the_interval(fine_tuned):
    found = gain(fine_tuned("two", "rmse", (0.4, 0.6), 0), fine_tuned("whole", "rmse", (1.0, 1.0), 0))
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.4, 0.6))  # one seed or the other, twice


def test_a_second_target_that_is_the_same_changes_nothing(fine_tuned):
    pairs = [fine_tuned("one", "roc_auc", 0.5, 0), fine_tuned("other", "roc_auc", 1.5, 1)]
    alone = gain(*pairs)
    twice = []
    for folder, outcome in pairs:
        for path in folder.glob("predictions-*.parquet"):
            table = pq.read_table(path)
            again = table.append_column("z", table["y"]).append_column("predicted z", table["predicted y"])
            pq.write_table(again, path)
        twice.append((folder, dataclasses.replace(outcome, targets=("y", "z"))))
    assert gain(*twice) == alone
