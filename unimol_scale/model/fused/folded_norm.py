"""The steps of a layer norm that linear maps take in: each starts one kernel of norm_kernels.py."""

import torch
from torch import Tensor

from unimol_scale.model.fused.launching import block, launch, rows_per_block
from unimol_scale.model.kernels import NORM_EPSILON

_COLUMNS, _ROWS = 32, 64
# Weight and bias of a map.
Map = tuple[Tensor, Tensor]


def _row_blocks(R: int, W: int) -> tuple[tuple[int], dict[str, int]]:
    BR = rows_per_block(W)
    return (-(-R // BR),), {"W": W, "BR": BR, "BW": block(W)}


def statistics(rows_RW: Tensor) -> tuple[Tensor, Tensor]:
    """Return means and reciprocal deviations of rows, fp32 [R]."""
    R, W = rows_RW.shape
    found = rows_RW.new_empty(2, R, dtype=torch.float32)
    grid, sizes = _row_blocks(R, W)
    launch("norm_kernels.statistics", grid, rows_RW, found[0], found[1], R, EPSILON=NORM_EPSILON, **sizes)
    return found[0], found[1]


def fold_norm(maps: tuple[Map, Map], norm_weight: Tensor, norm_bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return W' [C, W] and, fp32, b' [C] of two maps of one norm, one below the other."""
    (first, first_bias), (second, second_bias) = maps
    C1, C2, W = len(first), len(second), len(norm_weight)
    folded, bias = first.new_empty(C1 + C2, W), first.new_empty(C1 + C2, dtype=torch.float32)
    grid, sizes = _row_blocks(C1 + C2, W)
    tensors = (first, second, first_bias, second_bias, norm_weight, norm_bias, folded, bias)
    launch("norm_kernels.fold_norm", grid, *tensors, C1, C2, **sizes)
    return folded, bias


def unfold_norm(
    grad_folded: Tensor,
    weights: tuple[Tensor, Tensor],
    norm_weight: Tensor,
    norm_bias: Tensor,
    bias_sum: Tensor,
    mean_sum: Tensor,
) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    """Return the gradients of both maps' weights, and of weight and bias of the norm.

    Args:
        grad_folded: gᵀ·x, with g the gradient of x·W'ᵀ.
        weights: of the maps.
        norm_weight: of the norm.
        norm_bias: of the norm.
        bias_sum: where in memory the gradient of b' begins [C].
        mean_sum: where in memory the sums of g by the means of x begin [C].
    """
    (first, second), W = weights, len(norm_weight)
    found = (torch.empty_like(first), torch.empty_like(second))
    of_norm = (torch.empty_like(norm_weight), torch.empty_like(norm_bias))
    tensors = (grad_folded, first, second, norm_weight, norm_bias, bias_sum, mean_sum, *found, *of_norm)
    sizes = {"W": W, "BR": _ROWS, "BW": _COLUMNS}
    launch("norm_kernels.unfold_norm", (-(-W // _COLUMNS),), *tensors, len(first), len(second), **sizes)
    return found, *of_norm


def folded_backward(grad: Tensor, rows: Tensor, mean: Tensor, rstd: Tensor, residual: Tensor) -> Tensor:
    """Return the gradient of rows x from ``grad`` = g·W', added to that of a residual."""
    grad_x = torch.empty_like(rows)
    grid, sizes = _row_blocks(*rows.shape)
    launch("norm_kernels.folded_backward", grid, grad, rows, mean, rstd, residual, grad_x, len(rows), **sizes)
    return grad_x
