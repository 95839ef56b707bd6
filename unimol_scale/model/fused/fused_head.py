"""The coordinate head as a differentiable operation: norms, maps, and one kernel for all that lies between.

Shapes: B molecules, A atoms, N = A + 1 nodes (virtual node first), D atom channels, P pair channels, H heads, M = B·N
rows of nodes.
"""

from typing import Any

import torch
from torch import Tensor

from unimol_scale.model.fused.branch_steps import PartialSums, drawn_from, layer_norm, layer_norm_backward
from unimol_scale.model.fused.dropping import Dropping
from unimol_scale.model.fused.launching import block, in_fp32, launch, warps
from unimol_scale.model.fused.node_branches import HEADS_PER_PROGRAM


class FusedCoordinateHeadFunction(torch.autograd.Function):
    """What ``heads.CoordinateHead`` computes of nodes [B, N, D], pairs [B, N, N, P] and coordinates [B, A, 3], fp32."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,  # noqa: ANN401
        atom_BND: Tensor,
        pair_BNNP: Tensor,
        valid_BN: Tensor,
        coordinates_BA3: Tensor,
        inner: Dropping,
        *weights: Tensor,
    ) -> Tensor:
        norm_weight, norm_bias, qkv_weight, pair_weight, _, pair_norm_weight, pair_norm_bias, force = weights
        (B, N, D), (P, H) = atom_BND.shape, (pair_BNNP.shape[-1], len(pair_weight))
        rows, pairs = atom_BND.reshape(-1, D).contiguous(), pair_BNNP.reshape(-1, P).contiguous()
        normal, *statistics = layer_norm(rows, norm_weight, norm_bias)
        normal_pairs, *pair_statistics = layer_norm(pairs, pair_norm_weight, pair_norm_bias)
        qkv_M3D, bias_RH = normal @ qkv_weight.t(), normal_pairs @ pair_weight.t()
        known = (qkv_M3D, bias_RH, valid_BN.contiguous().view(torch.uint8), force, coordinates_BA3.contiguous())
        moved_BA3 = torch.empty_like(known[-1])
        ctx.drawn, ctx.numbers = drawn_from(inner, rows), (N, H, D, (D // H) ** -0.5)
        sizes = {"CHANNELS": D // H, "BN": block(N), "BD": block(D // H), "WIDE": in_fp32(rows), "num_warps": warps(N)}
        ctx.sizes = {**sizes, **inner.of_values()}
        launch("head_kernels.move_atoms", (B,), *known, moved_BA3, *ctx.drawn, *ctx.numbers, **ctx.sizes)
        ctx.save_for_backward(
            rows, normal, *statistics, pairs, normal_pairs, *pair_statistics, *known,
            norm_weight, qkv_weight, pair_weight, pair_norm_weight,
        )  # fmt: skip
        return moved_BA3

    @staticmethod
    def backward(ctx: Any, grad_BA3: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401, D102
        (
            rows, normal, mean, rstd, pairs, normal_pairs, pair_mean, pair_rstd, *known,
            norm_weight, qkv_weight, pair_weight, pair_norm_weight,
        ) = ctx.saved_tensors  # fmt: skip
        (N, H, D, _), B, P = ctx.numbers, len(grad_BA3), pairs.shape[1]
        grad_qkv, grad_bias = torch.empty_like(known[0]), torch.empty_like(known[1])
        forces_BD = rows.new_empty(B, D, dtype=torch.float32)
        group = min(H, HEADS_PER_PROGRAM)
        launch(
            "head_kernels.move_atoms_backward", (B, -(-H // group)),
            grad_BA3.contiguous(), *known, grad_qkv, grad_bias, forces_BD, *ctx.drawn, *ctx.numbers,
            **ctx.sizes, GROUP=group,
        )  # fmt: skip
        sums = PartialSums(rows, D, D, P, P)
        grad_atom = layer_norm_backward(grad_qkv @ qkv_weight, rows, mean, rstd, norm_weight, sums.of(0), residual=None)
        grad_pair = layer_norm_backward(
            grad_bias @ pair_weight, pairs, pair_mean, pair_rstd, pair_norm_weight, sums.of(2), residual=None
        )
        # A constant that is added to all logits of a head moves no softmax.
        norm_w, norm_b, pair_norm_w, _, force, zeros = sums.total(forces_BD, zeros=H + P)
        pair_bias, pair_norm_b = torch.split(zeros, [H, P])
        return (
            grad_atom.view(B, N, D), grad_pair.view(B, N, N, P), None, None, None,
            norm_w, norm_b, grad_qkv.t() @ normal, grad_bias.t() @ normal_pairs,
            pair_bias, pair_norm_w, pair_norm_b, force,
        )  # fmt: skip
