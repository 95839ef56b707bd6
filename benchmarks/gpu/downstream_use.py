"""The stage for uses after pretraining: vectors of molecules and fine-tuning, through the users' commands."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.common import REPOSITORY
from benchmarks.gpu.stage import STORE, Findings, StageSettings

# Difference of fp32 vectors between the device and the CPU, relative to the largest.
VECTOR_TOLERANCE = 2e-4


def downstream(settings: StageSettings) -> Findings:
    """Embed the molecules of the store of the checkout, on the device and on the CPU; fine-tune on its labels."""
    findings = Findings()
    vectors = []
    for device in dict.fromkeys((settings.device.type, "cpu")):
        output = settings.folder / f"vectors-{device}.npz"
        findings.equal(
            f"exit status of embed, {device}", _run("embed", STORE, "--device", device, "--output", output), 0
        )
        vectors.append(_vectors(output))
    error = np.abs(vectors[0] - vectors[-1]).max() / np.abs(vectors[-1]).max()
    findings.at_most("vectors off those of the CPU by", float(error), VECTOR_TOLERANCE)
    status = _run(
        "finetune", "--data", STORE, "--target", "logP", "--device", settings.device.type, "--split", "random",
        "--output", settings.folder / "finetuned", "train.epochs=2", "train.batch_size=8",
    )  # fmt: skip
    findings.equal("exit status of finetune", status, 0)
    return findings


def _run(*arguments: object) -> int:
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run([sys.executable, "-m", "unimol_scale.cli", *map(str, arguments)], env=environment).returncode


def _vectors(path: Path) -> np.ndarray:
    with np.load(path) as file:
        return max((file[name] for name in file.files), key=lambda array: array.ndim * array.size)
