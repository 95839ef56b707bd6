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
from tests.helpers.zero_script import CASES

pytestmark = pytest.mark.deepspeed

ALL = [f"{variant}-{stage}-{world}" for world, cases in CASES.items() for stage, variant in cases]
REFERENCE = "fp32-0-1"


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


def assert_close(found, expected, tolerance):
    for name in expected:
        for one, other in zip(found[name], expected[name], strict=True):
            assert math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance), name


@pytest.mark.parametrize("case", ALL)
def test_first_weights_depend_on_the_seed_alone(results, case):
    for name, values in results[REFERENCE]["first"]["initial"].items():
        expected = torch.tensor(values)
        if not case.startswith("fp32"):
            expected = expected.bfloat16().float()
        assert torch.equal(torch.tensor(results[case]["first"]["initial"][name]), expected), name


@pytest.mark.parametrize("case", ALL)
def test_every_stage_and_world_trains_alike(results, case):
    # Losses, norms of gradients and weights; the heads take turns, so a stale gradient would show.
    tolerance = 1e-5 if case.startswith("fp32") else 3e-2
    first, reference = results[case]["first"], results[REFERENCE]["first"]
    assert first["steps"] == 5
    for found, expected in zip(first["losses"], reference["losses"], strict=True):
        assert found == pytest.approx(expected, rel=tolerance)
    if case.startswith("fp32"):
        assert_close(first["final"], reference["final"], 1e-5)


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
    tolerance = 1e-6 if case.startswith("fp32") else 3e-2
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
