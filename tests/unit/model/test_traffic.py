"""Kernels and memory traffic of a micro-batch, counted on the built model with meta tensors, which hold no numbers."""

import pytest

from benchmarks.gpu.kernel_counts import count_kernels
from benchmarks.gpu.launches import report
from unimol_scale.model.accounting import training_kernels, training_traffic_bytes
from unimol_scale.model.presets import preset


@pytest.mark.parametrize(
    ("size", "molecules", "atoms", "changes"),
    [
        ("84M", 16, 25, {"layers": 1}),
        ("84M", 16, 25, {"layers": 4}),
        ("84M", 4, 60, {"layers": 2}),
        ("84M", 16, 12, {"layers": 2, "checkpoint_every": 1}),
        ("1.1B", 16, 25, {"layers": 2}),
        ("4M", 16, 25, {}),
    ],
)
def test_the_formulas_say_what_the_built_model_does(size, molecules, atoms, changes):
    config = preset(size, **changes)
    count = count_kernels(config, molecules, atoms, fused=False)
    assert count.triton == 0
    assert training_kernels(config) == pytest.approx(count.kernels, rel=0.25)
    assert training_traffic_bytes(config, molecules, atoms, 2) == pytest.approx(count.bytes, rel=0.25)


def test_triton_kernels_start_less_than_half_as_often_and_move_fewer_bytes():
    plain, fused = (
        [count_kernels(preset("84M", layers=layers), 64, 25, fused=on) for layers in (1, 2)] for on in (False, True)
    )
    kernels = [two.kernels - one.kernels for one, two in (plain, fused)]
    moved = [two.bytes - one.bytes for one, two in (plain, fused)]
    assert kernels[1] < 0.40 * kernels[0]
    assert moved[1] < 0.56 * moved[0]
    assert fused[0].kernels < 180
    assert fused[1].triton - fused[0].triton > 30


def test_the_table_has_a_row_a_size_and_says_that_nothing_was_measured():
    text = report(["0.03M"], 4, 5)
    assert text.count("| 0.03M |") == 2
    assert "| gate_kernels.gated_branch | 0 | 1 |" in text
    assert "never measured" in text
