"""The residual branches of a layer as differentiable operations: matrix products of torch, Triton kernels in between.

Each is x + dropout(branch(x)): the layer norm that it starts with and the dropout and sum that it ends with included.
They keep for the backward pass no more than those of ``kernels`` do; what is dropped is drawn again there. Shapes as
there; M = B·N rows of nodes, R = B·N² rows of pairs.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unimol_scale.model.fused.branch_steps import (
    PartialSums,
    add_branch,
    drawn_from,
    enter_backward,
    gelu,
    gelu_backward,
    layer_norm,
    layer_norm_backward,
)
from unimol_scale.model.fused.dropping import Dropping
from unimol_scale.model.fused.launching import MAX_NODES, block, in_fp32, launch, programs, rows_per_block, warps
from unimol_scale.model.kernels import OUTER_PRODUCT_EPSILON

# Heads that a program computes one after another: as many as lie in 32 bytes of a row of the bias in bf16.
HEADS_PER_PROGRAM = 16
# Pair channels that a program of the outer product holds.
OUTER_CHANNELS = 128
# Of a block of a sum with a product of few columns.
PRODUCT_ROWS, PRODUCT_COLUMNS = 64, 128
Gradients = tuple[Tensor | None, ...]


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1]).contiguous()


class FusedFeedForwardFunction(torch.autograd.Function):
    """x + D(W₂·D'(GELU(W₁·LN(x) + b₁)) + b₂) over the last axis of nodes or pairs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dropping: Dropping, inner: Dropping, *weights: Tensor) -> Tensor:  # noqa: ANN401, D102
        norm_weight, norm_bias, up_weight, up_bias, down_weight, down_bias = weights
        rows = _rows(x)
        normal, mean, rstd = layer_norm(rows, norm_weight, norm_bias)
        hidden = torch.addmm(up_bias, normal, up_weight.t())
        update = torch.addmm(down_bias, gelu(hidden, inner), down_weight.t())
        ctx.save_for_backward(rows, mean, rstd, hidden, norm_weight, norm_bias, up_weight, down_weight)
        ctx.dropping, ctx.inner, ctx.molecule = dropping, inner, len(rows) // len(x)
        return add_branch(rows, update, dropping, molecule=ctx.molecule).view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:  # noqa: ANN401, D102
        rows, mean, rstd, hidden, norm_weight, norm_bias, up_weight, down_weight = ctx.saved_tensors
        grad_rows, (W, H) = _rows(grad), down_weight.shape
        sums = PartialSums(rows, W, H, W, W)
        norm = (norm_weight, norm_bias)
        grad_update, normal = enter_backward(
            grad_rows, rows, (mean, rstd), norm, sums.of(0), ctx.dropping, ctx.molecule
        )
        active, grad_hidden = gelu_backward(hidden, grad_update @ down_weight, sums.of(1), ctx.inner)
        grad_down, grad_up = grad_update.t() @ active, grad_hidden.t() @ normal
        grad_x = layer_norm_backward(
            grad_hidden @ up_weight, rows, mean, rstd, norm_weight, sums.of(2), residual=grad_rows
        )
        down_bias, up_bias, *norm_sums, _ = sums.total(sums.no_rows(0))
        return grad_x.view_as(grad), None, None, *norm_sums, grad_up, up_bias, grad_down, down_bias


class FusedAttentionFunction(torch.autograd.Function):
    """x + D(W_o·attention + b_o): what ``layers.PairBiasedAttention`` computes of nodes [B, N, D] and pairs.

    The pairs are returned, too: then their other gradients come through here, and are added to in one pass. The
    constant that the pair bias adds to all logits of a head moves no softmax: it is left out, its gradient is zero.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,  # noqa: ANN401
        atom_BND: Tensor,
        pair_BNNP: Tensor,
        key_mask_B1N: Tensor,
        dropping: Dropping,
        inner: Dropping,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        norm_weight, norm_bias, qkv_weight, pair_weight, _, out_weight, out_bias = weights
        rows, key_mask_BN = _rows(atom_BND), key_mask_B1N.squeeze(1).contiguous()
        normal, mean, rstd = layer_norm(rows, norm_weight, norm_bias)
        qkv_M3D, bias_RH = normal @ qkv_weight.t(), _rows(pair_BNNP) @ pair_weight.t()
        mixed_MD = torch.empty_like(rows)
        tensors = (qkv_M3D, bias_RH, key_mask_BN)
        launch_attention("attention_kernels.attention", atom_BND.shape, len(pair_weight), inner, *tensors, mixed_MD)
        update = torch.addmm(out_bias, mixed_MD, out_weight.t())
        ctx.save_for_backward(
            rows, mean, rstd, *tensors, mixed_MD, pair_BNNP,
            norm_weight, norm_bias, qkv_weight, pair_weight, out_weight,
        )  # fmt: skip
        ctx.dropping, ctx.inner, ctx.molecule = dropping, inner, atom_BND.shape[1]
        return add_branch(rows, update, dropping, molecule=ctx.molecule).view_as(atom_BND), pair_BNNP

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_BNNP: Tensor) -> Gradients:  # noqa: ANN401, D102
        (
            rows, mean, rstd, qkv_M3D, bias_RH, key_mask_BN, mixed_MD, pair_BNNP,
            norm_weight, norm_bias, qkv_weight, pair_weight, out_weight,
        ) = ctx.saved_tensors  # fmt: skip
        grad_rows, D = _rows(grad), rows.shape[1]
        sums = PartialSums(rows, D, D, D)
        norm = (norm_weight, norm_bias)
        grad_update, normal = enter_backward(
            grad_rows, rows, (mean, rstd), norm, sums.of(0), ctx.dropping, ctx.molecule
        )
        grad_out_weight = grad_update.t() @ mixed_MD
        grad_qkv, grad_bias = torch.empty_like(qkv_M3D), torch.empty_like(bias_RH)
        tensors = (grad_update @ out_weight, qkv_M3D, bias_RH, key_mask_BN, grad_qkv, grad_bias)
        launch_attention("attention_kernels.attention_backward", grad.shape, len(pair_weight), ctx.inner, *tensors)
        grad_qkv_weight, grad_pair_weight = grad_qkv.t() @ normal, grad_bias.t() @ _rows(pair_BNNP)
        grad_pair = add_product(_rows(grad_BNNP), grad_bias, pair_weight).view_as(pair_BNNP)
        grad_x = layer_norm_backward(
            grad_qkv @ qkv_weight, rows, mean, rstd, norm_weight, sums.of(1), residual=grad_rows
        )
        out_bias, *norm_sums, zero = sums.total(sums.no_rows(len(pair_weight)))
        of_maps = (grad_qkv_weight, grad_pair_weight, zero, grad_out_weight, out_bias)
        return grad_x.view_as(grad), grad_pair, None, None, None, *norm_sums, *of_maps


def add_product(rows_RP: Tensor, a_RH: Tensor, b_HP: Tensor) -> Tensor:
    """Return rows + a·b, for few columns H of a."""
    y_RP, (R, P) = torch.empty_like(rows_RP), rows_RP.shape
    BP, H = min(block(P), PRODUCT_COLUMNS), len(b_HP)
    grid = (-(-R // PRODUCT_ROWS), -(-P // BP))
    sizes = {"H": H, "P": P, "BR": PRODUCT_ROWS, "BH": block(H), "BP": BP, "WIDE": in_fp32(rows_RP)}
    launch("attention_kernels.add_product", grid, rows_RP, a_RH, b_HP, y_RP, R, **sizes)
    return y_RP


def launch_attention(kernel: str, shape_BND: Sequence[int], H: int, inner: Dropping, *tensors: Tensor) -> None:
    """Start a kernel of attention of nodes [B, N, D] with H heads; the first of its tensors tells the dtype."""
    (B, N, D), x = shape_BND, tensors[0]
    group = min(H, HEADS_PER_PROGRAM)
    sizes = {"CHANNELS": D // H, "GROUP": group, "BN": block(N), "BD": block(D // H), "WIDE": in_fp32(x)}
    sizes["num_warps"] = warps(N)
    numbers = (N, H, D, (D // H) ** -0.5)
    launch(kernel, (B, -(-H // group)), *tensors, *drawn_from(inner, x), *numbers, **sizes, **inner.of_values())


class FusedOuterProductFunction(torch.autograd.Function):
    """pair + D(outer product): what ``layers.OuterProduct`` computes of pairs [B, N, N, P] and nodes [B, N, D].

    The nodes are returned, too, so that their other gradients come through here.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,  # noqa: ANN401
        pair_BNNP: Tensor,
        atom_BND: Tensor,
        count_B: Tensor,
        valid_BN1: Tensor,
        dropping: Dropping,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        norm_weight, norm_bias, project_weight, project_bias, weight_hX, bias_P = weights
        (B, N, _), h, P = atom_BND.shape, len(weight_hX), len(bias_P)
        rows = _rows(atom_BND)
        normal, mean, rstd = layer_norm(rows, norm_weight, norm_bias)
        factors_Mk = torch.addmm(project_bias, normal, project_weight.t())
        T_MX = factors_Mk[:, :h] @ weight_hX
        y_BNNP = torch.empty_like(pair_BNNP, memory_format=torch.contiguous_format)
        BP = min(block(P), OUTER_CHANNELS)
        ctx.drawn = drawn_from(dropping, bias_P)
        ctx.sizes = {
            "h": h, "P": P, "EPSILON": OUTER_PRODUCT_EPSILON, "BN": block(N), "BH": block(h), "BP": BP,
            "WIDTH": block(P), "WIDE": in_fp32(atom_BND), "num_warps": warps(N), **dropping.constants(),
        }  # fmt: skip
        known = (factors_Mk, count_B.contiguous(), valid_BN1.contiguous())
        launch(
            "outer_product_kernels.outer_product", (B * N, -(-P // BP)),
            pair_BNNP.contiguous(), T_MX, *known, bias_P, y_BNNP, *ctx.drawn, N, **ctx.sizes,
        )  # fmt: skip
        ctx.save_for_backward(rows, normal, mean, rstd, *known, norm_weight, project_weight, weight_hX)
        return y_BNNP, atom_BND

    @staticmethod
    def backward(ctx: Any, grad_BNNP: Tensor, grad_BND: Tensor) -> Gradients:  # noqa: ANN401, D102
        rows, normal, mean, rstd, *known, norm_weight, project_weight, weight_hX = ctx.saved_tensors
        factors_Mk, (M, D), (B, N, _, P), h = known[0], rows.shape, grad_BNNP.shape, len(weight_hX)
        T_MX = factors_Mk[:, :h] @ weight_hX
        grad_T_MX, grad_b_MNh = torch.empty_like(T_MX), rows.new_empty(M, N, h)
        bias_sums_MP = rows.new_empty(M, P, dtype=torch.float32)
        outputs = (grad_T_MX, grad_b_MNh, bias_sums_MP)
        launch(
            "outer_product_kernels.outer_product_backward", (M,),
            grad_BNNP.contiguous(), T_MX, *known, *outputs, *ctx.drawn, N,
            **{**ctx.sizes, "num_warps": warps(MAX_NODES)},
        )  # fmt: skip
        grad_weight = factors_Mk[:, :h].t() @ grad_T_MX
        grad_factors = torch.empty_like(factors_Mk)
        torch.mm(grad_T_MX, weight_hX.t(), out=grad_factors[:, :h])
        sums = PartialSums(rows, 2 * h, D, D)
        block_of = {"h": h, "BR": rows_per_block(h), "BH": block(h)}
        launch(
            "outer_product_kernels.sum_over_first_nodes", (programs(),),
            grad_b_MNh, grad_factors, *sums.of(0), M, N, **block_of,
        )  # fmt: skip
        grad_project = grad_factors.t() @ normal
        grad_atom = layer_norm_backward(
            grad_factors @ project_weight, rows, mean, rstd, norm_weight, sums.of(1), residual=_rows(grad_BND)
        )
        project_sum, *norm_sums, bias_sum = sums.total(bias_sums_MP)
        of_maps = (grad_project, project_sum, grad_weight, bias_sum)
        return grad_BNNP, grad_atom.view(B, N, D), None, None, None, *norm_sums, *of_maps
