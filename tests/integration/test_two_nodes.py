"""Two torchrun agents on one machine, as two nodes of one rank each, against one process alone."""

import subprocess
import sys

import pytest

from tests.helpers import ranks as launched

pytestmark = pytest.mark.deepspeed
SETTINGS = [
    "--size",
    "0.03M",
    "train.precision=fp32",
    "train.steps=3",
    "train.warmup_steps=1",
    "train.learning_rate=1e-3",
    "train.global_batch_size=8",
    "train.log_every=1",
    "train.validate_every=3",
    "train.checkpoint_every=3",
    "data.validation_molecules=16",
    "data.workers=0",
]


def test_two_nodes_follow_the_losses_of_one_process(sample_store, tmp_path):
    arguments = [*SETTINGS, "--data", sample_store]
    port = launched.free_port()
    nodes = []
    for node in range(2):
        command = [
            sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node_rank", node,
            "--nproc_per_node", "1", "--master_addr", "127.0.0.1", "--master_port", port,
            launched.REPOSITORY / "launch" / "pretrain.py", *arguments, "--output", tmp_path / "nodes",
        ]  # fmt: skip
        nodes.append(
            subprocess.Popen(
                list(map(str, command)),
                env={k: v for k, v in launched.environment().items() if k != "LOCAL_SIZE"},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
    try:
        outputs = [node.communicate(timeout=240)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(outputs)

    alone = launched.pretrain(*arguments, "--output", tmp_path / "alone")
    assert alone.returncode == 0, alone.stdout
    for key in ("loss", "valid/loss", "grad_norm"):
        one, two = (launched.losses(tmp_path / run, key) for run in ("alone", "nodes"))
        assert two == pytest.approx(one, rel=1e-4)
        assert one
