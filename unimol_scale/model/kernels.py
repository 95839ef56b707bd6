"""The pair track's three updates as single differentiable operations that keep little for the backward pass.

Pair tensors dominate memory and traffic. Written with autograd, one layer keeps about a dozen n²·P tensors; here each
update keeps its input and tensors narrower than P, and recomputes the rest. Gradients are written by hand and tested in
fp64 against autograd. Only torch's matrix products, layer norms and elementwise operations are used, so that the same
code runs on CPUs and GPUs, in fp32 and bf16.

Shapes: B molecules, N nodes, Q = N² pairs, R = B·N² rows, P pair channels, h hidden channels, C output channels,
G Gaussians.
"""

import functools
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

NORM_EPSILON = 1e-5
# The reference's value of π, and its divisor of the outer product; the released weights were trained with them.
REFERENCE_PI, OUTER_PRODUCT_EPSILON = 3.14159, 1e-3
_aten = torch.ops.aten
# Below this width the two matrix libraries are equally fast.
ONEDNN_MIN_WIDTH = 64
_CPU_INFO = Path("/proc/cpuinfo")
# Per Å; densities below this count as zero.
LEAST_DENSITY = 1e-30


def _normalise(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    normal, mean, rstd = torch.native_layer_norm(x, [x.shape[-1]], weight, bias, NORM_EPSILON)
    return normal, mean, rstd


def _normalise_backward(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    grad_x, grad_weight, grad_bias = _aten.native_layer_norm_backward(
        grad, x, [x.shape[-1]], mean, rstd, weight, bias, [True, True, True]
    )
    return grad_x, grad_weight, grad_bias


def product(a_RK: Tensor, b_KC: Tensor, bias_C: Tensor | None = None) -> Tensor:
    """Return a·b (+ bias), by the faster of torch's matrix libraries.

    In fp32 on a CPU torch calls MKL, which uses only AVX2 on processors not made by Intel. oneDNN, which torch uses for
    bf16, has AVX-512 kernels and was 2.2 times as fast on such a machine, from a width of 64 on [measured]. On Intel
    processors both are equally fast, but oneDNN generates code for every new number of rows, which takes about as long
    as a product [measured], and almost every micro-batch has a new number.
    """
    if _onednn_is_faster(a_RK, b_KC):
        result: Tensor = torch.ops.mkldnn._linear_pointwise(a_RK, b_KC.t(), bias_C, "none", [], "")
        return result
    return a_RK @ b_KC if bias_C is None else torch.addmm(bias_C, a_RK, b_KC)


def weight_gradient(grad_RC: Tensor, x_RK: Tensor) -> Tensor:
    """Return gradᵀ·x [C, K], the gradient of the weight of y = x·Wᵀ.

    oneDNN's linear map first copies a transposed operand, which took as long as the product itself [measured]; MKL
    needs no copy.
    """
    if x_RK.device.type == "cpu" and not _is_intel():
        return product(grad_RC.t(), x_RK)
    return grad_RC.t() @ x_RK


def _onednn_is_faster(a_RK: Tensor, b_KC: Tensor) -> bool:
    return (
        a_RK.device.type == "cpu"
        and a_RK.dtype == torch.float32
        and min(*a_RK.shape, *b_KC.shape) >= ONEDNN_MIN_WIDTH
        and not _is_intel()
        and _has_onednn()
    )


@functools.cache
def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]


@functools.cache
def _is_intel() -> bool:
    """Return whether MKL runs at full speed here, by the CPU's maker and not by timing, so that runs repeat."""
    try:
        return "GenuineIntel" in _CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return False


class LinearFunction(torch.autograd.Function):
    """y = x·Wᵀ (+ b) over the last axis, by ``product`` in both directions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ANN401, D102
        rows = x.reshape(-1, x.shape[-1])
        ctx.save_for_backward(rows, weight)
        ctx.has_bias = bias is not None
        return product(rows, weight.t(), bias).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401, D102
        rows, weight = ctx.saved_tensors
        grad_rows = grad.reshape(-1, grad.shape[-1])
        grad_bias = grad_rows.sum(0) if ctx.has_bias else None
        return product(grad_rows, weight).view(*grad.shape[:-1], -1), weight_gradient(grad_rows, rows), grad_bias


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x·Wᵀ (+ b) over the last axis of x."""
    result: Tensor = LinearFunction.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return result


def channel_first_linear(pair_BNNP: Tensor, weight_CP: Tensor, bias_C: Tensor) -> Tensor:
    """Map [B, N, N, P] to [B, C, N, N], the layout for batched products over nodes."""
    B, N, _, P = pair_BNNP.shape
    pair_RP = pair_BNNP.reshape(-1, P)
    # ``product`` has no gradient of its own, so only functions that define theirs may call it.
    if not torch.is_grad_enabled() and _onednn_is_faster(pair_RP, weight_CP.t()):
        mapped_RC = product(pair_RP, weight_CP.t(), bias_C)
        return mapped_RC.view(B, N * N, -1).transpose(1, 2).contiguous().view(B, -1, N, N)
    columns_BPQ = pair_BNNP.reshape(B, N * N, P).transpose(1, 2)
    return torch.baddbmm(bias_C[:, None], weight_CP.expand(B, -1, -1), columns_BPQ).view(B, -1, N, N)


class FeedForwardFunction(torch.autograd.Function):
    """y = [x +] W₂·D(GELU(W₁·LN(x) + b₁)) + b₂ over the last axis; keeps x and the hidden layer before GELU.

    D is dropout, which is skipped if nothing is dropped; for dropped values a mask of one byte per value is kept.
    """

    @staticmethod
    def forward(  # noqa: D102, PLR0913
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        up_weight: Tensor,
        up_bias: Tensor,
        down_weight: Tensor,
        down_bias: Tensor,
        residual: bool,
        dropout: float,
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        normal, mean, rstd = _normalise(rows, norm_weight, norm_bias)
        hidden = product(normal, up_weight.t(), up_bias)
        active, kept = F.gelu(hidden), None
        if dropout:
            active, kept = torch.native_dropout(active, dropout, True)
        update = product(active, down_weight.t(), down_bias)
        if residual:
            update += rows
        ctx.save_for_backward(rows, mean, rstd, hidden, norm_weight, norm_bias, up_weight, down_weight, kept)
        ctx.residual, ctx.dropout = residual, dropout
        return update.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401, D102
        rows, mean, rstd, hidden, norm_weight, norm_bias, up_weight, down_weight, kept = ctx.saved_tensors
        grad_rows = grad.reshape(rows.shape)
        active, grad_active = F.gelu(hidden), product(grad_rows, down_weight)
        if kept is not None:
            scale = 1.0 / (1.0 - ctx.dropout)
            active.mul_(kept).mul_(scale)
            grad_active.mul_(kept).mul_(scale)
        grad_down = weight_gradient(grad_rows, active)
        grad_hidden = _aten.gelu_backward(grad_active, hidden)
        normal, _, _ = _normalise(rows, norm_weight, norm_bias)
        grad_up = weight_gradient(grad_hidden, normal)
        grad_x, grad_norm_weight, grad_norm_bias = _normalise_backward(
            product(grad_hidden, up_weight), rows, mean, rstd, norm_weight, norm_bias
        )
        if ctx.residual:
            grad_x += grad_rows
        return (
            grad_x.view_as(grad),
            grad_norm_weight,
            grad_norm_bias,
            grad_up,
            grad_hidden.sum(0),
            grad_down,
            grad_rows.sum(0),
            None,
            None,
        )


class GaussianKernelFunction(torch.autograd.Function):
    """y = W₂·GELU(W₁·g(x) + b₁) + b₂, with g_k(x) the normal density of x around centre k; one x per row.

    The densities are evaluated in fp32 and recomputed in the backward pass; x and the hidden layer are kept.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,  # noqa: ANN401
        x_R: Tensor,
        centres_G: Tensor,
        spacing: float,
        up_weight: Tensor,
        up_bias: Tensor,
        down_weight: Tensor,
        down_bias: Tensor,
    ) -> Tensor:
        _, density_RG = _densities(x_R, centres_G, spacing)
        hidden = product(density_RG.to(up_weight.dtype), up_weight.t(), up_bias)
        ctx.save_for_backward(x_R, centres_G, hidden, up_weight, down_weight)
        ctx.spacing = spacing
        return product(F.gelu(hidden), down_weight.t(), down_bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401, D102
        x_R, centres_G, hidden, up_weight, down_weight = ctx.saved_tensors
        grad_down = weight_gradient(grad, F.gelu(hidden))
        grad_hidden = _aten.gelu_backward(product(grad, down_weight), hidden)
        offset_RG, density_RG = _densities(x_R, centres_G, ctx.spacing)
        grad_up = weight_gradient(grad_hidden, density_RG.to(grad_hidden.dtype))
        # d density / d x = −density · (x − centre) / spacing².
        slope_RG = offset_RG.mul_(density_RG).mul_(product(grad_hidden, up_weight).float())
        grad_x = slope_RG.sum(1).div_(-ctx.spacing)
        return grad_x, None, None, grad_up, grad_hidden.sum(0), grad_down, grad.sum(0)


def _densities(x_R: Tensor, centres_G: Tensor, spacing: float) -> tuple[Tensor, Tensor]:
    """Return the offsets (x − centre) / spacing and the normal densities, both fp32 [R, G]."""
    offset_RG = (x_R / spacing)[:, None] - centres_G / spacing
    # As a power of two, because torch's exp calls MKL, which takes ten times as long where the result underflows
    # [measured], as it does for distant centres.
    log2_norm = -math.log2(math.sqrt(2 * REFERENCE_PI) * spacing)
    half = -0.5 * math.log2(math.e)
    density_RG = torch.addcmul(x_R.new_full((1, 1), log2_norm), offset_RG, offset_RG, value=half).exp2_()
    # On a CPU, products of matrices that contain denormal numbers take up to 60 times as long [measured].
    if density_RG.device.type == "cpu":
        density_RG = torch.threshold_(density_RG, LEAST_DENSITY, 0.0)
    return offset_RG, density_RG


class OuterProductFunction(torch.autograd.Function):
    """z_ij = [x_ij +] Σ_cd a_ic b_jd W_cd + k, without the outer product and without keeping T_i = a_i·W.

    The two-step contraction takes 2hP + 2h²P/n operations per pair instead of 2h²P.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,  # noqa: ANN401
        pair_BNNP: Tensor,
        a_BNh: Tensor,
        b_BNh: Tensor,
        weight_hX: Tensor,
        constant_B11P: Tensor,
        residual: bool,
    ) -> Tensor:
        B, N, h = a_BNh.shape
        P = pair_BNNP.shape[-1]
        T_MhP = (a_BNh.reshape(B * N, h) @ weight_hX).view(B * N, h, P)
        b_MNh = b_BNh.unsqueeze(1).expand(B, N, N, h).reshape(B * N, N, h)
        pair_MNP = pair_BNNP.reshape(B * N, N, P)
        update = torch.baddbmm(pair_MNP, b_MNh, T_MhP) if residual else torch.bmm(b_MNh, T_MhP)
        update_BNNP = update.view(B, N, N, P)
        update_BNNP += constant_B11P
        ctx.save_for_backward(a_BNh, b_BNh, weight_hX)
        ctx.residual = residual
        return update_BNNP

    @staticmethod
    def backward(ctx: Any, grad_BNNP: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401, D102
        a_BNh, b_BNh, weight_hX = ctx.saved_tensors
        B, N, h = a_BNh.shape
        P = grad_BNNP.shape[-1]
        grad_MNP = grad_BNNP.reshape(B * N, N, P)
        a_Mh = a_BNh.reshape(B * N, h)
        T_MhP = (a_Mh @ weight_hX).view(B * N, h, P)
        grad_b_BNh = torch.bmm(grad_MNP, T_MhP.transpose(1, 2)).view(B, N, N, h).sum(1)
        b_MhN = b_BNh.transpose(1, 2).unsqueeze(1).expand(B, N, h, N).reshape(B * N, h, N)
        grad_T_MX = torch.bmm(b_MhN, grad_MNP, out=T_MhP).view(B * N, h * P)
        grad_a_BNh = product(grad_T_MX, weight_hX.t()).view(B, N, h)
        return (
            grad_BNNP if ctx.residual else None,
            grad_a_BNh,
            grad_b_BNh,
            a_Mh.t() @ grad_T_MX,
            grad_BNNP.sum((1, 2), keepdim=True),
            None,
        )


class TriangleFunction(torch.autograd.Function):
    """y = [x +] (W_o·LN(A·Bᵀ + Aᵀ·B) + b_o) ∘ (W_g·LN(x) + b_g), with A, B gated maps of LN(x), scaled by s.

    Keeps x, the maps of A and B before gating (4h channels) and their product (h channels).
    """

    @staticmethod
    def forward(  # noqa: D102, PLR0913
        ctx: Any,  # noqa: ANN401
        x_BNNP: Tensor,
        scale_B1NN: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        project_weight: Tensor,
        project_bias: Tensor,
        inner_weight: Tensor,
        inner_bias: Tensor,
        out_weight: Tensor,
        out_bias: Tensor,
        gate_weight: Tensor,
        gate_bias: Tensor,
        residual: bool,
    ) -> Tensor:
        B, N, _, P = x_BNNP.shape
        rows = x_BNNP.reshape(-1, P)
        normal, mean, rstd = _normalise(rows, norm_weight, norm_bias)
        project_BcNN = channel_first_linear(normal.view(B, N, N, P), project_weight, project_bias)
        a, b = _gated(project_BcNN, scale_B1NN)
        product_BhNN = torch.baddbmm(a @ b.transpose(1, 2), a.transpose(1, 2), b).view(B, -1, N, N)
        product_Rh = product_BhNN.permute(0, 2, 3, 1).reshape(B * N * N, -1)
        inner, _, _ = _normalise(product_Rh, inner_weight, inner_bias)
        update = product(inner, out_weight.t(), out_bias)
        gate = product(normal, gate_weight.t(), gate_bias)
        update = torch.addcmul(rows, update, gate) if residual else update.mul_(gate)
        ctx.save_for_backward(
            rows, mean, rstd, project_BcNN, product_Rh, scale_B1NN, norm_weight, norm_bias, project_weight,
            inner_weight, inner_bias, out_weight, out_bias, gate_weight, gate_bias,
        )  # fmt: skip
        ctx.residual = residual
        return update.view_as(x_BNNP)

    @staticmethod
    def backward(ctx: Any, grad_BNNP: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401, D102
        (
            rows, mean, rstd, project_BcNN, product_Rh, scale_B1NN, norm_weight, norm_bias, project_weight,
            inner_weight, inner_bias, out_weight, out_bias, gate_weight, gate_bias,
        ) = ctx.saved_tensors  # fmt: skip
        B, N = grad_BNNP.shape[:2]
        grad = grad_BNNP.reshape(rows.shape)
        normal, _, _ = _normalise(rows, norm_weight, norm_bias)
        inner, inner_mean, inner_rstd = _normalise(product_Rh, inner_weight, inner_bias)

        # y = o ∘ g: first through g, then through o.
        grad_gate = product(inner, out_weight.t(), out_bias).mul_(grad)
        grad_normal = product(grad_gate, gate_weight)
        grad_gate_weight, grad_gate_bias = weight_gradient(grad_gate, normal), grad_gate.sum(0)
        grad_out = product(normal, gate_weight.t(), gate_bias).mul_(grad)
        grad_out_weight, grad_out_bias = weight_gradient(grad_out, inner), grad_out.sum(0)
        grad_product_Rh, grad_inner_weight, grad_inner_bias = _normalise_backward(
            product(grad_out, out_weight), product_Rh, inner_mean, inner_rstd, inner_weight, inner_bias
        )

        # M = A·Bᵀ + Aᵀ·B: dA = dM·B + B·dMᵀ, dB = dMᵀ·A + A·dM.
        a, b = _gated(project_BcNN, scale_B1NN)
        h = product_Rh.shape[1]
        dM = grad_product_Rh.view(B, N, N, h).permute(0, 3, 1, 2).reshape(B * h, N, N)
        grad_a = torch.baddbmm(dM @ b, b, dM.transpose(1, 2))
        grad_b = torch.baddbmm(dM.transpose(1, 2) @ a, a, dM)
        grad_project_BcQ = _gated_backward(grad_a, grad_b, project_BcNN, scale_B1NN).view(B, 4 * h, N * N)
        grad_project_Rc = grad_project_BcQ.transpose(1, 2).reshape(-1, 4 * h)
        grad_project_weight, grad_project_bias = weight_gradient(grad_project_Rc, normal), grad_project_Rc.sum(0)
        grad_normal += product(grad_project_Rc, project_weight)
        grad_x, grad_norm_weight, grad_norm_bias = _normalise_backward(
            grad_normal, rows, mean, rstd, norm_weight, norm_bias
        )
        if ctx.residual:
            grad_x += grad
        return (
            grad_x.view_as(grad_BNNP), None, grad_norm_weight, grad_norm_bias, grad_project_weight, grad_project_bias,
            grad_inner_weight, grad_inner_bias, grad_out_weight, grad_out_bias, grad_gate_weight, grad_gate_bias, None,
        )  # fmt: skip


def _gated(project_BcNN: Tensor, scale_B1NN: Tensor) -> tuple[Tensor, Tensor]:
    """Return A and B, [B·h, N, N]: value ∘ sigmoid(gate) ∘ scale. Channel order: values of A, B, gates of A, B."""
    value_BkNN, gate_BkNN = project_BcNN.chunk(2, dim=1)
    gated_BkNN = torch.sigmoid(gate_BkNN).mul_(value_BkNN).mul_(scale_B1NN)
    B, k, N, _ = gated_BkNN.shape
    a_BhNN, b_BhNN = gated_BkNN.chunk(2, dim=1)
    return a_BhNN.reshape(B * k // 2, N, N), b_BhNN.reshape(B * k // 2, N, N)


def _gated_backward(grad_a: Tensor, grad_b: Tensor, project_BcNN: Tensor, scale_B1NN: Tensor) -> Tensor:
    """Return the gradient of the maps before gating, [B, 4h, N, N]."""
    B, c, N, _ = project_BcNN.shape
    value_BkNN, gate_BkNN = project_BcNN.chunk(2, dim=1)
    sigmoid_BkNN = torch.sigmoid(gate_BkNN)
    result_BcNN = torch.empty_like(project_BcNN)
    grad_value_BkNN, grad_gate_BkNN = result_BcNN.chunk(2, dim=1)
    h = c // 4
    torch.mul(grad_a.view(B, h, N, N), sigmoid_BkNN[:, :h], out=grad_value_BkNN[:, :h])
    torch.mul(grad_b.view(B, h, N, N), sigmoid_BkNN[:, h:], out=grad_value_BkNN[:, h:])
    grad_value_BkNN.mul_(scale_B1NN)
    # d sigmoid = sigmoid (1 − sigmoid); grad_value already holds grad · sigmoid · scale.
    torch.mul(grad_value_BkNN, value_BkNN, out=grad_gate_BkNN)
    grad_gate_BkNN.mul_(sigmoid_BkNN.neg_().add_(1.0))
    return result_BcNN
