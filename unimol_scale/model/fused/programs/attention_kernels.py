"""Triton kernels of attention with a bias per pair and head, for molecules whose N × N logits fit into one block.

A program takes one molecule and GROUP heads, one after another: the bias lies in rows of pairs [B·N², H], and
neighbouring heads come with the same reads of memory. Shapes: B molecules, N nodes in blocks of BN, H heads of d
channels in blocks of BD, D = H·d.
"""

import triton
import triton.language as tl

from unimol_scale.model.fused.programs.row_kernels import keep


@triton.jit
def dot(a, b, WIDE: tl.constexpr):
    """Return a·b, fp32; ``WIDE`` multiplies in fp32, else in the tensors' own dtype."""
    if WIDE:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    return tl.dot(a, b)


@triton.jit
def attention_weights(
    q, k, bias_ptr, mask_ptr, molecule, head, N, H, FACTOR, BN: tl.constexpr, WIDE: tl.constexpr
):  # fmt: skip
    """Return softmax(q·kᵀ·factor + bias + mask) [BN, BN], fp32; zero at columns behind the last node."""
    i, j = tl.arange(0, BN), tl.arange(0, BN)
    pair = (molecule * N + i[:, None]) * N + j[None, :]
    here = (i < N)[:, None] & (j < N)[None, :]
    logits = dot(q, tl.trans(k), WIDE) * FACTOR
    logits += tl.load(bias_ptr + pair * H + head, mask=here, other=0.0).to(tl.float32)
    key_mask = tl.load(mask_ptr + molecule * N + j, mask=j < N, other=float("-inf")).to(tl.float32)
    logits += key_mask[None, :]
    weights = tl.exp(logits - tl.max(logits, 1)[:, None])
    return weights / tl.sum(weights, 1)[:, None]


@triton.jit
def attention(
    qkv_ptr, bias_ptr, mask_ptr, mixed_ptr, seed_ptr, stream, N, H, D, FACTOR,
    CHANNELS: tl.constexpr, THRESHOLD: tl.constexpr, SCALE: tl.constexpr,
    GROUP: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Write Σ_j dropout(weights_ij)·v_j [B·N, D]."""
    molecule, first = tl.program_id(0), tl.program_id(1) * GROUP
    node, channel = tl.arange(0, BN), tl.arange(0, BD)
    here = (node < N)[:, None] & (channel < CHANNELS)[None, :]
    for head in range(first, tl.minimum(first + GROUP, H)):
        place = (molecule * N + node[:, None]) * (3 * D) + head * CHANNELS + channel[None, :]
        q = tl.load(qkv_ptr + place, mask=here, other=0.0)
        k = tl.load(qkv_ptr + D + place, mask=here, other=0.0)
        v = tl.load(qkv_ptr + 2 * D + place, mask=here, other=0.0)
        weights = attention_weights(q, k, bias_ptr, mask_ptr, molecule, head, N, H, FACTOR, BN, WIDE)
        if THRESHOLD > 0:
            line = (molecule * H + head) * BN + node
            weights *= tl.where(keep(seed_ptr, stream, line, tl.arange(0, BN // 4), BN // 4, THRESHOLD), SCALE, 0.0)
        mixed = dot(weights.to(v.dtype), v, WIDE)
        to = (molecule * N + node[:, None]) * D + head * CHANNELS + channel[None, :]
        tl.store(mixed_ptr + to, mixed.to(mixed_ptr.dtype.element_ty), mask=here)


@triton.jit
def attention_backward(
    grad_ptr, qkv_ptr, bias_ptr, mask_ptr, grad_qkv_ptr, grad_bias_ptr, seed_ptr, stream, N, H, D, FACTOR,
    CHANNELS: tl.constexpr, THRESHOLD: tl.constexpr, SCALE: tl.constexpr,
    GROUP: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Write the gradients of queries, keys, values [B·N, 3D] and of the bias [B·N², H]; weights are made again."""
    molecule, first = tl.program_id(0), tl.program_id(1) * GROUP
    node, channel = tl.arange(0, BN), tl.arange(0, BD)
    here = (node < N)[:, None] & (channel < CHANNELS)[None, :]
    pair = (molecule * N + node[:, None]) * N + node[None, :]
    pair_here = (node < N)[:, None] & (node < N)[None, :]
    for head in range(first, tl.minimum(first + GROUP, H)):
        place = (molecule * N + node[:, None]) * (3 * D) + head * CHANNELS + channel[None, :]
        q = tl.load(qkv_ptr + place, mask=here, other=0.0)
        k = tl.load(qkv_ptr + D + place, mask=here, other=0.0)
        v = tl.load(qkv_ptr + 2 * D + place, mask=here, other=0.0)
        of = (molecule * N + node[:, None]) * D + head * CHANNELS + channel[None, :]
        grad = tl.load(grad_ptr + of, mask=here, other=0.0)
        weights = attention_weights(q, k, bias_ptr, mask_ptr, molecule, head, N, H, FACTOR, BN, WIDE)
        dropped, grad_weights = weights, dot(grad, tl.trans(v), WIDE)
        if THRESHOLD > 0:
            line = (molecule * H + head) * BN + node
            factor = tl.where(keep(seed_ptr, stream, line, tl.arange(0, BN // 4), BN // 4, THRESHOLD), SCALE, 0.0)
            dropped, grad_weights = weights * factor, grad_weights * factor
        grad_v = dot(tl.trans(dropped.to(grad.dtype)), grad, WIDE)
        grad_logits = weights * (grad_weights - tl.sum(weights * grad_weights, 1)[:, None])
        tl.store(grad_bias_ptr + pair * H + head, grad_logits.to(grad_bias_ptr.dtype.element_ty), mask=pair_here)
        narrow = grad_logits.to(q.dtype)
        grad_q, grad_k = dot(narrow, k, WIDE) * FACTOR, dot(tl.trans(narrow), q, WIDE) * FACTOR
        tl.store(grad_qkv_ptr + place, grad_q.to(grad_qkv_ptr.dtype.element_ty), mask=here)
        tl.store(grad_qkv_ptr + D + place, grad_k.to(grad_qkv_ptr.dtype.element_ty), mask=here)
        tl.store(grad_qkv_ptr + 2 * D + place, grad_v.to(grad_qkv_ptr.dtype.element_ty), mask=here)


@triton.jit
def add_product(
    rows_ptr, a_ptr, b_ptr, y_ptr, R, H: tl.constexpr, P: tl.constexpr,
    BR: tl.constexpr, BH: tl.constexpr, BP: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Write rows [R, P] + a [R, H]·b [H, P]."""
    row, column = tl.program_id(0) * BR + tl.arange(0, BR), tl.program_id(1) * BP + tl.arange(0, BP)
    head = tl.arange(0, BH)
    here = (row < R)[:, None] & (column < P)[None, :]
    a = tl.load(a_ptr + row[:, None] * H + head[None, :], mask=(row < R)[:, None] & (head < H)[None, :], other=0.0)
    b = tl.load(
        b_ptr + head[:, None] * P + column[None, :], mask=(head < H)[:, None] & (column < P)[None, :], other=0.0
    )
    place = row[:, None] * P + column[None, :]
    y = tl.load(rows_ptr + place, mask=here, other=0.0).to(tl.float32) + dot(a, b, WIDE)
    tl.store(y_ptr + place, y.to(y_ptr.dtype.element_ty), mask=here)
