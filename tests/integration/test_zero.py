"""A sharded model's state is the same whatever shards it: saved, restored and disturbed on 1, 2 and 4 real ranks."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.helpers.ranks import REPOSITORY, environment, free_port
from tests.helpers.zero_script import (
    AFTER,
    BEFORE,
    CASES,
    CLIP,
    IN_FP32,
    RATE,
    ROWS,
    WEIGHT_DECAY,
    Tracks,
    rows,
)

pytestmark = pytest.mark.deepspeed

ALL = [f"{variant}-{stage}-{world}" for world, cases in CASES.items() for stage, variant in cases]
# Muon lifts the smallest singular values of a gradient, and what rounding errors are in them.
TOLERANCE = {"fp32": 1e-5, "muon": 1e-4, "muon-kernels": 1e-4, "muon-bf16": 8e-2, "muon-offloaded": 8e-2}
REFERENCES = {"muon": "muon-0-1", "adamw": "fp32-0-1"}


def variant_of(case):
    return case.rsplit("-", 2)[0]


def is_fp32(case):
    return variant_of(case) in IN_FP32


def reference_of(results, case):
    return results[REFERENCES["muon" if case.startswith("muon") else "adamw"]]["first"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """All worlds at once, each rank started with the variables that any launcher sets."""
    folder = tmp_path_factory.mktemp("zero")
    processes = []
    for world in CASES:
        port = free_port()
        for rank in range(world):
            told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
            variables = {name: str(value) for name, value in told.items()}
            variables |= {"MASTER_ADDR": "127.0.0.1", "PYTHONPATH": str(REPOSITORY)}
            with (folder / f"output-{world}-{rank}").open("w") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", "tests.helpers.zero_script", str(folder)],
                    env=environment(world) | variables,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            processes.append((process, Path(output.name)))
    try:
        # One that failed leaves others waiting for it.
        while any(process.poll() is None for process, _ in processes):
            assert not any(process.poll() for process, _ in processes), said(processes)
            time.sleep(0.1)
        assert not any(process.poll() for process, _ in processes), said(processes)
    finally:
        for process, _ in processes:
            process.kill()
    found = {}
    for world in CASES:
        found |= json.loads((folder / f"results-{world}.json").read_text())
    return found


def said(processes):
    return "\n".join(path.read_text()[-3000:] for process, path in processes if process.poll())


# Added to all logits of a softmax, it changes nothing: its gradient is rounding errors, which AdamW magnifies.
WITHOUT_EFFECT = "layer.attention.pair_bias"


def assert_close(found, expected, tolerance):
    for name in expected.keys() - {WITHOUT_EFFECT}:
        for one, other in zip(found[name], expected[name], strict=True):
            assert math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance), name


@pytest.mark.parametrize("case", ALL)
def test_first_weights_depend_on_the_seed_alone(results, case):
    for name, values in reference_of(results, case)["initial"].items():
        expected = torch.tensor(values)
        if not is_fp32(case):
            expected = expected.bfloat16().float()
        assert torch.equal(torch.tensor(results[case]["first"]["initial"][name]), expected), name


@pytest.mark.parametrize("case", ALL)
def test_every_stage_and_world_trains_alike(results, case):
    # Losses, norms of gradients and weights; the heads take turns, so a stale gradient would show.
    tolerance = TOLERANCE.get(variant_of(case), 3e-2)
    first, reference = results[case]["first"], reference_of(results, case)
    assert first["steps"] == 5
    for found, expected in zip(first["losses"], reference["losses"], strict=True):
        assert found == pytest.approx(expected, rel=tolerance)
    if is_fp32(case):
        assert_close(first["final"], reference["final"], tolerance)


@pytest.mark.parametrize("case", [case for case in ALL if case.startswith("muon")])
def test_muon_moves_as_it_does_in_one_process_without_any_library(results, case):
    # Each matrix of a weight by itself; scaled to AdamW's size; the gradient clipped before, as a whole.
    first = results[case]["first"]
    expected, losses = dense_muon(first["initial"])
    for (loss, norm), (dense_loss, dense_norm) in zip(first["losses"], losses, strict=True):
        tolerance = TOLERANCE.get(variant_of(case), 3e-2)
        assert (loss, norm) == pytest.approx((dense_loss, dense_norm), rel=tolerance)
    for name in expected.keys() - {WITHOUT_EFFECT} if is_fp32(case) else ():
        assert error_of_movement(first, expected, [name]) < 1e-4, name
    assert error_of_movement(first, expected, CUTS) < (1e-4 if is_fp32(case) else 0.3)


def error_of_movement(first, expected, names):
    """Return how far weights came from where they should have come, over how far they should have moved."""
    start, found = (torch.cat([torch.tensor(first[when][name]) for name in names]) for when in ("initial", "final"))
    wanted = torch.cat([expected[name].flatten() for name in names])
    return (found - wanted).norm() / (wanted - start).norm()


def dense_muon(initial):
    """Return the weights after all steps, and each step's loss and norm of the gradient."""
    module = Tracks()
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.copy_(torch.tensor(initial[name]).view_as(weight))
    weights = dict(module.named_parameters())
    others = [weight for name, weight in weights.items() if name not in CUTS]
    adam = torch.optim.AdamW(others, lr=RATE, betas=(0.9, 0.99), weight_decay=WEIGHT_DECAY)
    momenta = {name: torch.zeros_like(weights[name]) for name in CUTS}
    told = []
    for step in range(BEFORE + AFTER):
        x_R5, y_R = rows(step)
        module.zero_grad()
        loss = module((x_R5, y_R, step % 2))["loss"] / ROWS
        loss.backward()
        for weight in weights.values():  # what a step does not use has a gradient of zero
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        norm = torch.nn.utils.clip_grad_norm_(weights.values(), CLIP).item()
        adam.step()
        with torch.no_grad():
            for name, cut in CUTS.items():
                weight, momentum = weights[name], momenta[name]
                momentum.copy_(0.95 * momentum + 0.05 * weight.grad)
                ahead = 0.05 * weight.grad + 0.95 * momentum
                weight.mul_(1 - RATE * WEIGHT_DECAY)
                for view, matrix in zip(cut(weight), cut(ahead), strict=True):
                    view -= RATE * 0.2 * max(matrix.shape) ** 0.5 * newton_schulz(matrix)
        told.append((loss.item(), norm))
    return {name: weight.detach() for name, weight in weights.items()}, told


