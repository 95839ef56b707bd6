"""The hand-written gradients of the pair track, against autograd on formulas written plainly, in fp64."""

import math

import pytest
import torch
import torch.nn.functional as F

from unimol_scale.model import kernels
from unimol_scale.model.encodings import GaussianKernel
from unimol_scale.model.kernels import (
    REFERENCE_PI,
    FeedForwardFunction,
    GaussianKernelFunction,
    OuterProductFunction,
    TriangleFunction,
    linear,
)
from unimol_scale.model.presets import preset

B, N, P, h = 2, 5, 6, 3


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64).requires_grad_()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def assert_same_function(function, plain, arguments):
    """Equal values, and equal gradients of a random projection, for every argument that wants one."""
    found, expected = function(*arguments), plain(*arguments)
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(expected)
    wanted = [a for a in arguments if isinstance(a, torch.Tensor) and a.requires_grad]
    for ours, theirs in zip(
        torch.autograd.grad((found * direction).sum(), wanted),
        torch.autograd.grad((expected * direction).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("residual", [True, False])
def test_feed_forward(residual):
    def plain(x, nw, nb, uw, ub, dw, db):
        y = F.linear(F.gelu(F.linear(F.layer_norm(x, [P], nw, nb), uw, ub)), dw, db)
        return y + x if residual else y

    arguments = (random(B, N, N, P), random(P), random(P), random(7, P), random(7), random(P, 7), random(P))
    assert_same_function(lambda *a: FeedForwardFunction.apply(*a, residual, 0.0), plain, arguments)


def test_feed_forward_drops_hidden_values_and_scales_those_that_stay():
    arguments = (random(B, N, N, P), random(P), random(P), random(7, P), random(7), random(P, 7), random(P))
    state = torch.random.get_rng_state()
    kept = torch.native_dropout(torch.ones(B * N * N, 7, dtype=torch.float64), 0.4, True)[0].view(B, N, N, 7)
    assert {round(value, 6) for value in kept.unique().tolist()} == {0.0, round(1 / 0.6, 6)}

    def plain(x, nw, nb, uw, ub, dw, db):
        return F.linear(kept * F.gelu(F.linear(F.layer_norm(x, [P], nw, nb), uw, ub)), dw, db) + x

    def ours(*a):
        torch.random.set_rng_state(state)
        return FeedForwardFunction.apply(*a, True, 0.4)

    assert_same_function(ours, plain, arguments)


@pytest.mark.parametrize("residual", [True, False])
def test_outer_product(residual):
    def plain(pair, a, b, weight, constant):
        outer = torch.einsum("bic,bjd->bijcd", a, b).flatten(3)
        y = outer @ weight.view(h * h, P) + constant
        return y + pair if residual else y

    arguments = (random(B, N, N, P), random(B, N, h), random(B, N, h), random(h, h * P), random(B, 1, 1, P))
    if not residual:
        arguments = (arguments[0].detach(), *arguments[1:])
    assert_same_function(lambda *a: OuterProductFunction.apply(*a, residual), plain, arguments)


@pytest.mark.parametrize("residual", [True, False])
def test_triangle_update(residual):
    def plain(x, scale, nw, nb, pw, pb, iw, ib, ow, ob, gw, gb):
        normal = F.layer_norm(x, [P], nw, nb)
        value, gate = F.linear(normal, pw, pb).chunk(2, dim=-1)
        a, b = (value * torch.sigmoid(gate) * scale.permute(0, 2, 3, 1)).chunk(2, dim=-1)
        mixed = torch.einsum("bikh,bjkh->bijh", a, b) + torch.einsum("bkih,bkjh->bijh", a, b)
        y = F.linear(F.layer_norm(mixed, [h], iw, ib), ow, ob) * F.linear(normal, gw, gb)
        return y + x if residual else y

    scale = torch.rand(B, 1, N, N, dtype=torch.float64)
    scale[:, :, -1] = 0
    arguments = (
        random(B, N, N, P), scale, random(P), random(P), random(4 * h, P), random(4 * h),
        random(h), random(h), random(P, h), random(P), random(P, P), random(P),
    )  # fmt: skip
    assert_same_function(lambda *a: TriangleFunction.apply(*a, residual), plain, arguments)


def test_gaussian_kernel():
    G, spacing = 8, 0.5
    centres = torch.arange(G, dtype=torch.float64) * spacing

    def plain(x, uw, ub, dw, db):
        density = torch.exp(-0.5 * ((x[:, None] - centres) / spacing) ** 2) / (math.sqrt(2 * REFERENCE_PI) * spacing)
        return F.linear(F.gelu(F.linear(density, uw, ub)), dw, db)

    def ours(x, *weights):
        return GaussianKernelFunction.apply(x, centres, spacing, *weights)

    x = (torch.rand(11, dtype=torch.float64) * 4).requires_grad_()
    arguments = (x, random(G, G), random(G), random(P, G), random(P))
    found = ours(*arguments)
    torch.testing.assert_close(found, plain(*arguments))
    direction = torch.randn_like(found)
    for got, expected in zip(
        torch.autograd.grad((found * direction).sum(), arguments),
        torch.autograd.grad((plain(*arguments) * direction).sum(), arguments),
        strict=True,
    ):
        # The gradient of x passes through fp32, like everything geometric.
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_densities_have_no_denormals():
    _, density_RG = kernels._densities(torch.linspace(0, 9, 500), torch.linspace(0, 9, 64), 0.1)
    assert density_RG[density_RG > 0].min() > torch.finfo(torch.float32).tiny
    assert (density_RG == 0).any()
    assert (density_RG > 0).any(1).all()


@pytest.mark.parametrize("intel", [True, False])  # makers of processors have different matrix libraries, too
@pytest.mark.parametrize("width", [16, 160])  # narrow and wide go through different matrix libraries
@pytest.mark.parametrize("bias", [True, False])
def test_linear_in_single_precision(width, bias, intel, monkeypatch):
    monkeypatch.setattr(kernels, "_is_intel", lambda: intel)
    x = torch.randn(3, 70, width, requires_grad=True)
    weight = torch.randn(width + 8, width, requires_grad=True)
    shift = torch.randn(width + 8, requires_grad=True) if bias else None
    arguments = [a for a in (x, weight, shift) if a is not None]
    found, expected = (
        linear(x, weight, shift),
        F.linear(x.double(), weight.double(), None if shift is None else shift.double()),
    )
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    direction = torch.randn_like(found)
    ours = torch.autograd.grad((found * direction).sum(), arguments)
    theirs = torch.autograd.grad((expected * direction).sum(), arguments)
    for got, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cast", [lambda m: m.bfloat16(), lambda m: m.to("cpu", torch.float16), lambda m: m.double()])
def test_the_kernels_centres_are_never_rounded(cast):
    kernel = GaussianKernel(preset("0.03M"))
    expected = kernel.centres_G.clone()
    cast(kernel)
    assert kernel.hidden_weight.dtype != torch.float32
    assert kernel.centres_G.dtype == torch.float32
    assert torch.equal(kernel.centres_G, expected)
