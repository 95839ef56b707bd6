"""The whole system on a device that is not there: nothing mixes devices, and no step waits for it more often than said.

Two processes, because a made-up device and DeepSpeed's collectives are global to one.
"""

import json
import subprocess
import sys

import pytest
from torch.utils import backend_registration

from tests.helpers.ranks import REPOSITORY, environment

pytestmark = [
    pytest.mark.deepspeed,
    pytest.mark.skipif(
        not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
        reason="this torch cannot make up a device",
    ),
]

# Objective, ZeRO stage, precision, additional settings → how often the host waits for the device in a step of two
# micro-batches. Ours are four: the ranks' counts go to the device and come back, the losses and the gradient's norm
# come back. The others are DeepSpeed's: at stage 0 in bf16 one for each parameter, with offload one for each
# parameter or bucket; stage 3 checks with the other ranks when the objective of a mixture changes.
WAITS = {
    "denoise-0-bf16": 74,
    "denoise-0-fp32": 6,
    "denoise-1-bf16": 9,
    "denoise-1-fp32": 8,
    "denoise-2-bf16": 10,
    "denoise-2-fp32": 9,
    "denoise-3-bf16": 9,
    "denoise-3-fp32": 9,
    "noise-3-bf16": 9,
    "blend-3-bf16": 9,
    "distill-3-bf16": 9,
    "mixture-3-bf16": 17,
    "denoise-2-bf16-offload_optimizer": 39,
    "denoise-3-bf16-offload_param": 76,
    # Two groups of parameters instead of one, and not once for a matrix.
    "denoise-0-bf16-muon": 77,
    "denoise-3-bf16-muon": 10,
    "denoise-3-bf16-muon-offload_optimizer": 18,
    "blend-1-bf16-checkpoint_every": 9,
    "denoise-1-bf16-triton": 9,
    "denoise-3-bf16-triton": 9,
    "benchmark-trainer": 0,
    # Of a step of fine-tuning, of two micro-batches that are predicted, of one that is embedded, …
    "finetune-2d-fp32": 1,
    "finetune-3d-fp32": 1,
    "finetune-2d+3d-bf16": 1,
    "finetune-classes": 1,
    "finetune-noise-fp32": 1,
    "finetune-noise-bf16": 1,
    "predict": 2,
    "embed-molecule": 1,
    "embed-atom": 1,
    "embed-pair": 1,
    "embed-virtual-node": 1,
    "verify-fp32": 0,
    "verify-bf16": 0,
    "benchmark-embedding": 2,
    "benchmark-step-textbook-fp32": 4,
    "benchmark-step-ours-bf16": 1,
    "watch": 0,
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What became of every case: its waits, or its error."""
    folder = tmp_path_factory.mktemp("fake_device")
    processes = {}
    for name in ("engine", "downstream"):
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            f"tests.helpers.fake_device_{name}",
            str(folder),
        ]
        with (folder / f"{name}.txt").open("w") as output:
            processes[name] = subprocess.Popen(
                command,
                env=environment(1) | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
    found = {}
    for name, process in processes.items():
        assert process.wait() == 0, (folder / f"{name}.txt").read_text()[-5000:]
        found |= json.loads((folder / f"{name}.json").read_text())
    return found


def test_every_case_has_been_run(results):
    assert results.keys() == WAITS.keys()


@pytest.mark.parametrize("case", WAITS)
def test_nothing_mixes_devices(results, case):
    assert "error" not in results[case], results[case]["error"]


@pytest.mark.parametrize("case", WAITS)
def test_a_step_waits_for_the_device_no_more_often_than_said(results, case):
    waits = results[case].get("waits", {})
    assert sum(waits.values()) <= WAITS[case], "\n".join(f"{count} × {what}" for what, count in waits.items())
