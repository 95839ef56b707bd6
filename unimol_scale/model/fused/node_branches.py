"""The three branches that begin with a layer's nodes, as one differentiable operation: few kernels between products.

Attention and the feed-forward branch update nodes x, the outer product updates the pairs by them:

    y = x + D(attention(LN(x), pairs)),  z = y + D(feed-forward(LN(y))),  pairs + D(outer product(LN(z)))

One kernel ends a branch and begins the next (joint_kernels.py). No more is kept for the backward pass than ``kernels``
keep; what is dropped is drawn again there. Shapes as there; M = B·N rows of nodes, R = B·N² rows of pairs, F hidden
channels, X = h·P.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unimol_scale.model.fused.branch_steps import (
    Normalised,
    PartialSums,
    add_branch_and_norm,
    drawn_from,
    gelu,
    gelu_backward,
    layer_norm,
    layer_norm_backward,
    leave_and_enter_backward,
    rows_of,
)
from unimol_scale.model.fused.dropping import Dropping, NodeDroppings
from unimol_scale.model.fused.launching import MAX_NODES, block, in_fp32, launch, programs, rows_per_block, warps
from unimol_scale.model.kernels import OUTER_PRODUCT_EPSILON

# Heads that a program computes one after another: as many as lie in 32 bytes of a row of the bias in bf16.
HEADS_PER_PROGRAM = 16
# Pair channels that a program of the outer product holds.
OUTER_CHANNELS = 128
# Of a block of a sum with a product of few columns.
PRODUCT_ROWS, PRODUCT_COLUMNS = 64, 128


class AttentionWeights(NamedTuple):
    """Weights of ``layers.PairBiasedAttention``."""

    norm_weight: Tensor
    norm_bias: Tensor
    qkv_weight: Tensor
    pair_weight: Tensor
    pair_bias: Tensor
    out_weight: Tensor
    out_bias: Tensor


class FeedForwardWeights(NamedTuple):
    """Weights of ``layers.FeedForward``."""

    norm_weight: Tensor
    norm_bias: Tensor
    up_weight: Tensor
    up_bias: Tensor
    down_weight: Tensor
    down_bias: Tensor


class OuterProductWeights(NamedTuple):
    """Weights of ``layers.OuterProduct``."""

    norm_weight: Tensor
    norm_bias: Tensor
    project_weight: Tensor
    project_bias: Tensor
    weight_hX: Tensor
    bias_P: Tensor


def _of_branches(weights: Sequence[Tensor]) -> tuple[AttentionWeights, FeedForwardWeights, OuterProductWeights]:
    first, second = len(AttentionWeights._fields), -len(OuterProductWeights._fields)
    return (
        AttentionWeights(*weights[:first]),
        FeedForwardWeights(*weights[first:second]),
        OuterProductWeights(*weights[second:]),
    )


class FusedNodesFunction(torch.autograd.Function):
    """Updated nodes [B, N, D] and pairs [B, N, N, P]; ``weights`` are those of the three branches in their order.

    The constant that the pair bias adds to all logits of a head moves no softmax: it is left out, its gradient is zero.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,  # noqa: ANN401
        atom_BND: Tensor,
        pair_BNNP: Tensor,
        key_mask_B1N: Tensor,
        count_B: Tensor,
        valid_BN1: Tensor,
        droppings: NodeDroppings,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        attention, ffn, outer = _of_branches(weights)
        x, pair_BNNP, N = rows_of(atom_BND), pair_BNNP.contiguous(), atom_BND.shape[1]

        normal, *x_statistics = layer_norm(x, *attention[:2])
        qkv_M3D, bias_RH = normal @ attention.qkv_weight.t(), rows_of(pair_BNNP) @ attention.pair_weight.t()
        of_attention = (qkv_M3D, bias_RH, key_mask_B1N.squeeze(1).contiguous())
        mixed_MD, H = torch.empty_like(x), len(attention.pair_weight)
        launch_attention(
            "attention_kernels.attention", atom_BND.shape, H, droppings.attention_weights, *of_attention, mixed_MD
        )
        update = torch.addmm(attention.out_bias, mixed_MD, attention.out_weight.t())

        y, normal, y_statistics = add_branch_and_norm(x, update, droppings.attention, ffn[:2], molecule=N)
        hidden_MF = torch.addmm(ffn.up_bias, normal, ffn.up_weight.t())
        update = torch.addmm(ffn.down_bias, gelu(hidden_MF, droppings.activation), ffn.down_weight.t())

        z, normal, z_statistics = add_branch_and_norm(y, update, droppings.feed_forward, outer[:2], molecule=N)
        factors_Mk = torch.addmm(outer.project_bias, normal, outer.project_weight.t())
        of_outer = (factors_Mk, count_B.contiguous(), valid_BN1.contiguous())
        updated_BNNP = outer_product(pair_BNNP, of_outer, outer, droppings.outer_product)

        ctx.save_for_backward(
            pair_BNNP, x, *x_statistics, *of_attention, mixed_MD, y, *y_statistics, hidden_MF,
            z, *z_statistics, normal, *of_outer, *weights,
        )  # fmt: skip
        ctx.droppings = droppings
        return z.view_as(atom_BND), updated_BNNP

    @staticmethod
    def backward(ctx: Any, grad_BND: Tensor, grad_BNNP: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401, D102
        (
            pair_BNNP, x, x_mean, x_rstd, qkv_M3D, bias_RH, key_mask_BN, mixed_MD, y, y_mean, y_rstd, hidden_MF,
            z, z_mean, z_rstd, z_normal, factors_Mk, count_B, valid_BN1, *weights,
        ) = ctx.saved_tensors  # fmt: skip
        attention, ffn, outer = _of_branches(weights)
        droppings, D, N = ctx.droppings, x.shape[1], grad_BND.shape[1]
        of_x = Normalised(x=x, statistics=(x_mean, x_rstd), norm=attention[:2])
        of_y = Normalised(x=y, statistics=(y_mean, y_rstd), norm=ffn[:2])
        of_z = Normalised(x=z, statistics=(z_mean, z_rstd), norm=outer[:2])
        F, k = hidden_MF.shape[1], factors_Mk.shape[1]
        sums = PartialSums(x, k, D, D, D, F, D, D, D, D, D)
        grad_BNNP = grad_BNNP.contiguous()

        known = (factors_Mk, count_B, valid_BN1)
        grad_factors, grad_weight_hX, bias_sums_MP = outer_product_backward(
            grad_BNNP, known, outer, droppings.outer_product, sums.of(0, 1)
        )
        grad_project = grad_factors.t() @ z_normal

        grad_z, grad_update, normal = leave_and_enter_backward(
            grad_factors @ outer.project_weight, of_z, rows_of(grad_BND), of_y, sums.of(1, 4), droppings.feed_forward, N
        )
        active, grad_hidden = gelu_backward(
            hidden_MF, grad_update @ ffn.down_weight, sums.of(4, 5), droppings.activation
        )  # fmt: skip
        grad_down, grad_up = grad_update.t() @ active, grad_hidden.t() @ normal

        grad_y, grad_update, normal = leave_and_enter_backward(
            grad_hidden @ ffn.up_weight, of_y, grad_z, of_x, sums.of(5, 8), droppings.attention, N
        )
        grad_out = grad_update.t() @ mixed_MD
        grad_qkv, grad_bias = torch.empty_like(qkv_M3D), torch.empty_like(bias_RH)
        tensors = (grad_update @ attention.out_weight, qkv_M3D, bias_RH, key_mask_BN, grad_qkv, grad_bias)
        H = len(attention.pair_weight)
        launch_attention(
            "attention_kernels.attention_backward", grad_BND.shape, H, droppings.attention_weights, *tensors
        )
        grad_qkv_weight, grad_pair_weight = grad_qkv.t() @ normal, grad_bias.t() @ rows_of(pair_BNNP)
        grad_pair = add_product(rows_of(grad_BNNP), grad_bias, attention.pair_weight)
        grad_x = layer_norm_backward(
            grad_qkv @ attention.qkv_weight, x, x_mean, x_rstd, attention.norm_weight, sums.of(8, 10), residual=grad_y
        )

        project_bias, z_w, z_b, down_bias, up_bias, y_w, y_b, out_bias, x_w, x_b, bias_P, pair_bias = sums.total(
            bias_sums_MP, zeros=H
        )
        return (
            grad_x.view_as(grad_BND), grad_pair.view_as(pair_BNNP), None, None, None, None,
            x_w, x_b, grad_qkv_weight, grad_pair_weight, pair_bias, grad_out, out_bias,
            y_w, y_b, grad_up, up_bias, grad_down, down_bias,
            z_w, z_b, grad_project, project_bias, grad_weight_hX, bias_P,
        )  # fmt: skip


def launch_attention(kernel: str, shape_BND: Sequence[int], H: int, inner: Dropping, *tensors: Tensor) -> None:
    """Start a kernel of attention of nodes [B, N, D] with H heads; the first of its tensors tells the dtype."""
    (B, N, D), x = shape_BND, tensors[0]
    group = min(H, HEADS_PER_PROGRAM)
    sizes = {"CHANNELS": D // H, "GROUP": group, "BN": block(N), "BD": block(D // H), "WIDE": in_fp32(x)}
    sizes["num_warps"] = warps(N)
    numbers = (N, H, D, (D // H) ** -0.5)
    launch(kernel, (B, -(-H // group)), *tensors, *drawn_from(inner, x), *numbers, **sizes, **inner.of_values())


def add_product(rows_RP: Tensor, a_RH: Tensor, b_HP: Tensor) -> Tensor:
    """Return rows + a·b, for few columns H of a."""
    y_RP, (R, P) = torch.empty_like(rows_RP), rows_RP.shape
    BP, H = min(block(P), PRODUCT_COLUMNS), len(b_HP)
    grid = (-(-R // PRODUCT_ROWS), -(-P // BP))
    sizes = {"H": H, "P": P, "BR": PRODUCT_ROWS, "BH": block(H), "BP": BP, "WIDE": in_fp32(rows_RP)}
    launch("attention_kernels.add_product", grid, rows_RP, a_RH, b_HP, y_RP, R, **sizes)
    return y_RP


def outer_product(
    pair_BNNP: Tensor, known: tuple[Tensor, Tensor, Tensor], weights: OuterProductWeights, dropping: Dropping
) -> Tensor:
    """Return pairs + D(outer product); ``known`` are the factors [M, 2h], n, and which nodes are no padding."""
    (B, N, _, P), T_MX, y_BNNP = pair_BNNP.shape, _first_contraction(known[0], weights), torch.empty_like(pair_BNNP)
    sizes = _sizes(pair_BNNP, known[0], dropping)
    launch(
        "outer_product_kernels.outer_product", (B * N, -(-P // sizes["BP"])),
        pair_BNNP, T_MX, *known, weights.bias_P, y_BNNP, *drawn_from(dropping, y_BNNP), N,
        **sizes, num_warps=warps(N),
    )  # fmt: skip
    return y_BNNP


def outer_product_backward(
    grad_BNNP: Tensor,
    known: tuple[Tensor, Tensor, Tensor],
    weights: OuterProductWeights,
    dropping: Dropping,
    sums: tuple[Tensor, int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the factors and the weight, and rows whose sum is that of the bias.

    The sums are of the factors' bias.
    """
    factors_Mk, N = known[0], grad_BNNP.shape[1]
    M, h = len(factors_Mk), len(weights.weight_hX)
    T_MX = _first_contraction(factors_Mk, weights)
    grad_T_MX, grad_b_MNh = torch.empty_like(T_MX), T_MX.new_empty(M, N, h)
    bias_sums_MP = T_MX.new_empty(M, len(weights.bias_P), dtype=torch.float32)
    outputs = (grad_T_MX, grad_b_MNh, bias_sums_MP)
    launch(
        "outer_product_kernels.outer_product_backward", (M,),
        grad_BNNP, T_MX, *known, *outputs, *drawn_from(dropping, grad_BNNP), N,
        **_sizes(grad_BNNP, factors_Mk, dropping), num_warps=warps(MAX_NODES),
    )  # fmt: skip
    grad_weight_hX, grad_factors_Mk = factors_Mk[:, :h].t() @ grad_T_MX, torch.empty_like(factors_Mk)
    torch.mm(grad_T_MX, weights.weight_hX.t(), out=grad_factors_Mk[:, :h])
    sizes = {"h": h, "BR": rows_per_block(h), "BH": block(h)}
    tensors = (grad_b_MNh, grad_factors_Mk, *sums)
    launch("outer_product_kernels.sum_over_first_nodes", (programs(),), *tensors, M, N, **sizes)
    return grad_factors_Mk, grad_weight_hX, bias_sums_MP


def _first_contraction(factors_Mk: Tensor, weights: OuterProductWeights) -> Tensor:
    return factors_Mk[:, : len(weights.weight_hX)] @ weights.weight_hX


def _sizes(pair_BNNP: Tensor, factors_Mk: Tensor, dropping: Dropping) -> dict[str, Any]:
    (_, N, _, P), h = pair_BNNP.shape, factors_Mk.shape[1] // 2
    return {
        "h": h, "P": P, "EPSILON": OUTER_PRODUCT_EPSILON, "BN": block(N), "BH": block(h),
        "BP": min(block(P), OUTER_CHANNELS), "WIDTH": block(P), "WIDE": in_fp32(factors_Mk), **dropping.constants(),
    }  # fmt: skip
