"""The Triton kernels, run by Triton's interpreter on the CPU, against autograd in fp64: values and every gradient.

What they drop is drawn by the place of a value: the tests ask the kernels which factors they drew, and give autograd
those.
"""

import copy
import dataclasses
import math
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from tests.helpers.molecules import random_columns
from tests.helpers.random_keys import keys
from tests.helpers.ranks import REPOSITORY
from unimol_scale.data import vocabulary
from unimol_scale.data.batch import collate
from unimol_scale.model.backbone import TwoTrackBackbone
from unimol_scale.model.fused import launching
from unimol_scale.model.fused.dropping import NOTHING, Dropping, NodeDroppings
from unimol_scale.model.native.library import torch_only
from unimol_scale.model.presets import DROPOUTS, preset
from unimol_scale.objectives.base import total_loss
from unimol_scale.objectives.denoise import (
    DenoiseConfig,
    DenoiseObjective,
    coordinate_loss,
    distance_loss,
    geometry_losses,
)

pytest.importorskip("triton", reason="comes with torch's builds for GPUs, and with the extra dev")
EPSILON = 1e-5
# Largest error, as a share of a tensor's norm; bf16 has eight bits, and a branch rounds some ten times.
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 3e-2}
DTYPES = list(TOLERANCE)


@pytest.fixture(scope="module")
def branches():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        launching.interprets.cache_clear()
        from unimol_scale.model.fused import node_branches

        assert launching.interprets()
        yield node_branches


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def seed():
    return torch.tensor([1234567], dtype=torch.int64)


def random(*shape, gain=1.0):
    return (gain * torch.randn(*shape)).requires_grad_()


def assert_same_function(fused, reference, arguments, dtype, of_y=None):
    """Equal values and gradients: kernels in ``dtype``, autograd in fp64 on the same rounded numbers."""
    rounded = [x.detach().to(dtype) for x in arguments]
    results = []
    for function, kind in ((reference, torch.float64), (fused, dtype)):
        inputs = [x.to(kind).requires_grad_(a.requires_grad) for x, a in zip(rounded, arguments, strict=True)]
        y = function(*inputs)
        outputs = y if isinstance(y, tuple) else (y,)
        if not results:
            directions = [torch.randn(output.shape) for output in outputs]
        wanted = [x for x in inputs if x.requires_grad]
        given = [direction.to(dtype).to(output.dtype) for direction, output in zip(directions, outputs, strict=True)]
        results.append([*outputs, *torch.autograd.grad(outputs, wanted, given)])
    assert "Fused" in type(results[1][0].grad_fn).__name__
    for at, (expected, found) in enumerate(zip(*results, strict=True)):
        assert found.dtype == (of_y or dtype if at == 0 else dtype)
        error = (found.double() - expected).norm().item()
        assert error < TOLERANCE[dtype] * max(expected.norm().item(), 0.1), f"tensor {at}"


def branch_factor(dropping, shape):
    """The factors of dropout that a branch of this shape gets."""
    from unimol_scale.model.fused.branch_steps import add_branch

    rows = math.prod(shape[:-1])
    ones = torch.ones(rows, shape[-1])
    found = add_branch(torch.zeros_like(ones), ones, dropping, molecule=rows // shape[0])
    return found.view(shape).double()


def gelu_factor(dropping, rows, width):
    from unimol_scale.model.fused.branch_steps import gelu

    return gelu(torch.full((rows, width), 100.0), dropping).double() / 100.0


def norm(x, weight, bias):
    return F.layer_norm(x, x.shape[-1:], weight, bias, EPSILON)


FEED_FORWARD = [((2, 5, 5, 24), 20, 0.0), ((3, 1, 40), 24, 0.3), ((2, 3, 3, 12), 33, 0.3)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "H", "rate"), FEED_FORWARD)
def test_feed_forward(branches, shape, H, rate, dtype):
    W = shape[-1]
    dropping = Dropping(rate=rate, path=rate, seed=seed(), stream=32) if rate else NOTHING
    inner = dropping.inside(rate)
    factor, hidden_factor = branch_factor(dropping, shape), gelu_factor(inner, math.prod(shape[:-1]), H)

    def reference(x, norm_weight, norm_bias, up, up_bias, down, down_bias):
        active = F.gelu(norm(x, norm_weight, norm_bias) @ up.t() + up_bias) * hidden_factor.view(*shape[:-1], H)
        return x + factor * (active @ down.t() + down_bias)

    arguments = (random(*shape), random(W), random(W), random(H, W, gain=W**-0.5), random(H), random(W, H), random(W))
    from unimol_scale.model.fused.feed_forward_branch import FusedFeedForwardFunction

    apply = FusedFeedForwardFunction.apply
    assert_same_function(lambda x, *w: apply(x, dropping, inner, *w), reference, arguments, dtype)


