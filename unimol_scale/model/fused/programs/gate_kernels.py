"""Triton kernels of how the triangle update ends: y = x + dropout((W·LN(z) + b) ∘ gate), z with h channels, y with W.

The map of few channels is computed inside: it costs less than to read and write what it maps to. z comes channels
first, [B, h, pitch], of LINES = N² pairs; the gate comes as x·W'ᵀ, before its norm (norm_kernels.py).
"""

import triton
import triton.language as tl

from unimol_scale.model.fused.programs.attention_kernels import dot
from unimol_scale.model.fused.programs.row_kernels import branch_factor


@triton.jit
def inner_norm(z_ptr, row, channel, R, LINES, PITCH, h: tl.constexpr, EPSILON: tl.constexpr):
    """Return z of rows, normalised [rows, channels], fp32, zero where there is none, and its reciprocal deviation."""
    here = (row < R)[:, None] & (channel < h)[None, :]
    start = (row // LINES) * h * PITCH + row % LINES
    z = tl.load(z_ptr + start[:, None] + channel[None, :] * PITCH, mask=here, other=0.0).to(tl.float32)
    centred = tl.where(here, z - (tl.sum(z, 1) / h)[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / h + EPSILON)
    return centred * rstd[:, None], rstd


@triton.jit
def gated_branch(
    x_ptr, gate_ptr, z_ptr, rstd_ptr, gate_bias_ptr, inner_weight_ptr, inner_bias_ptr, weight_ptr, bias_ptr, y_ptr,
    seed_ptr, stream, R, LINES, PITCH, N,
    h: tl.constexpr, W: tl.constexpr, EPSILON: tl.constexpr, THRESHOLD: tl.constexpr, SCALE: tl.constexpr,
    PATH_THRESHOLD: tl.constexpr, PATH_SCALE: tl.constexpr,
    BR: tl.constexpr, BH: tl.constexpr, BP: tl.constexpr, WIDTH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Write a block of y; N consecutive rows share a draw."""
    row, start = tl.program_id(0) * BR + tl.arange(0, BR), tl.program_id(1) * BP
    channel, d = start + tl.arange(0, BP), tl.arange(0, BH)
    here = (row < R)[:, None] & (channel < W)[None, :]
    weight_here = (channel < W)[:, None] & (d < h)[None, :]
    weight = tl.load(weight_ptr + channel[:, None] * h + d[None, :], mask=weight_here, other=0.0)
    inner_weight = tl.load(inner_weight_ptr + d, mask=d < h, other=0.0).to(tl.float32)
    inner_bias = tl.load(inner_bias_ptr + d, mask=d < h, other=0.0).to(tl.float32)
    normal, _ = inner_norm(z_ptr, row, d, R, LINES, PITCH, h, EPSILON)
    inner = (normal * inner_weight[None, :] + inner_bias[None, :]).to(weight.dtype)
    bias = tl.load(bias_ptr + channel, mask=channel < W, other=0.0).to(tl.float32)
    update = dot(inner, tl.trans(weight), WIDE) + bias[None, :]
    place = row[:, None] * W + channel[None, :]
    rstd = tl.load(rstd_ptr + row, mask=row < R, other=0.0)
    gate_bias = tl.load(gate_bias_ptr + channel, mask=channel < W, other=0.0)
    gate = tl.load(gate_ptr + place, mask=here, other=0.0).to(tl.float32)
    update *= gate * rstd[:, None] + gate_bias[None, :]
    update *= branch_factor(
        seed_ptr, stream, row, start // 4 + tl.arange(0, BP // 4), N, LINES,
        WIDTH // 4, THRESHOLD, SCALE, PATH_THRESHOLD, PATH_SCALE,
    )  # fmt: skip
    y = tl.load(x_ptr + place, mask=here, other=0.0).to(tl.float32) + update
    tl.store(y_ptr + place, y.to(y_ptr.dtype.element_ty), mask=here)


@triton.jit
def gated_branch_backward(
    grad_ptr, gate_ptr, z_ptr, mean_ptr, rstd_ptr, gate_bias_ptr, inner_weight_ptr, inner_bias_ptr, weight_ptr,
    bias_ptr, grad_gate_ptr, grad_inner_ptr, weight_partial_ptr, partial_ptr, PARTIAL_STEP, GATE_SUMS, MEAN_SUMS,
    seed_ptr, stream, R, LINES, PITCH, N, GATE_STEP,
    h: tl.constexpr, W: tl.constexpr, EPSILON: tl.constexpr, THRESHOLD: tl.constexpr, SCALE: tl.constexpr,
    PATH_THRESHOLD: tl.constexpr, PATH_SCALE: tl.constexpr,
    BR: tl.constexpr, BH: tl.constexpr, BP: tl.constexpr, WIDTH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the gate before its norm, in rows GATE_STEP apart, and that of LN(z) in parts.

    A program takes a block of columns; the parts [blocks, R, h] add up. Partial sums are of the map's weight
    [programs, W, h]; of its bias; from GATE_SUMS on of the gate; from MEAN_SUMS on of the gate before its norm by the
    means of x.
    """
    block = tl.program_id(1)
    channel, d = block * BP + tl.arange(0, BP), tl.arange(0, BH)
    weight_here = (channel < W)[:, None] & (d < h)[None, :]
    weight = tl.load(weight_ptr + channel[:, None] * h + d[None, :], mask=weight_here, other=0.0)
    bias = tl.load(bias_ptr + channel, mask=channel < W, other=0.0).to(tl.float32)
    gate_bias = tl.load(gate_bias_ptr + channel, mask=channel < W, other=0.0)
    inner_weight = tl.load(inner_weight_ptr + d, mask=d < h, other=0.0).to(tl.float32)
    inner_bias = tl.load(inner_bias_ptr + d, mask=d < h, other=0.0).to(tl.float32)
    weight_sum, update_sum = tl.zeros((BP, BH), tl.float32), tl.zeros((BP,), tl.float32)
    gate_sum, mean_sum = tl.zeros((BP,), tl.float32), tl.zeros((BP,), tl.float32)
    for first in range(tl.program_id(0) * BR, R, tl.num_programs(0) * BR):
        row = first + tl.arange(0, BR)
        here = (row < R)[:, None] & (channel < W)[None, :]
        normal, _ = inner_norm(z_ptr, row, d, R, LINES, PITCH, h, EPSILON)
        inner = (normal * inner_weight[None, :] + inner_bias[None, :]).to(weight.dtype)
        place = row[:, None] * W + channel[None, :]
        grad = tl.load(grad_ptr + place, mask=here, other=0.0).to(tl.float32)
        grad *= branch_factor(
            seed_ptr, stream, row, block * (BP // 4) + tl.arange(0, BP // 4), N, LINES,
            WIDTH // 4, THRESHOLD, SCALE, PATH_THRESHOLD, PATH_SCALE,
        )  # fmt: skip
        mean = tl.load(mean_ptr + row, mask=row < R, other=0.0)
        rstd = tl.load(rstd_ptr + row, mask=row < R, other=0.0)
        grad_gate = grad * (dot(inner, tl.trans(weight), WIDE) + bias[None, :])
        gate_sum += tl.sum(grad_gate, 0)
        grad_gate *= rstd[:, None]
        mean_sum += tl.sum(grad_gate * mean[:, None], 0)
        to = grad_gate_ptr + row[:, None] * GATE_STEP + channel[None, :]
        tl.store(to, grad_gate.to(grad_gate_ptr.dtype.element_ty), mask=here)
        gate = tl.load(gate_ptr + place, mask=here, other=0.0).to(tl.float32)
        grad *= gate * rstd[:, None] + gate_bias[None, :]
        update_sum += tl.sum(grad, 0)
        narrow = grad.to(weight.dtype)
        weight_sum += dot(tl.trans(narrow), inner, WIDE)
        to = grad_inner_ptr + (block * R + row)[:, None] * h + d[None, :]
        grad_inner = dot(narrow, weight, WIDE).to(grad_inner_ptr.dtype.element_ty)
        tl.store(to, grad_inner, mask=(row < R)[:, None] & (d < h)[None, :])
    weight_partial = weight_partial_ptr + tl.program_id(0) * W * h + channel[:, None] * h + d[None, :]
    tl.store(weight_partial, weight_sum, mask=weight_here)
    partial = partial_ptr + tl.program_id(0) * PARTIAL_STEP + channel
    tl.store(partial, update_sum, mask=channel < W)
    tl.store(partial + GATE_SUMS, gate_sum, mask=channel < W)
    tl.store(partial + MEAN_SUMS, mean_sum, mask=channel < W)


@triton.jit
def inner_norm_backward(
    grad_inner_ptr, z_ptr, weight_ptr, grad_z_ptr, partial_ptr, PARTIAL_STEP, R, LINES, PITCH, BLOCKS,
    h: tl.constexpr, EPSILON: tl.constexpr, BR: tl.constexpr, BH: tl.constexpr,
):  # fmt: skip
    """Write the gradient of z from the parts of that of LN(z), and partial sums for the norm's weight and bias."""
    d = tl.arange(0, BH)
    weight = tl.load(weight_ptr + d, mask=d < h, other=0.0).to(tl.float32)
    weight_sum, bias_sum = tl.zeros((BH,), tl.float32), tl.zeros((BH,), tl.float32)
    for first in range(tl.program_id(0) * BR, R, tl.num_programs(0) * BR):
        row = first + tl.arange(0, BR)
        here = (row < R)[:, None] & (d < h)[None, :]
        grad = tl.zeros((BR, BH), tl.float32)
        for block in range(0, BLOCKS):
            part = tl.load(grad_inner_ptr + (block * R + row)[:, None] * h + d[None, :], mask=here, other=0.0)
            grad += part.to(tl.float32)
        normal, rstd = inner_norm(z_ptr, row, d, R, LINES, PITCH, h, EPSILON)
        weight_sum += tl.sum(grad * normal, 0)
        bias_sum += tl.sum(grad, 0)
        weighted = grad * weight[None, :]
        along, average = tl.sum(weighted * normal, 1) / h, tl.sum(weighted, 1) / h
        grad_z = (weighted - average[:, None] - normal * along[:, None]) * rstd[:, None]
        start = (row // LINES) * h * PITCH + row % LINES
        to = grad_z_ptr + start[:, None] + d[None, :] * PITCH
        tl.store(to, grad_z.to(grad_z_ptr.dtype.element_ty), mask=here)
    partial = partial_ptr + tl.program_id(0) * PARTIAL_STEP + d
    tl.store(partial, weight_sum, mask=d < h)
    tl.store(partial + h, bias_sum, mask=d < h)
