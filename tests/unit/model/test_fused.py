"""The Triton kernels, run by Triton's interpreter on the CPU, against autograd in fp64: values and every gradient.

What they drop is drawn by the place of a value: the tests ask the kernels which factors they drew, and give autograd
those.
"""

import math

import pytest
import torch
import torch.nn.functional as F

from unimol_scale.model.fused import launching
from unimol_scale.model.fused.dropping import NOTHING, Dropping

pytest.importorskip("triton", reason="comes with torch's builds for GPUs, and with the extra dev")
EPSILON = 1e-5
# Largest error, as a share of a tensor's norm; bf16 has eight bits, and a branch rounds some ten times.
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 2e-2}
DTYPES = list(TOLERANCE)


@pytest.fixture(scope="module")
def branches():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        launching.interprets.cache_clear()
        from unimol_scale.model.fused import fused_branches

        assert launching.interprets()
        yield fused_branches


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def seed():
    return torch.tensor([1234567], dtype=torch.int64)


def random(*shape, gain=1.0):
    return (gain * torch.randn(*shape)).requires_grad_()


def assert_same_function(fused, reference, arguments, dtype):
    """Equal values and gradients: kernels in ``dtype``, autograd in fp64 on the same rounded numbers."""
    rounded = [x.detach().to(dtype) for x in arguments]
    results = []
    for function, kind in ((reference, torch.float64), (fused, dtype)):
        inputs = [x.to(kind).requires_grad_(a.requires_grad) for x, a in zip(rounded, arguments, strict=True)]
        y = function(*inputs)
        if not results:
            direction = torch.randn(y.shape)
        wanted = [x for x in inputs if x.requires_grad]
        results.append([y, *torch.autograd.grad(y, wanted, direction.to(dtype).to(kind))])
    assert "Fused" in type(results[1][0].grad_fn).__name__
    for at, (expected, found) in enumerate(zip(*results, strict=True)):
        assert found.dtype == dtype
        error = (found.double() - expected).norm().item()
        assert error < TOLERANCE[dtype] * max(expected.norm().item(), 0.1), f"tensor {at}"