NODES = [(7, 3, 8, 12, 8, 20, 0.0), (1, 2, 16, 8, 3, 33, 0.0), (9, 2, 16, 10, 5, 24, 0.3)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("N", "H", "d", "P", "h", "width", "rate"), NODES)
def test_branches_of_nodes(branches, N, H, d, P, h, width, rate, dtype):
    B, D, epsilon = 2, H * d, 1e-3
    count = torch.tensor([float(N), (N + 1) // 2])
    valid = (torch.arange(N) < count[:, None]).unsqueeze(-1)
    key_mask = torch.zeros(B, 1, N).masked_fill(~valid.transpose(1, 2), -math.inf)
    of_batch = Dropping(seed=seed()) if rate else NOTHING
    first, second, third = (of_batch.of_branch(1, branch, rate, rate) for branch in range(3))
    droppings = NodeDroppings(
        attention=first, attention_weights=first.inside(rate),
        feed_forward=second, activation=second.inside(rate), outer_product=third,
    )  # fmt: skip
    factors = [branch_factor(dropping, (B, N, D)) for dropping in (first, second)]
    weight_factor = attention_factor(branches, droppings.attention_weights, B, N, H, d)
    hidden_factor = gelu_factor(droppings.activation, B * N, width).view(B, N, width)
    pair_factor = branch_factor(third, (B, N, N, P))
    count_B111 = count.double().view(B, 1, 1, 1)
    undo = 1.0 / (epsilon + 1.0 / count_B111)

    def attended(atom, pair, norm_weight, norm_bias, qkv_weight, pair_weight, pair_bias, out, out_bias):
        qkv = (norm(atom, norm_weight, norm_bias) @ qkv_weight.t()).view(B, N, 3, H, d).permute(2, 0, 3, 1, 4)
        bias = (pair @ pair_weight.t() + pair_bias).permute(0, 3, 1, 2)
        logits = qkv[0] @ qkv[1].transpose(2, 3) * d**-0.5 + bias + key_mask.double().unsqueeze(1)
        mixed = (weight_factor * logits.softmax(-1)) @ qkv[2]
        return atom + factors[0] * (mixed.transpose(1, 2).reshape(B, N, D) @ out.t() + out_bias)

    def fed_forward(x, norm_weight, norm_bias, up, up_bias, down, down_bias):
        active = F.gelu(norm(x, norm_weight, norm_bias) @ up.t() + up_bias) * hidden_factor
        return x + factors[1] * (active @ down.t() + down_bias)

    def multiplied(pair, atom, norm_weight, norm_bias, project, project_bias, weight, bias):
        a, b = ((norm(atom, norm_weight, norm_bias) @ project.t() + project_bias) * valid).chunk(2, -1)
        z = torch.einsum("bic,bjd,cdp->bijp", a, b, weight.view(h, h, P))
        return pair + pair_factor * (z * undo / count_B111 + bias * undo)

    def reference(atom, pair, *weights):
        atom = fed_forward(attended(atom, pair, *weights[:7]), *weights[7:13])
        return atom, multiplied(pair, atom, *weights[13:])

    arguments = (
        random(B, N, D), random(B, N, N, P),
        random(D), random(D), random(3 * D, D, gain=D**-0.5), random(H, P, gain=0.3), random(H),
        random(D, D, gain=D**-0.5), random(D),
        random(D), random(D), random(width, D, gain=D**-0.5), random(width), random(D, width), random(D),
        random(D), random(D), random(2 * h, D, gain=D**-0.5), random(2 * h), random(h, h * P), random(P),
    )  # fmt: skip

    def fused(atom, pair, *weights):
        known = (key_mask.to(atom.dtype), count, valid.to(atom.dtype))
        return branches.FusedNodesFunction.apply(atom, pair, *known, droppings, *weights)

    assert_same_function(fused, reference, arguments, dtype)


def attention_factor(branches, inner, B, N, H, d):
    """The factors of attention's dropout [B, H, N, N]: equal weights, and values that say which node they are of."""
    if inner.seed is None:
        return torch.ones(())
    qkv, mixed = torch.zeros(B, N, 3, H, d), torch.empty(B, N, H * d)
    qkv[:, range(N), 2, :, range(N)] = 1.0
    tensors = (qkv, torch.zeros(B * N * N, H), torch.zeros(B, N), mixed)
    branches.launch_attention("attention_kernels.attention", (B, N, H * d), H, inner, *tensors)
    return (mixed.view(B, N, H, d)[..., :N] * N).permute(0, 2, 1, 3).double()


def triangle_factor(dropping, shape):
    """The factors of dropout that a triangle update of this shape gets: of an update of ones behind a gate of ones."""
    from unimol_scale.model.fused.triangle_branch import Gated, gated_branch

    (B, N, _, P), R = shape, math.prod(shape[:-1])
    gated = Gated(
        gate=torch.zeros(R, P), product_BhX=torch.zeros(B, 1, N * N), mean=torch.zeros(R), rstd=torch.ones(R),
        gate_bias=torch.ones(P), inner=(torch.ones(1), torch.zeros(1), torch.zeros(P, 1), torch.ones(P)),
        dropping=dropping, N=N,
    )  # fmt: skip
    return gated_branch(torch.zeros(R, P), gated).view(shape).double()


# A norm of few channels is a sign rather than a number: it doubles what rounding does.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("N", "P", "h", "rate"), [(5, 24, 12, 0.0), (1, 8, 3, 0.0), (17, 20, 9, 0.3)])
def test_triangle(branches, N, P, h, rate, dtype):
    B = 2
    scale = torch.full((B, 1, N, N), N**-0.5)
    scale[1, :, (N + 1) // 2 :] = 0.0
    scale[1, ..., (N + 1) // 2 :] = 0.0
    dropping = Dropping(rate=rate, path=rate, seed=seed(), stream=96) if rate else NOTHING
    factor = triangle_factor(dropping, (B, N, N, P))

    def reference(x, norm_weight, norm_bias, project, project_bias, inner_w, inner_b, out, out_bias, gate, gate_bias):
        normal = norm(x, norm_weight, norm_bias)
        value, open_ = (normal @ project.t() + project_bias).chunk(2, -1)
        a, b = (value * open_.sigmoid() * scale.to(x.dtype).squeeze(1).unsqueeze(-1)).chunk(2, -1)
        product = torch.einsum("bikc,bjkc->bijc", a, b) + torch.einsum("bkic,bkjc->bijc", a, b)
        return x + factor * (norm(product, inner_w, inner_b) @ out.t() + out_bias) * (normal @ gate.t() + gate_bias)

    arguments = (
        random(B, N, N, P), random(P), random(P), random(4 * h, P, gain=P**-0.5), random(4 * h), random(h), random(h),
        random(P, h), random(P), random(P, P, gain=P**-0.5), random(P),
    )  # fmt: skip
    from unimol_scale.model.fused.triangle_branch import FusedTriangleFunction

    apply = FusedTriangleFunction.apply
    assert_same_function(lambda x, *w: apply(x, scale.to(x.dtype), dropping, *w), reference, arguments, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("N", "H", "d", "P", "rate"), [(7, 3, 8, 12, 0.0), (2, 2, 16, 8, 0.0), (9, 2, 16, 10, 0.3)])
def test_coordinate_head(branches, N, H, d, P, rate, dtype):
    from unimol_scale.model.fused.fused_head import FusedCoordinateHeadFunction

    B, D = 2, H * d
    valid = torch.ones(B, N, dtype=torch.bool)
    valid[1, 2:] = False
    coordinates = torch.randn(B, N - 1, 3)
    inner = Dropping(rate=rate, seed=seed()) if rate else NOTHING
    weight_factor = attention_factor(branches, inner, B, N, H, d)
    weight_factor = weight_factor[..., 1:, 1:] if rate else weight_factor

    def reference(atom, pair, norm_weight, norm_bias, qkv_weight, pair_weight, pair_bias, pair_norm, pair_shift, force):
        qkv = norm(atom[:, 1:], norm_weight, norm_bias) @ qkv_weight.t()
        q, k, v = qkv.view(B, N - 1, 3, H, d).permute(2, 0, 3, 1, 4)
        bias = (norm(pair[:, 1:, 1:], pair_norm, pair_shift) @ pair_weight.t() + pair_bias).permute(0, 3, 1, 2)
        logits = (q @ k.transpose(2, 3) * d**-0.5 + bias).masked_fill(~valid[:, None, None, 1:], -math.inf)
        total = (weight_factor * logits.softmax(-1) * (v * force.view(H, 1, d)).sum(-1).unsqueeze(2)).sum(1)
        r = coordinates.to(atom.dtype)
        return r + total @ r - r * total.sum(-1, keepdim=True)

    def fused(atom, pair, *weights):
        return FusedCoordinateHeadFunction.apply(atom, pair, valid, coordinates, inner, *weights)

    arguments = (
        random(B, N, D), random(B, N, N, P), random(D), random(D), random(3 * D, D, gain=D**-0.5),
        random(H, P, gain=0.3), random(H), random(P), random(P), random(D),
    )  # fmt: skip
    assert_same_function(fused, reference, arguments, dtype, of_y=torch.float32)


@pytest.mark.parametrize(("N", "counts"), [(7, (7, 1, 4)), (1, (1, 1)), (7, (7, 1, 0))])
def test_losses_of_coordinates(branches, N, counts):
    predicted, clean = random(len(counts), N, 3), torch.randn(len(counts), N, 3)
    valid = torch.arange(N) < torch.tensor(counts)[:, None]
    if N > 1:  # two atoms in one place, a coordinate that is right
        predicted.data[0, 1] = predicted.data[0, 0]
        clean[0, 2, 1] = predicted.data[0, 2, 1]

    def losses(x):
        return geometry_losses(x, clean.to(x.dtype), valid)

    def reference(x):
        return coordinate_loss(x, clean.to(x.dtype), valid), distance_loss(x.float(), clean, valid).to(x.dtype)

    with launching.kernels_switched(True):
        assert_same_function(losses, reference, (predicted,), torch.float32)


SIZE = preset("0.03M", layers=2)


def model_and_input(num_atoms=(4, 1, 6), **changes):
    torch.manual_seed(0)
    model = TwoTrackBackbone(dataclasses.replace(SIZE, **changes)).train()
    for parameter in model.parameters():  # biases and gates that matter
        parameter.data += 0.1 * torch.randn_like(parameter)
    batch = collate(random_columns(list(num_atoms)))
    return model, DenoiseObjective(DenoiseConfig()).corrupt(batch, keys(range(len(num_atoms)))).input


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_atoms", [(4, 1, 6, 3), (1, 1)])
@pytest.mark.parametrize("track", ["atom_encoding", "pair_encoding"])
def test_encodings(branches, track, num_atoms, dtype):
    model, batch = model_and_input(num_atoms)
    hidden_B = torch.arange(len(num_atoms)) == 1
    features = batch.atom_features_BA8.clone()
    features[0, 0, 2] = vocabulary.RAW_HIDDEN
    batch = dataclasses.replace(batch, hidden_B=hidden_B, atom_features_BA8=features)
    encoding, results = getattr(model, track).to(dtype), []
    direction = torch.randn(encoding(batch).shape).to(dtype)
    for on, kind in ((False, torch.float64), (True, dtype)):
        made = copy.deepcopy(encoding).to(kind)
        with torch_only(), launching.kernels_switched(on):
            y = made(batch)
        assert ("Fused" in type(y.grad_fn).__name__) == on
        gradients = torch.autograd.grad(y, list(made.parameters()), direction.to(kind))
        results.append([y, *gradients])
    for name, expected, found in zip(["y", *(name for name, _ in encoding.named_parameters())], *results, strict=True):
        assert found.dtype == dtype
        assert found.shape == expected.shape
        error = (found.double() - expected).norm().item()
        assert error < TOLERANCE[dtype] * max(expected.norm().item(), 0.1), name


def results_of(model, batch):
    """Representations of what is no padding, and gradients of a function of them."""
    torch.manual_seed(1)
    seen = model(batch)
    valid_BNN = seen.valid_BN[:, :, None] & seen.valid_BN[:, None, :]
    found = [seen.atom_BND[seen.valid_BN], seen.pair_BNNP[valid_BNN]]
    gradients = torch.autograd.grad(sum(x.square().mean() for x in found), list(model.parameters()), allow_unused=True)
    return [*found, *(gradient for gradient in gradients if gradient is not None)]


def test_a_whole_model_of_molecules_of_several_sizes(branches):
    model, batch = model_and_input((4, 1, 2))
    with torch_only():
        expected = results_of(model, batch)
        started = []
        with launching.kernels_switched(True), launching.launches_seen_by(lambda name, *_: started.append(name)):
            found = results_of(model, batch)
    assert len(started) > 40
    assert len(found) == len(expected)
    for wanted, value in zip(expected, found, strict=True):
        assert (value - wanted).norm() < 1e-4 * wanted.norm() + 1e-6


def test_the_denoising_losses_of_a_whole_model_and_their_gradients(branches):
    objective = DenoiseObjective(DenoiseConfig())
    sample = objective.corrupt(collate(random_columns([4, 1, 3])), keys(range(3)))
    torch.manual_seed(0)
    model = objective.build_model(dataclasses.replace(SIZE, layers=1)).train()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    results = []
    for on in (False, True):
        with torch_only(), launching.kernels_switched(on):
            sums = model(sample)
            loss = total_loss(sums, sample.counts, objective.weights)
            gradients = torch.autograd.grad(loss, list(model.parameters()))
        results.append([torch.stack([*sums.values()]), *gradients])
    largest = max(gradient.norm() for gradient in results[0][1:])
    for expected, found in zip(*results, strict=True):
        assert (found - expected).norm() < 1e-4 * expected.norm() + 1e-6 * largest


def test_layers_that_are_computed_twice_drop_the_same_both_times(branches):
    changes = {"layers": 1, **dict.fromkeys(DROPOUTS, 0.3)}
    with launching.kernels_switched(True):
        kept = results_of(*model_and_input((2, 1), **changes))
        recomputed = results_of(*model_and_input((2, 1), **changes, checkpoint_every=1))
    for expected, value in zip(kept, recomputed, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)


def test_draws_have_their_probability_and_differ_by_place_layer_and_branch(branches):
    shape, rate = (4, 64, 128), 0.25
    of_batch = Dropping(seed=seed())
    factors = [
        branch_factor(of_batch.of_branch(layer, branch, rate, 0.0), shape) for layer in (0, 1) for branch in (0, 4)
    ]
    for factor in factors:
        assert factor.unique().tolist() == pytest.approx([0.0, 1 / (1 - rate)])
        assert (factor == 0).double().mean().item() == pytest.approx(rate, abs=0.01)
        assert (factor == 0).double().mean((0, 1)).std() < 0.05  # of every channel
    for first in range(4):
        for second in range(first):
            both = ((factors[first] == 0) & (factors[second] == 0)).double().mean().item()
            assert both == pytest.approx(rate**2, abs=0.01)
    shared = triangle_factor(of_batch.of_branch(0, 3, rate, 0.0), (4, 8, 8, 128))
    assert (shared == shared[:, :, :1]).all()
    left_out = branch_factor(of_batch.of_branch(0, 0, 0.0, 0.5), (64, 2, 16)).flatten(1)
    assert (left_out == left_out[:, :1]).all()
    assert (left_out[:, 0] == 0).double().mean().item() == pytest.approx(0.5, abs=0.2)


def test_kernels_are_for_gpus_and_molecules_of_a_usual_size():
    atom_BND, pair_BNNP = torch.zeros(2, 3, 16), torch.zeros(2, 3, 3, 8)
    assert not launching.suits(pair_BNNP, atom_BND)
    with launching.kernels_switched(True):
        assert launching.suits(pair_BNNP, atom_BND)
        assert not launching.suits(pair_BNNP, atom_BND.double())
        assert not launching.suits(pair_BNNP.bfloat16(), atom_BND)
        many = launching.MAX_NODES + 1
        assert not launching.suits(torch.zeros(1, many, many, 1), torch.zeros(1, many, 1))
        meta = torch.empty(2**20, 30, 30, 512, device="meta"), torch.empty(2**20, 30, 768, device="meta")
        assert not launching.suits(*meta)


def test_every_kernel_compiles_for_a_gpu_that_is_not_there():
    # What the interpreter does not see: types, shapes known at compile time, registers that do not suffice.
    command = [sys.executable, "-m", "benchmarks.gpu.compile_kernels", "--atoms", "25", "--precision", "bf16"]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    paths = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command, env={**environment, "PYTHONPATH": paths}, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if "_kernels." in line]
    assert {spilled for *_, spilled in rows} == {"0"}
    listed = {name for name, *_ in rows}
    assert len(listed) == 34
    for name in listed:
        assert callable(launching.kernel_named(name))
