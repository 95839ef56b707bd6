"""Triton kernels of the outer product's second contraction, z_ij = T_i·b_j, with everything around it.

A program takes one node i and, forward, a block of the pair channels: the N × h factors b and a part of T_i
[h, P] are small, and z is never written. Shapes: B molecules, N nodes in blocks of BN, h hidden channels in blocks of
BH, P pair channels in blocks of BP.
"""

import triton
import triton.language as tl

from unimol_scale.model.fused.programs.attention_kernels import dot
from unimol_scale.model.fused.programs.row_kernels import branch_factor


@triton.jit
def pair_scales(count_ptr, valid_ptr, molecule, node, N, j, EPSILON: tl.constexpr):
    """Return the factor of z_ij [BN], zero at padding, and that of the constant: 1/(1/n + ε) by n, and itself."""
    count = tl.load(count_ptr + molecule)
    undo = 1.0 / (EPSILON + 1.0 / count)
    valid_i = tl.load(valid_ptr + molecule * N + node).to(tl.float32)
    valid_j = tl.load(valid_ptr + molecule * N + j, mask=j < N, other=0.0).to(tl.float32)
    return undo / count * valid_i * valid_j, undo


@triton.jit
def outer_product(
    pair_ptr, T_ptr, factors_ptr, count_ptr, valid_ptr, bias_ptr, y_ptr, seed_ptr, stream, N,
    h: tl.constexpr, P: tl.constexpr, EPSILON: tl.constexpr, THRESHOLD: tl.constexpr, SCALE: tl.constexpr,
    PATH_THRESHOLD: tl.constexpr, PATH_SCALE: tl.constexpr,
    BN: tl.constexpr, BH: tl.constexpr, BP: tl.constexpr, WIDTH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Write pair_ij + dropout(scale·T_i·b_j + undo·bias); b is the second half of a row of ``factors``."""
    row, first = tl.program_id(0), tl.program_id(1) * BP
    molecule, node = row // N, row % N
    j, d, channel = tl.arange(0, BN), tl.arange(0, BH), first + tl.arange(0, BP)
    b_here, here = (j < N)[:, None] & (d < h)[None, :], (j < N)[:, None] & (channel < P)[None, :]
    b = tl.load(factors_ptr + (molecule * N + j[:, None]) * (2 * h) + h + d[None, :], mask=b_here, other=0.0)
    T_place = row.to(tl.int64) * (h * P) + d[:, None] * P + channel[None, :]
    T = tl.load(T_ptr + T_place, mask=(d < h)[:, None] & (channel < P)[None, :], other=0.0)
    scale, undo = pair_scales(count_ptr, valid_ptr, molecule, node, N, j, EPSILON)
    bias = tl.load(bias_ptr + channel, mask=channel < P, other=0.0).to(tl.float32)
    update = dot(b, T, WIDE) * scale[:, None] + (undo * bias)[None, :]
    update *= branch_factor(
        seed_ptr, stream, row * N + j, first // 4 + tl.arange(0, BP // 4), 1, N * N,
        WIDTH // 4, THRESHOLD, SCALE, PATH_THRESHOLD, PATH_SCALE,
    )  # fmt: skip
    flat = (row * N + j[:, None]) * P + channel[None, :]
    y = tl.load(pair_ptr + flat, mask=here, other=0.0).to(tl.float32) + update
    tl.store(y_ptr + flat, y.to(y_ptr.dtype.element_ty), mask=here)


@triton.jit
def outer_product_backward(
    grad_ptr, T_ptr, factors_ptr, count_ptr, valid_ptr, grad_T_ptr, grad_b_ptr, partial_ptr, seed_ptr, stream, N,
    h: tl.constexpr, P: tl.constexpr, EPSILON: tl.constexpr, THRESHOLD: tl.constexpr, SCALE: tl.constexpr,
    PATH_THRESHOLD: tl.constexpr, PATH_SCALE: tl.constexpr,
    BN: tl.constexpr, BH: tl.constexpr, BP: tl.constexpr, WIDTH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Write the gradients of T_i and, of this i, of b [B·N, N, h], and a row of partial sums for the bias."""
    row = tl.program_id(0)
    molecule, node = row // N, row % N
    j, d = tl.arange(0, BN), tl.arange(0, BH)
    b_here = (j < N)[:, None] & (d < h)[None, :]
    b = tl.load(factors_ptr + (molecule * N + j[:, None]) * (2 * h) + h + d[None, :], mask=b_here, other=0.0)
    scale, undo = pair_scales(count_ptr, valid_ptr, molecule, node, N, j, EPSILON)
    grad_b = tl.zeros((BN, BH), tl.float32)
    for first in range(0, P, BP):
        channel = first + tl.arange(0, BP)
        here = (j < N)[:, None] & (channel < P)[None, :]
        factor = branch_factor(
            seed_ptr, stream, row * N + j, first // 4 + tl.arange(0, BP // 4), 1, N * N,
            WIDTH // 4, THRESHOLD, SCALE, PATH_THRESHOLD, PATH_SCALE,
        )  # fmt: skip
        flat = (row * N + j[:, None]) * P + channel[None, :]
        grad = factor * tl.load(grad_ptr + flat, mask=here, other=0.0).to(tl.float32)
        tl.store(partial_ptr + row * P + channel, tl.sum(grad, 0) * undo, mask=channel < P)
        grad_z = (grad * scale[:, None]).to(b.dtype)
        T_here = (d < h)[:, None] & (channel < P)[None, :]
        T_place = row.to(tl.int64) * (h * P) + d[:, None] * P + channel[None, :]
        T = tl.load(T_ptr + T_place, mask=T_here, other=0.0)
        grad_b += dot(grad_z, tl.trans(T), WIDE)
        grad_T = dot(tl.trans(b), grad_z, WIDE)
        tl.store(grad_T_ptr + T_place, grad_T.to(grad_T_ptr.dtype.element_ty), mask=T_here)
    to = (row * N + j[:, None]) * h + d[None, :]
    tl.store(grad_b_ptr + to, grad_b.to(grad_b_ptr.dtype.element_ty), mask=b_here)


@triton.jit
def sum_over_first_nodes(
    grad_b_ptr, grad_factors_ptr, partial_ptr, PARTIAL_STEP, R, N, h: tl.constexpr, BR: tl.constexpr, BH: tl.constexpr
):  # fmt: skip
    """Write Σ_i of the gradients of b as second half of the factors' gradient, and partial sums of both halves."""
    d = tl.arange(0, BH)
    a_sum, b_sum = tl.zeros((BH,), tl.float32), tl.zeros((BH,), tl.float32)
    for first in range(tl.program_id(0) * BR, R, tl.num_programs(0) * BR):
        row = first + tl.arange(0, BR)
        here = (row < R)[:, None] & (d < h)[None, :]
        place = (row // N) * N * N * h + (row % N) * h
        grad_b = tl.zeros((BR, BH), tl.float32)
        for i in range(0, N):
            at = grad_b_ptr + place[:, None] + i * N * h + d[None, :]
            grad_b += tl.load(at, mask=here, other=0.0).to(tl.float32)
        factors = grad_factors_ptr + row[:, None] * (2 * h) + d[None, :]
        tl.store(factors + h, grad_b.to(grad_factors_ptr.dtype.element_ty), mask=here)
        a_sum += tl.sum(tl.load(factors, mask=here, other=0.0).to(tl.float32), 0)
        b_sum += tl.sum(grad_b, 0)
    partial = partial_ptr + tl.program_id(0) * PARTIAL_STEP + d
    tl.store(partial, a_sum, mask=d < h)
    tl.store(partial + h, b_sum, mask=d < h)
