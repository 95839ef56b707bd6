"""The planner's memory of a micro-batch, against what a fresh process really takes."""

import subprocess
import sys
from pathlib import Path

import pytest

from unimol_scale.model.accounting import activation_bytes
from unimol_scale.model.presets import DROPOUTS, preset
from unimol_scale.objectives.config import ObjectiveConfig, build_objective

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak can be measured on Linux only")
@pytest.mark.parametrize(
    ("size", "layers", "atoms", "molecules", "every", "dtype", "dropout", "objective"),
    [
        ("84M", 2, 32, 8, 0, "fp32", 0.0, "denoise"),
        ("84M", 4, 32, 4, 1, "fp32", 0.0, "denoise"),
        ("84M", 2, 32, 8, 0, "bf16", 0.0, "denoise"),
        ("84M", 2, 32, 4, 0, "bf16", 0.1, "denoise"),
        ("0.2M", 3, 32, 32, 0, "fp32", 0.0, "blend"),
    ],
)
def test_estimated_activations_are_within_fifteen_percent(
    size, layers, atoms, molecules, every, dtype, dropout, objective
):
    probe = [sys.executable, "-m", "tests.helpers.memory_probe"]
    case = map(str, (size, layers, atoms, molecules, every, dtype, dropout, objective))
    done = subprocess.run([*probe, *case], check=True, capture_output=True, text=True, timeout=120, cwd=REPOSITORY)
    drops = dict.fromkeys(DROPOUTS, dropout)
    config = preset(size, layers=layers, checkpoint_every=every, **drops)
    heads = build_objective(ObjectiveConfig(name=objective), config).heads
    estimate = activation_bytes(config, molecules, atoms, 2 if dtype == "bf16" else 4, heads=heads)
    assert estimate == pytest.approx(int(done.stdout.split()[-1]), rel=0.15)
