"""The triangle update as a differentiable operation, with its dropout and sum: x + D(triangle update(x)).

Shapes as in ``kernels``: R = B·N² rows of pairs of P channels, Q = N², h hidden channels, C = 4h + P mapped channels.
The layer norm is taken in by the maps that read it (norm_kernels.py): no normalised pairs are written. One draw of D is
shared by a row (i, ·) of pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unimol_scale.model.fused.branch_steps import (
    PartialSums,
    channels_to_rows,
    drawn_from,
    folded_backward_and_unfold,
    statistics_and_fold,
)
from unimol_scale.model.fused.dropping import Dropping
from unimol_scale.model.fused.launching import (
    PITCH,
    block,
    in_fp32,
    interprets,
    launch,
    programs,
    rows_per_block,
    warps,
)
from unimol_scale.model.kernels import NORM_EPSILON

# Programs that keep a sum for the outer map's whole weight: as many as there are multiprocessors, or twice.
_WEIGHT_SUMS = 256
# Of a block of what is gated.
_ROWS, _COLUMNS = 32, 128


class FusedTriangleFunction(torch.autograd.Function):
    """pair + D(triangle update), as ``kernels.TriangleFunction``; keeps what that keeps, and the folded maps."""

    @staticmethod
    def forward(ctx: Any, pair_BNNP: Tensor, scale_B1NN: Tensor, dropping: Dropping, *weights: Tensor) -> Tensor:  # noqa: ANN401, D102
        norm_weight, norm_bias, project_weight, project_bias, *inner, gate_weight, gate_bias = weights
        B, N, _, P = pair_BNNP.shape
        Q, h = N * N, len(inner[0])
        rows, scale_BNN = pair_BNNP.reshape(-1, P).contiguous(), scale_B1NN.contiguous()
        maps = ((project_weight, project_bias), (gate_weight, gate_bias))
        (mean, rstd), (folded_CP, bias_C) = statistics_and_fold(rows, maps, norm_weight, norm_bias)
        project_BcX = rows.new_empty(B, 4 * h, -(-Q // PITCH) * PITCH)
        columns_BPQ = rows.view(B, Q, P).transpose(1, 2)
        torch.bmm(folded_CP[: 4 * h].expand(B, -1, -1), columns_BPQ, out=project_BcX[:, :, :Q])
        product_BhX = rows.new_empty(B, h, project_BcX.shape[2])
        ctx.sizes = {"BN": block(N), "WIDE": in_fp32(rows), "num_warps": warps(N)}
        tensors = (project_BcX, bias_C, scale_BNN, rstd)
        numbers = (N, h, project_BcX.shape[2])
        launch("triangle_kernels.triangle_products", (B, h), *tensors, product_BhX, *numbers, **ctx.sizes)
        gated = Gated(
            gate=rows @ folded_CP[4 * h :].t(), product_BhX=product_BhX, mean=mean, rstd=rstd,
            gate_bias=bias_C[4 * h :], inner=inner, dropping=dropping, N=N,
        )  # fmt: skip
        ctx.save_for_backward(rows, mean, rstd, project_BcX, product_BhX, scale_BNN, folded_CP, bias_C, *weights)
        ctx.dropping, ctx.numbers = dropping, numbers
        return gated_branch(rows, gated).view_as(pair_BNNP)

    @staticmethod
    def backward(ctx: Any, grad_BNNP: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401, D102
        rows, mean, rstd, project_BcX, product_BhX, scale_BNN, folded_CP, bias_C, *weights = ctx.saved_tensors
        norm_weight, norm_bias, project_weight, _, *inner, gate_weight, _ = weights
        (N, h, _), (R, P) = ctx.numbers, rows.shape
        grad = grad_BNNP.reshape(R, P).contiguous()
        sums = PartialSums(rows, P, h, h, 4 * h, P, 4 * h, P)
        grad_mapped_RC = rows.new_empty(R, 4 * h + P)
        gated = Gated(
            gate=rows @ folded_CP[4 * h :].t(), product_BhX=product_BhX, mean=mean, rstd=rstd,
            gate_bias=bias_C[4 * h :], inner=inner, dropping=ctx.dropping, N=N,
        )  # fmt: skip
        grad_product_BhX, weight_sums = gated_branch_backward(grad, gated, sums, grad_mapped_RC[:, 4 * h :])
        grad_project_BcX = torch.empty_like(project_BcX)
        tensors = (grad_product_BhX, project_BcX, bias_C, scale_BNN, rstd, grad_project_BcX)
        launch(
            "triangle_kernels.triangle_products_backward", tuple(product_BhX.shape[:2]),
            *tensors, *ctx.numbers, **ctx.sizes,
        )  # fmt: skip
        channels_to_rows(grad_project_BcX, mean, rstd, grad_mapped_RC[:, : 4 * h], sums.of(3), sums.between(3, 5))
        grad_folded_CP = grad_mapped_RC.t() @ rows
        out_sum, inner_w, inner_b, project_sum, gate_sum, project_means, _, out_weight_sum = sums.total(weight_sums)
        grad_x, (grad_project_weight, grad_gate_weight), (norm_w, norm_b) = folded_backward_and_unfold(
            grad_mapped_RC @ folded_CP, rows, (mean, rstd), grad,
            grad_folded_CP, (project_weight, gate_weight), (norm_weight, norm_bias), (project_sum, project_means),
        )  # fmt: skip
        return (
            grad_x.view_as(grad_BNNP), None, None, norm_w, norm_b, grad_project_weight, project_sum,
            inner_w, inner_b, out_weight_sum.view(P, h), out_sum, grad_gate_weight, gate_sum,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Gated:
    """What D((W·LN(product) + b) ∘ (rstd ∘ gate + gate_bias)) is computed of.

    Attributes:
        gate: rows [R, P].
        product_BhX: channels first.
        mean: of the rows that were mapped to the gate, fp32 [R].
        rstd: of them the reciprocal deviation, fp32 [R].
        gate_bias: fp32 [P].
        inner: weight and bias of the norm of the product, W and b.
        dropping: D.
        N: nodes of a molecule.
    """

    gate: Tensor
    product_BhX: Tensor
    mean: Tensor
    rstd: Tensor
    gate_bias: Tensor
    inner: Sequence[Tensor]
    dropping: Dropping
    N: int

    def sizes(self, rows: int, columns: int) -> dict[str, Any]:
        """Return what its kernels are compiled with, for blocks of so many rows and columns."""
        P, h = self.gate.shape[1], self.product_BhX.shape[1]
        sizes = {"h": h, "W": P, "BR": rows, "BH": block(h), "BP": min(block(P), columns), "WIDTH": block(P)}
        return {**sizes, "WIDE": in_fp32(self.gate), "EPSILON": NORM_EPSILON, **self.dropping.constants()}

    def numbers(self) -> tuple[int, ...]:
        """Return the numbers of rows, of pairs of a molecule, the pitch, and the rows that share a draw."""
        return len(self.gate), self.N * self.N, self.product_BhX.shape[2], self.N


def gated_branch(rows: Tensor, gated: Gated) -> Tensor:
    """Return rows + what is gated, in the memory of its gate."""
    y, sizes = gated.gate, gated.sizes(_ROWS, _COLUMNS)
    tensors = (rows, y, gated.product_BhX, gated.rstd, gated.gate_bias, *gated.inner, y)
    grid = (-(-len(rows) // sizes["BR"]), -(-rows.shape[1] // sizes["BP"]))
    launch("gate_kernels.gated_branch", grid, *tensors, *drawn_from(gated.dropping, rows), *gated.numbers(), **sizes)
    return y


def gated_branch_backward(grad: Tensor, gated: Gated, sums: PartialSums, grad_gate: Tensor) -> tuple[Tensor, Tensor]:
    """Write the gradient of the gate, and return that of the product, and rows whose sum is that of W.

    ``sums`` are of b and the inner norm, then of the projection, the gate, and of both by the means of the rows.
    """
    sizes, (R, P), h = gated.sizes(_ROWS, _COLUMNS), grad.shape, gated.product_BhX.shape[1]
    grid = (programs() if interprets() else _WEIGHT_SUMS, -(-P // sizes["BP"]))
    grad_inner = grad.new_empty(grid[1], R, h)
    weight_sums = grad.new_empty(grid[0], P * h, dtype=torch.float32)
    known = (gated.gate, gated.product_BhX, gated.mean, gated.rstd, gated.gate_bias, *gated.inner)
    tensors = (grad, *known, grad_gate, grad_inner, weight_sums, *sums.of(0))
    offsets, drawn = (sums.between(0, 4), sums.between(0, 6)), drawn_from(gated.dropping, grad)
    numbers = gated.numbers()
    launch(
        "gate_kernels.gated_branch_backward", grid,
        *tensors, *offsets, *drawn, *numbers, grad_gate.stride(0), **sizes, num_warps=8,
    )  # fmt: skip
    grad_product_BhX = torch.empty_like(gated.product_BhX)
    launch(
        "gate_kernels.inner_norm_backward", (programs(),),
        grad_inner, gated.product_BhX, gated.inner[0], grad_product_BhX, *sums.of(1), *numbers[:3], grid[1],
        h=h, EPSILON=NORM_EPSILON, BR=rows_per_block(h), BH=block(h),
    )  # fmt: skip
    return grad_product_BhX, weight_sums
