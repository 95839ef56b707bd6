"""The comparison of recipes: its arithmetic, and that its command trains, resumes and reports."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.training.recipes import BASELINE, Cell, best_of, interval, ladder_of, parse, report
from unimol_scale.scaling.ladder.ladder import plan

REPOSITORY = Path(__file__).resolve().parents[4]
BOTH = "Muon, linear"


def cell(recipe: str, rate: float, *losses: float) -> Cell:
    return Cell(recipe=recipe, rate=rate, losses=losses, seconds=0.1)


def test_an_interval_is_students() -> None:
    mean, half = interval([1.0, 2.0, 3.0])
    assert (mean, half) == pytest.approx((2.0, 4.303 / math.sqrt(3)), rel=1e-3)
    assert math.isnan(interval([1.0])[1])


def test_each_recipe_is_told_at_its_best_rate_and_compared_by_seed(sample_store: Path) -> None:
    options = parse(["--data", str(sample_store), "--size", "0.03M"])
    cells = [
        cell(BASELINE, 1e-3, 2.0, 2.2), cell(BASELINE, 2e-3, 1.0, 1.2), cell(BOTH, 1e-3, 0.75, 1.0),
        cell(BOTH, 2e-3, math.inf, 0.5),
    ]  # fmt: skip
    best = best_of(cells)
    assert {name: found.rate for name, found in best.items()} == {BASELINE: 2e-3, BOTH: 1e-3}
    text = report(cells, options)
    assert "| Muon, linear | 0.8750 ± 1.5883 | 1 of 2 diverged |" in text
    # The differences of the two seeds are 0.25 and 0.2, whatever the seeds have in common.
    assert "| Muon, linear | 0.001 | 0.8750 ± 1.5883 | 0.2250 ± 0.3177 |" in text
    assert str(sample_store) not in text


def test_recipes_of_one_rate_differ_in_the_optimizer_alone(sample_store: Path) -> None:
    options = parse(["--data", str(sample_store)])
    assert options.rates == [2.5e-3, 5e-3, 1e-2]
    baseline, muon = (ladder_of(name, 5e-3, options) for name in (BASELINE, BOTH))
    changed = {key for key in muon.overrides if muon.overrides[key] != baseline.overrides.get(key)}
    assert changed == {"train.optimizer"}
    assert len({rung.folder for config in (baseline, muon) for rung in plan(config)}) == 6


@pytest.mark.deepspeed
def test_the_command_trains_resumes_and_reports(sample_store: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.training.recipes", "--data", str(sample_store), "--size", "0.03M"]
    command += ["--steps", "4", "--batch", "4", "--seeds", "0", "--rates", "8e-3", "--only", BASELINE, BOTH]
    command += ["--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "recipes.md")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    first = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=REPOSITORY)
    assert first.returncode == 0, first.stderr
    text = (tmp_path / "recipes.md").read_text()
    assert text.count("| AdamW, linear |") == text.count("| Muon, linear |") == 2
    again = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=REPOSITORY)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("already finished") == 2
