"""Triton kernels of the triangle update between its maps: gating with both products of a channel, and the way to rows.

Channels come first here, [B, C, pitch]: a product over nodes then reads whole lines, and the pitch, N² rounded up to
whole vectors, keeps lines aligned whatever N is. A program multiplies one channel of one molecule, N × N in one block.
Channels of the maps are values of A, values of B, gates of A, gates of B, h each; they come before the norm's
reciprocal deviations ``rstd`` [B·N²] and the bias (norm_kernels.py).
"""

import triton
import triton.language as tl

from unimol_scale.model.fused.programs.attention_kernels import dot


@triton.jit
def gated_factor(project_ptr, bias_ptr, scale, rstd, molecule, channel, h, PITCH, pair, here):
    """Return value [BN, BN] and sigmoid(gate) of a channel of A, or, from h on, of B; zero behind the last node."""
    value_place = (molecule * 4 * h + channel) * PITCH + pair
    gate_place = (molecule * 4 * h + 2 * h + channel) * PITCH + pair
    value = tl.load(project_ptr + value_place, mask=here, other=0.0).to(tl.float32)
    gate = tl.load(project_ptr + gate_place, mask=here, other=0.0).to(tl.float32)
    value = value * rstd + tl.load(bias_ptr + channel)
    gate = gate * rstd + tl.load(bias_ptr + 2 * h + channel)
    return value * scale, tl.sigmoid(gate)


@triton.jit
def triangle_products(
    project_ptr, bias_ptr, scale_ptr, rstd_ptr, product_ptr, N, h, PITCH, BN: tl.constexpr, WIDE: tl.constexpr
):  # fmt: skip
    """Write A·Bᵀ + Aᵀ·B of a channel [B, h, pitch], with A and B value ∘ sigmoid(gate) ∘ scale."""
    molecule, channel = tl.program_id(0), tl.program_id(1)
    node = tl.arange(0, BN)
    here = (node < N)[:, None] & (node < N)[None, :]
    pair = node[:, None] * N + node[None, :]
    scale = tl.load(scale_ptr + molecule * N * N + pair, mask=here, other=0.0).to(tl.float32)
    rstd = tl.load(rstd_ptr + molecule * N * N + pair, mask=here, other=0.0)
    value, gate = gated_factor(project_ptr, bias_ptr, scale, rstd, molecule, channel, h, PITCH, pair, here)
    a = (value * gate).to(project_ptr.dtype.element_ty)
    value, gate = gated_factor(project_ptr, bias_ptr, scale, rstd, molecule, h + channel, h, PITCH, pair, here)
    b = (value * gate).to(project_ptr.dtype.element_ty)
    product = dot(a, tl.trans(b), WIDE) + dot(tl.trans(a), b, WIDE)
    to = product_ptr + (molecule * h + channel) * PITCH + pair
    tl.store(to, product.to(product_ptr.dtype.element_ty), mask=here)


@triton.jit
def triangle_products_backward(
    grad_ptr, project_ptr, bias_ptr, scale_ptr, rstd_ptr, grad_project_ptr, N, h, PITCH,
    BN: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the maps before gating [B, 4h, pitch]: dA = dM·B + B·dMᵀ, dB = dMᵀ·A + A·dM."""
    molecule, channel = tl.program_id(0), tl.program_id(1)
    node = tl.arange(0, BN)
    here = (node < N)[:, None] & (node < N)[None, :]
    pair = node[:, None] * N + node[None, :]
    scale = tl.load(scale_ptr + molecule * N * N + pair, mask=here, other=0.0).to(tl.float32)
    rstd = tl.load(rstd_ptr + molecule * N * N + pair, mask=here, other=0.0)
    grad = tl.load(grad_ptr + (molecule * h + channel) * PITCH + pair, mask=here, other=0.0)
    value_a, gate_a = gated_factor(project_ptr, bias_ptr, scale, rstd, molecule, channel, h, PITCH, pair, here)
    value_b, gate_b = gated_factor(project_ptr, bias_ptr, scale, rstd, molecule, h + channel, h, PITCH, pair, here)
    a, b = (value_a * gate_a).to(grad.dtype), (value_b * gate_b).to(grad.dtype)
    grad_a = dot(grad, b, WIDE) + dot(b, tl.trans(grad), WIDE)
    grad_b = dot(tl.trans(grad), a, WIDE) + dot(a, grad, WIDE)
    to = grad_project_ptr + (molecule * 4 * h + channel) * PITCH + pair
    dtype = grad_project_ptr.dtype.element_ty
    # d sigmoid = sigmoid (1 − sigmoid).
    of_value, of_gate = scale * rstd, rstd * (1.0 - gate_a) * gate_a
    tl.store(to, (grad_a * gate_a * of_value).to(dtype), mask=here)
    tl.store(to + h * PITCH, (grad_b * gate_b * of_value).to(dtype), mask=here)
    tl.store(to + 2 * h * PITCH, (grad_a * value_a * of_gate).to(dtype), mask=here)
    tl.store(to + 3 * h * PITCH, (grad_b * value_b * rstd * (1.0 - gate_b) * gate_b).to(dtype), mask=here)


@triton.jit
def channels_to_rows(
    x_ptr, mean_ptr, rstd_ptr, rows_ptr, partial_ptr, PARTIAL_STEP, MEAN_SUMS, R, LINES, PITCH, ROW_STEP,
    W: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Write [B, W, pitch] as rows [B·LINES, W], partial sums of x / rstd, and from MEAN_SUMS on those of x · mean."""
    channel = tl.arange(0, BW)
    total, mean_total = tl.zeros((BW,), tl.float32), tl.zeros((BW,), tl.float32)
    for first in range(tl.program_id(0) * BR, R, tl.num_programs(0) * BR):
        row = first + tl.arange(0, BR)
        here = (row < R)[:, None] & (channel < W)[None, :]
        start = (row // LINES) * W * PITCH + row % LINES
        x = tl.load(x_ptr + start[:, None] + channel[None, :] * PITCH, mask=here, other=0.0)
        mean = tl.load(mean_ptr + row, mask=row < R, other=0.0)
        rstd = tl.load(rstd_ptr + row, mask=row < R, other=1.0)
        total += tl.sum(x.to(tl.float32) / rstd[:, None], 0)
        mean_total += tl.sum(x.to(tl.float32) * mean[:, None], 0)
        tl.store(rows_ptr + row[:, None] * ROW_STEP + channel[None, :], x, mask=here)
    partial = partial_ptr + tl.program_id(0) * PARTIAL_STEP + channel
    tl.store(partial, total, mask=channel < W)
    tl.store(partial + MEAN_SUMS, mean_total, mask=channel < W)
