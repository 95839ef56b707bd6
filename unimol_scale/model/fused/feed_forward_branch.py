"""The pairs' feed-forward branch as a differentiable operation, with its layer norm, dropout and sum.

It keeps for the backward pass no more than that of ``kernels`` does; what is dropped is drawn again there.
"""

from typing import Any

import torch
from torch import Tensor

from unimol_scale.model.fused.branch_steps import (
    PartialSums,
    add_branch,
    enter_backward,
    gelu,
    gelu_backward,
    layer_norm,
    layer_norm_backward,
    rows_of,
)
from unimol_scale.model.fused.dropping import Dropping


class FusedFeedForwardFunction(torch.autograd.Function):
    """x + D(W₂·D'(GELU(W₁·LN(x) + b₁)) + b₂) over the last axis of pairs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dropping: Dropping, inner: Dropping, *weights: Tensor) -> Tensor:  # noqa: ANN401, D102
        norm_weight, norm_bias, up_weight, up_bias, down_weight, down_bias = weights
        rows = rows_of(x)
        normal, mean, rstd = layer_norm(rows, norm_weight, norm_bias)
        hidden = torch.addmm(up_bias, normal, up_weight.t())
        update = torch.addmm(down_bias, gelu(hidden, inner), down_weight.t())
        ctx.save_for_backward(rows, mean, rstd, hidden, norm_weight, norm_bias, up_weight, down_weight)
        ctx.dropping, ctx.inner, ctx.molecule = dropping, inner, len(rows) // len(x)
        return add_branch(rows, update, dropping, molecule=ctx.molecule).view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401, D102
        rows, mean, rstd, hidden, norm_weight, norm_bias, up_weight, down_weight = ctx.saved_tensors
        grad_rows, (W, H) = rows_of(grad), down_weight.shape
        sums = PartialSums(rows, W, H, W, W)
        norm = (norm_weight, norm_bias)
        grad_update, normal = enter_backward(
            grad_rows, rows, (mean, rstd), norm, sums.of(0, 1), ctx.dropping, ctx.molecule
        )
        active, grad_hidden = gelu_backward(hidden, grad_update @ down_weight, sums.of(1, 2), ctx.inner)
        grad_down, grad_up = grad_update.t() @ active, grad_hidden.t() @ normal
        grad_x = layer_norm_backward(
            grad_hidden @ up_weight, rows, mean, rstd, norm_weight, sums.of(2, 4), residual=grad_rows
        )
        down_bias, up_bias, *norm_sums = sums.total()
        return grad_x.view_as(grad), None, None, *norm_sums, grad_up, up_bias, grad_down, down_bias
