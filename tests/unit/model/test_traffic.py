"""Kernels and memory traffic of a micro-batch, counted on the built model with meta tensors, which hold no numbers."""

import pytest

from benchmarks.gpu.kernel_counts import count_kernels
from benchmarks.gpu.launches import counts_of, report
from unimol_scale.model.fused import launching
from unimol_scale.model.fused.gpu_work import MAX_CHANNELS, MAX_NODES, is_fused, training_work
from unimol_scale.model.presets import preset

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("size", "molecules", "atoms", "changes"),
    [
        ("84M", 296, 25, {"layers": 2}),
        ("84M", 4, 60, {"layers": 2}),
        ("84M", 16, 12, {"layers": 2, "checkpoint_every": 1}),
        ("310M", 64, 25, {"layers": 2}),
        ("1.1B", 64, 25, {"layers": 2}),
        ("4M", 64, 25, {}),
    ],
)
def test_the_planner_knows_the_kernels_and_bytes_of_the_built_model(size, molecules, atoms, changes, fused):
    config = preset(size, **changes)
    count = count_kernels(config, molecules, atoms, fused=fused)
    products = sum(count.bytes_of[name] for name in PRODUCTS)
    work = training_work(config, molecules, atoms, 2, fused=fused)
    assert work.kernels == count.kernels
    assert work.product_bytes == pytest.approx(products, rel=0.08)
    assert work.other_bytes == pytest.approx(count.bytes - products, rel=0.08)
    assert (count.triton > 0) == fused


@pytest.mark.parametrize(("size", "kernels"), [("84M", 846), ("310M", 2106), ("1.1B", 4122)])
def test_the_plan_starts_as_many_kernels_as_the_table(size, kernels):
    assert int(counts_of(size, 4, 5, fused=True).cells()[0].replace(",", "")) == kernels
    assert training_work(preset(size), 4, 5, 2, fused=True).kernels == kernels


def test_which_path_computes_is_decided_as_in_the_model():
    assert (MAX_NODES, MAX_CHANNELS) == (launching.MAX_NODES, launching.MAX_CHANNELS)
    config = preset("84M")
    assert is_fused(config, 63, "bf16")
    assert not is_fused(config, 64, "bf16")
    assert not is_fused(config, 25, "fp32")


def test_triton_kernels_start_less_than_half_as_often_and_move_fewer_bytes():
    plain, fused = (
        [count_kernels(preset("84M", layers=layers), 64, 25, fused=on) for layers in (1, 2)] for on in (False, True)
    )
    kernels = [two.kernels - one.kernels for one, two in (plain, fused)]
    moved = [two.bytes - one.bytes for one, two in (plain, fused)]
    assert kernels[1] < 0.35 * kernels[0]
    assert moved[1] < 0.56 * moved[0]
    assert fused[0].kernels < 180
    assert fused[1].triton - fused[0].triton > 30


def test_the_table_has_a_row_a_size_and_says_that_nothing_was_measured():
    text = report(["0.03M"], 4, 5)
    assert text.count("| 0.03M |") == 2
    assert "| gate_kernels.gated_branch | 0 | 1 |" in text
    assert "never measured" in text