def newton_schulz(matrix):
    """The iteration as published (kellerjordan.github.io/posts/muon), in double precision."""
    x = matrix.double() / matrix.double().norm()
    x = x.T if x.shape[0] > x.shape[1] else x
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.float() if x.shape == matrix.shape else x.T.float()


# Weight of ``Tracks`` → views of the matrices in it.
CUTS = {
    "layer.attention.qkv_weight": lambda w: w.split(6),
    "layer.attention.pair_weight": lambda w: [w],
    "layer.attention.out_weight": lambda w: [w],
    "layer.ffn.up_weight": lambda w: [w],
    "layer.ffn.down_weight": lambda w: [w],
    "layer.outer_product.project_weight": lambda w: w.split(3),
    # From the nine products of two nodes' channels to the five channels of a pair.
    "layer.outer_product.weight": lambda w: [w.view(9, 5).T],
    "layer.triangle.project_weight": lambda w: w.split(3),
    "layer.triangle.out_weight": lambda w: [w],
    "layer.triangle.gate_weight": lambda w: [w],
    "layer.pair_ffn.up_weight": lambda w: [w],
    "layer.pair_ffn.down_weight": lambda w: [w],
}


@pytest.mark.parametrize("case", ALL)
def test_restored_on_the_same_ranks_it_goes_on_bit_for_bit(results, case):
    first, again = results[case]["first"], results[case]["again"]
    assert again["exact"]
    assert again["gradients_can_be_given"]
    assert again["losses"] == first["losses"][2:]
    assert again["final"] == first["final"]
    assert again["steps"] == first["steps"]


@pytest.mark.parametrize("case", ALL)
def test_restored_on_other_ranks_and_another_stage_it_follows_the_same_losses(results, case):
    found = results[case]["from_other"]
    expected = results[found["source"]]["first"]
    assert found["exact"]
    tolerance = {"fp32": 1e-6}.get(variant_of(case), TOLERANCE.get(variant_of(case), 3e-2))
    for one, other in zip(found["losses"], expected["losses"][2:], strict=True):
        assert one == pytest.approx(other, rel=tolerance)


@pytest.mark.parametrize("case", ALL)
def test_a_gradient_that_is_not_finite_on_one_rank_moves_nothing_on_any(results, case):
    for run in ("again", "from_other"):
        assert results[case][run]["untouched"]
        assert not any(math.isfinite(float(norm)) for norm in results[case][run]["norms_when_spoilt"])


@pytest.mark.parametrize("case", ALL)
def test_the_mean_of_the_weights_is_computed_with_and_leaves_no_trace(results, case):
    first = results[case]["first"]
    assert first["mean_is_as_computed"]
    assert first["mean_left_no_trace"]
    assert first["averaged"] == pytest.approx(first["averaged_expected"], rel=1e-5)
    assert first["averaged"] != pytest.approx(first["plain"], rel=1e-4)


@pytest.mark.parametrize("case", ALL)
def test_a_parameter_that_a_step_does_not_use_gets_no_gradient(results, case):
    assert results[case]["first"]["unused_got_nothing"]