def branch_factor(dropping, shape, sharing=1):
    """The factors of dropout that a branch of this shape gets."""
    from unimol_scale.model.fused.branch_steps import add_branch

    rows = math.prod(shape[:-1])
    ones = torch.ones(rows, shape[-1])
    found = add_branch(torch.zeros_like(ones), ones, dropping, molecule=rows // shape[0], sharing=sharing)
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
    inner = dropping.on_stream(2, rate)
    factor, hidden_factor = branch_factor(dropping, shape), gelu_factor(inner, math.prod(shape[:-1]), H)

    def reference(x, norm_weight, norm_bias, up, up_bias, down, down_bias):
        active = F.gelu(norm(x, norm_weight, norm_bias) @ up.t() + up_bias) * hidden_factor.view(*shape[:-1], H)
        return x + factor * (active @ down.t() + down_bias)

    arguments = (random(*shape), random(W), random(W), random(H, W, gain=W**-0.5), random(H), random(W, H), random(W))
    apply = branches.FusedFeedForwardFunction.apply
    assert_same_function(lambda x, *w: apply(x, dropping, inner, *w), reference, arguments, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("N", "H", "d", "P", "rate"), [(7, 3, 8, 12, 0.0), (1, 2, 16, 8, 0.0), (9, 2, 16, 10, 0.3)])
def test_attention(branches, N, H, d, P, rate, dtype):
    B, D = 2, H * d
    key_mask = torch.zeros(B, 1, N)
    key_mask[1, :, (N + 2) // 2 :] = -math.inf
    dropping = Dropping(rate=rate, seed=seed(), stream=32) if rate else NOTHING
    inner = dropping.on_stream(2, rate)
    factor, weight_factor = branch_factor(dropping, (B, N, D)), attention_factor(branches, inner, B, N, H, d)

    def reference(atom, pair, norm_weight, norm_bias, qkv_weight, pair_weight, pair_bias, out, out_bias):
        qkv = (norm(atom, norm_weight, norm_bias) @ qkv_weight.t()).view(B, N, 3, H, d).permute(2, 0, 3, 1, 4)
        bias = (pair @ pair_weight.t() + pair_bias).permute(0, 3, 1, 2)
        logits = qkv[0] @ qkv[1].transpose(2, 3) * d**-0.5 + bias + key_mask.double().unsqueeze(1)
        mixed = (weight_factor * logits.softmax(-1)) @ qkv[2]
        return atom + factor * (mixed.transpose(1, 2).reshape(B, N, D) @ out.t() + out_bias)

    arguments = (
        random(B, N, D), random(B, N, N, P), random(D), random(D), random(3 * D, D, gain=D**-0.5), random(H, P, gain=0.3),
        random(H), random(D, D, gain=D**-0.5), random(D),
    )  # fmt: skip
    apply = branches.FusedAttentionFunction.apply
    fused = lambda atom, pair, *w: apply(atom, pair, key_mask.to(atom.dtype), dropping, inner, *w)  # noqa: E731
    assert_same_function(fused, reference, arguments, dtype)


def attention_factor(branches, inner, B, N, H, d):
    """The factors of attention's dropout [B, H, N, N]: equal weights, and values that say which node they are of."""
    if inner.seed is None:
        return torch.ones(())
    qkv, mixed = torch.zeros(B, N, 3, H, d), torch.empty(B, N, H * d)
    qkv[:, range(N), 2, :, range(N)] = 1.0
    tensors = (qkv, torch.zeros(B * N * N, H), torch.zeros(B, N), mixed)
    branches.launch_attention(branches.attention_kernels.attention, (B, N, H * d), H, inner, *tensors)
    return (mixed.view(B, N, H, d)[..., :N] * N).permute(0, 2, 1, 3).double()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("N", "D", "h", "P", "rate"), [(5, 24, 8, 20, 0.0), (1, 16, 3, 8, 0.0), (4, 16, 8, 33, 0.3)])
def test_outer_product(branches, N, D, h, P, rate, dtype):
    B, epsilon = 2, 1e-3
    count = torch.tensor([float(N), (N + 1) // 2])
    valid = (torch.arange(N) < count[:, None]).unsqueeze(-1)
    dropping = Dropping(rate=rate, path=rate, seed=seed(), stream=64) if rate else NOTHING
    factor = branch_factor(dropping, (B, N, N, P))
    undo = (1.0 / (epsilon + 1.0 / count.double())).view(B, 1, 1, 1)

    def reference(pair, atom, norm_weight, norm_bias, project, project_bias, weight, bias):
        a, b = ((norm(atom, norm_weight, norm_bias) @ project.t() + project_bias) * valid).chunk(2, -1)
        z = torch.einsum("bic,bjd,cdp->bijp", a, b, weight.view(h, h, P))
        return pair + factor * (z * undo / count.double().view(B, 1, 1, 1) + bias * undo)

    arguments = (
        random(B, N, N, P), random(B, N, D), random(D), random(D), random(2 * h, D, gain=D**-0.5), random(2 * h),
        random(h, h * P), random(P),
    )  # fmt: skip
    apply = branches.FusedOuterProductFunction.apply
    fused = lambda pair, atom, *w: apply(pair, atom, count, valid.to(atom.dtype), epsilon, dropping, *w)  # noqa: E731
    assert_same_function(fused, reference, arguments, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("N", "P", "h", "rate"), [(5, 24, 4, 0.0), (1, 8, 3, 0.0), (17, 20, 2, 0.3)])
def test_triangle(branches, N, P, h, rate, dtype):
    B = 2
    scale = torch.full((B, 1, N, N), N**-0.5)
    scale[1, :, (N + 1) // 2 :] = 0.0
    scale[1, ..., (N + 1) // 2 :] = 0.0
    dropping = Dropping(rate=rate, path=rate, seed=seed(), stream=96) if rate else NOTHING
    factor = branch_factor(dropping, (B, N, N, P), sharing=N)

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
    apply = branches.FusedTriangleFunction.apply
    assert_same_function(lambda x, *w: apply(x, scale.to(x.dtype), dropping, *w), reference, arguments, dtype)
