"""Triton kernels of the coordinate head: atoms move by attention over relative positions, summed over all heads.

The virtual node, first of a molecule's N nodes, takes no part: as a key it is left out, and its query moves nothing.
Shapes as in attention_kernels.py; coordinates are fp32 [B, N − 1, 3].
"""

import triton
import triton.language as tl

from unimol_scale.model.fused.programs.attention_kernels import dot
from unimol_scale.model.fused.programs.row_kernels import keep


@triton.jit
def atom_weights(
    q, k, bias_ptr, valid_ptr, molecule, head, N, H, FACTOR, BN: tl.constexpr, WIDE: tl.constexpr
):  # fmt: skip
    """Return softmax(q·kᵀ·factor + bias) over the atoms [BN, BN], fp32; zero at the virtual node and at padding."""
    i, j = tl.arange(0, BN), tl.arange(0, BN)
    pair = (molecule * N + i[:, None]) * N + j[None, :]
    here = (i < N)[:, None] & (j < N)[None, :]
    logits = dot(q, tl.trans(k), WIDE) * FACTOR
    logits += tl.load(bias_ptr + pair * H + head, mask=here, other=0.0).to(tl.float32)
    is_atom = (tl.load(valid_ptr + molecule * N + j, mask=j < N, other=0) != 0) & (j > 0)
    logits = tl.where(is_atom[None, :], logits, -1e30)  # finite, for molecules without atoms
    weights = tl.exp(logits - tl.max(logits, 1)[:, None])
    return weights / tl.sum(weights, 1)[:, None]


@triton.jit
def coordinate_of(coordinates_ptr, molecule, node, N, axis: tl.constexpr):
    """Return a coordinate of the nodes; zero of the virtual one."""
    place = (molecule * (N - 1) + node - 1) * 3 + axis
    return tl.load(coordinates_ptr + place, mask=(node > 0) & (node < N), other=0.0)


@triton.jit
def move_atoms(
    qkv_ptr, bias_ptr, valid_ptr, force_ptr, coordinates_ptr, moved_ptr, seed_ptr, stream, N, H, D, FACTOR,
    CHANNELS: tl.constexpr, THRESHOLD: tl.constexpr, SCALE: tl.constexpr,
    BN: tl.constexpr, BD: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Write r_i + Σ_j (r_j − r_i) · Σ_heads dropout(weights_ij) · (v_j · f)."""
    molecule, node, channel = tl.program_id(0), tl.arange(0, BN), tl.arange(0, BD)
    here = (node < N)[:, None] & (channel < CHANNELS)[None, :]
    total = tl.zeros((BN, BN), tl.float32)
    for head in range(0, H):
        place = (molecule * N + node[:, None]) * (3 * D) + head * CHANNELS + channel[None, :]
        q = tl.load(qkv_ptr + place, mask=here, other=0.0)
        k = tl.load(qkv_ptr + D + place, mask=here, other=0.0)
        v = tl.load(qkv_ptr + 2 * D + place, mask=here, other=0.0).to(tl.float32)
        force = tl.load(force_ptr + head * CHANNELS + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)
        weights = atom_weights(q, k, bias_ptr, valid_ptr, molecule, head, N, H, FACTOR, BN, WIDE)
        if THRESHOLD > 0:
            line = (molecule * H + head) * BN + node
            weights *= tl.where(keep(seed_ptr, stream, line, tl.arange(0, BN // 4), BN // 4, THRESHOLD), SCALE, 0.0)
        total += weights * tl.sum(v * force[None, :], 1)[None, :]
    to = moved_ptr + (molecule * (N - 1) + node - 1) * 3
    for axis in tl.static_range(0, 3):
        x = coordinate_of(coordinates_ptr, molecule, node, N, axis)
        moved = x + tl.sum(total * (x[None, :] - x[:, None]), 1)
        tl.store(to + axis, moved, mask=(node > 0) & (node < N))


@triton.jit
def move_atoms_backward(
    grad_ptr, qkv_ptr, bias_ptr, valid_ptr, force_ptr, coordinates_ptr, grad_qkv_ptr, grad_bias_ptr, grad_force_ptr,
    seed_ptr, stream, N, H, D, FACTOR,
    CHANNELS: tl.constexpr, THRESHOLD: tl.constexpr, SCALE: tl.constexpr,
    GROUP: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Write the gradients of queries, keys, values [B·N, 3D], of the bias [B·N², H] and, by molecules, of f [B, D]."""
    molecule, first = tl.program_id(0), tl.program_id(1) * GROUP
    node, channel = tl.arange(0, BN), tl.arange(0, BD)
    here = (node < N)[:, None] & (channel < CHANNELS)[None, :]
    pair = (molecule * N + node[:, None]) * N + node[None, :]
    pair_here = (node < N)[:, None] & (node < N)[None, :]
    of_total = tl.zeros((BN, BN), tl.float32)
    for axis in tl.static_range(0, 3):
        x = coordinate_of(coordinates_ptr, molecule, node, N, axis)
        grad = coordinate_of(grad_ptr, molecule, node, N, axis)
        of_total += grad[:, None] * (x[None, :] - x[:, None])
    for head in range(first, tl.minimum(first + GROUP, H)):
        place = (molecule * N + node[:, None]) * (3 * D) + head * CHANNELS + channel[None, :]
        q = tl.load(qkv_ptr + place, mask=here, other=0.0)
        k = tl.load(qkv_ptr + D + place, mask=here, other=0.0)
        v = tl.load(qkv_ptr + 2 * D + place, mask=here, other=0.0).to(tl.float32)
        force = tl.load(force_ptr + head * CHANNELS + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)
        weights = atom_weights(q, k, bias_ptr, valid_ptr, molecule, head, N, H, FACTOR, BN, WIDE)
        of_weights = of_total
        if THRESHOLD > 0:
            line = (molecule * H + head) * BN + node
            kept = keep(seed_ptr, stream, line, tl.arange(0, BN // 4), BN // 4, THRESHOLD)
            of_weights = tl.where(kept, of_total * SCALE, 0.0)
        of_strength = tl.sum(weights * of_weights, 0)
        grad_weights = of_weights * tl.sum(v * force[None, :], 1)[None, :]
        grad_logits = weights * (grad_weights - tl.sum(weights * grad_weights, 1)[:, None])
        tl.store(grad_bias_ptr + pair * H + head, grad_logits.to(grad_bias_ptr.dtype.element_ty), mask=pair_here)
        narrow = grad_logits.to(q.dtype)
        grad_q, grad_k = dot(narrow, k, WIDE) * FACTOR, dot(tl.trans(narrow), q, WIDE) * FACTOR
        grad_v = of_strength[:, None] * force[None, :]
        tl.store(grad_qkv_ptr + place, grad_q.to(grad_qkv_ptr.dtype.element_ty), mask=here)
        tl.store(grad_qkv_ptr + D + place, grad_k.to(grad_qkv_ptr.dtype.element_ty), mask=here)
        tl.store(grad_qkv_ptr + 2 * D + place, grad_v.to(grad_qkv_ptr.dtype.element_ty), mask=here)
        to = grad_force_ptr + molecule * D + head * CHANNELS + channel
        tl.store(to, tl.sum(of_strength[:, None] * v, 0), mask=channel < CHANNELS)
