"""The steps that branches of a layer consist of: each starts one Triton kernel on tensors that it checks and makes.

R rows of W channels. Maps that take a norm in, with C channels, are explained in norm_kernels.py. Gradients of biases
and norms, which are sums over rows, go to ``PartialSums``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unimol_scale.model.fused.dropping import NOTHING, Dropping
from unimol_scale.model.fused.launching import block, launch, programs, rows_per_block
from unimol_scale.model.kernels import NORM_EPSILON

_SUM_COLUMNS, _SUM_ROWS = 64, 32
_FOLD_COLUMNS, _FOLD_ROWS = 32, 64
# Weight and bias of a map.
Map = tuple[Tensor, Tensor]


class PartialSums:
    """Sums over rows that several kernels of a branch write, one row a program, and one kernel adds up.

    Args:
        like: tells device and dtype of the sums.
        widths: of the sums.
    """

    def __init__(self, like: Tensor, *widths: int) -> None:
        self.dtype, self.widths = like.dtype, widths
        self.step = sum(widths)
        self.parts = like.new_empty(programs(), self.step, dtype=torch.float32)

    def of(self, first: int, end: int | None = None) -> tuple[Tensor, int]:
        """Return where a kernel writes its sums from ``first`` to before ``end``, and the step from row to row."""
        start = sum(self.widths[:first])
        return self.parts[:, start : start + sum(self.widths[first:end])], self.step

    def between(self, first: int, later: int) -> int:
        """Return how many columns lie between the beginnings of two sums."""
        return sum(self.widths[first:later])

    def total(self, others: Tensor | None = None, *, zeros: int = 0) -> Sequence[Tensor]:
        """Return the sums, then the sum over ``others`` [rows, width], fp32, if given, then so many zeros, if any."""
        others = self.parts.new_empty(0, 0) if others is None else others
        (R, W), (others_R, others_W) = self.parts.shape, others.shape
        total = self.parts.new_empty(W + others_W + zeros, dtype=self.dtype)
        grid = (-(-W // _SUM_COLUMNS) + -(-(others_W + zeros) // _SUM_COLUMNS),)
        tensors, sizes = (self.parts, others, total), (R, W, others_R, others_W, others_W + zeros)
        launch("row_kernels.sum_partials", grid, *tensors, *sizes, BR=_SUM_ROWS, BW=_SUM_COLUMNS)
        return torch.split(total, [width for width in (*self.widths, others_W, zeros) if width])


def _blocks(R: int, W: int) -> tuple[tuple[int], dict[str, int]]:
    BR = rows_per_block(W)
    return (-(-R // BR),), {"W": W, "BR": BR, "BW": block(W)}


def _shared(W: int) -> tuple[tuple[int], dict[str, int]]:
    """Return a grid of programs that share all rows, and the sizes."""
    return (programs(),), _blocks(1, W)[1]


def rows_of(x: Tensor) -> Tensor:
    """Return the rows of the last axis."""
    return x.reshape(-1, x.shape[-1]).contiguous()


def drawn_from(dropping: Dropping, x: Tensor) -> tuple[Tensor, int]:
    """Return the seed, or a part of x without values where nothing is dropped, and the stream."""
    return (x[:0] if dropping.seed is None else dropping.seed), dropping.stream


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the layer norm of rows [R, W], the means and the reciprocal deviations, fp32 [R]."""
    y, statistics = torch.empty_like(x), x.new_empty(2, len(x), dtype=torch.float32)
    grid, sizes = _blocks(*x.shape)
    tensors = (x, weight, bias, y, statistics[0], statistics[1])
    launch("row_kernels.layer_norm", grid, *tensors, len(x), EPSILON=NORM_EPSILON, **sizes)
    return y, statistics[0], statistics[1]


def layer_norm_backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    sums: tuple[Tensor, int],
    residual: Tensor | None,
) -> Tensor:
    """Return the gradient of rows x, added to that of a residual, if any; sums are of the norm's weight and bias."""
    grad_x = torch.empty_like(x)
    grid, sizes = _shared(len(weight))
    tensors = (grad, x, mean, rstd, weight, grad[:0] if residual is None else residual, grad_x)
    constants = {"RESIDUAL": residual is not None, **sizes}
    launch("row_kernels.layer_norm_backward", grid, *tensors, *sums, len(x), **constants)
    return grad_x


def add_branch(x: Tensor, update: Tensor, dropping: Dropping, *, molecule: int) -> Tensor:
    """Return x + dropout(update), in the memory of ``update``.

    Args:
        x: rows.
        update: of the branch.
        dropping: of the branch.
        molecule: rows of one molecule.
    """
    grid, sizes = _blocks(*x.shape)
    tensors = (x, update, update, *drawn_from(dropping, x))
    launch("row_kernels.add_branch", grid, *tensors, len(x), molecule, **sizes, **dropping.constants())
    return update


def add_branch_and_norm(
    x: Tensor, update: Tensor, dropping: Dropping, norm: tuple[Tensor, Tensor], *, molecule: int
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Return y = x + dropout(update), in the memory of ``update``, and what ``layer_norm`` returns of y."""
    normal, statistics = torch.empty_like(x), x.new_empty(2, len(x), dtype=torch.float32)
    grid, sizes = _blocks(*x.shape)
    tensors = (x, update, update, *drawn_from(dropping, x), *norm, normal, statistics[0], statistics[1])
    constants = {"EPSILON": NORM_EPSILON, **sizes, **dropping.constants()}
    launch("joint_kernels.add_branch_and_norm", grid, *tensors, len(x), molecule, **constants)
    return update, normal, (statistics[0], statistics[1])


def enter_backward(
    grad: Tensor, x: Tensor, statistics: tuple[Tensor, Tensor], norm: tuple[Tensor, Tensor],
    sums: tuple[Tensor, int], dropping: Dropping, molecule: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the gradient of a branch's last map and the branch's normalised input; the sums are of the map's bias."""
    grad_update, normal = torch.empty_like(grad), torch.empty_like(x)
    grid, sizes = _shared(x.shape[1])
    tensors = (grad, x, *statistics, *norm, grad_update, normal, *sums, *drawn_from(dropping, x))
    launch("row_kernels.enter_backward", grid, *tensors, len(x), molecule, **sizes, **dropping.constants())
    return grad_update, normal


@dataclass(frozen=True, kw_only=True)
class Normalised:
    """Rows x and their layer norm.

    Attributes:
        x: rows.
        statistics: means and reciprocal deviations.
        norm: weight and bias.
    """

    x: Tensor
    statistics: tuple[Tensor, Tensor]
    norm: tuple[Tensor, Tensor]


def leave_and_enter_backward(
    grad: Tensor, later: Normalised, residual: Tensor, earlier: Normalised,
    sums: tuple[Tensor, int], dropping: Dropping, molecule: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Do ``layer_norm_backward`` of a branch and ``enter_backward`` of the one before, whose ``dropping`` it is.

    Return the gradient of the later branch's input and what ``enter_backward`` returns. The sums are of the later norm,
    then of the bias of the earlier branch's last map.
    """
    grad_y, grad_update, normal = (torch.empty_like(residual) for _ in range(3))
    grid, sizes = _shared(residual.shape[1])
    of_later = (grad, later.x, *later.statistics, later.norm[0], residual, grad_y)
    of_earlier = (earlier.x, *earlier.statistics, *earlier.norm, grad_update, normal)
    numbers = (*sums, *drawn_from(dropping, residual), len(residual), molecule)
    constants = {**sizes, **dropping.constants()}
    launch("joint_kernels.leave_and_enter_backward", grid, *of_later, *of_earlier, *numbers, **constants)
    return grad_y, grad_update, normal


def gelu(hidden: Tensor, dropping: Dropping = NOTHING) -> Tensor:
    """Return dropout(GELU(hidden))."""
    active = torch.empty_like(hidden)
    grid, sizes = _blocks(*hidden.shape)
    tensors = (hidden, active, *drawn_from(dropping, hidden))
    launch("row_kernels.gelu", grid, *tensors, len(hidden), **sizes, **dropping.of_values())
    return active


def gelu_backward(
    hidden: Tensor, grad_active: Tensor, sums: tuple[Tensor, int], dropping: Dropping
) -> tuple[Tensor, Tensor]:
    """Return dropout(GELU(hidden)) and the gradient of hidden, in the memory of ``grad_active``; sums are of a bias."""
    active = torch.empty_like(hidden)
    grid, sizes = _shared(hidden.shape[1])
    tensors = (hidden, grad_active, active, grad_active, *sums, *drawn_from(dropping, hidden))
    launch("row_kernels.gelu_backward", grid, *tensors, len(hidden), **sizes, **dropping.of_values())
    return active, grad_active


def channels_to_rows(
    x_BWX: Tensor, mean: Tensor, rstd: Tensor, rows: Tensor, sums: tuple[Tensor, int], mean_sums: int
) -> None:
    """Write channels first [B, W, pitch] into rows [R, W] of a wider matrix.

    The sums are of x / rstd, and ``mean_sums`` further on of x · mean.
    """
    (B, W, pitch), R = x_BWX.shape, len(rows)
    grid, sizes = _shared(W)
    tensors, numbers = (x_BWX, mean, rstd, rows, *sums), (mean_sums, R, R // B, pitch, rows.stride(0))
    launch("triangle_kernels.channels_to_rows", grid, *tensors, *numbers, **sizes)


def statistics_and_fold(
    rows_RW: Tensor, maps: tuple[Map, Map], norm_weight: Tensor, norm_bias: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return means and reciprocal deviations of rows, fp32 [R]; and W' [C, W] and, fp32, b' [C].

    The latter two are of two maps of the rows' norm, one below the other.
    """
    (first, first_bias), (second, second_bias) = maps
    (R, W), C1, C2 = rows_RW.shape, len(first), len(second)
    found = rows_RW.new_empty(2, R, dtype=torch.float32)
    folded, bias = first.new_empty(C1 + C2, W), first.new_empty(C1 + C2, dtype=torch.float32)
    (blocks,), sizes = _blocks(R, W)
    (weight_blocks,), _ = _blocks(C1 + C2, W)
    tensors = (first, second, first_bias, second_bias, norm_weight, norm_bias, folded, bias)
    launch(
        "norm_kernels.statistics_and_fold", (weight_blocks + blocks,),
        rows_RW, found[0], found[1], R, *tensors, C1, C2, EPSILON=NORM_EPSILON, **sizes,
    )  # fmt: skip
    return (found[0], found[1]), (folded, bias)


def folded_backward_and_unfold(
    grad: Tensor,
    rows: Tensor,
    statistics: tuple[Tensor, Tensor],
    residual: Tensor,
    grad_folded: Tensor,
    weights: tuple[Tensor, Tensor],
    norm: tuple[Tensor, Tensor],
    sums: tuple[Tensor, Tensor],
) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the gradients of rows x, added to that of a residual, of both maps' weights, and of the norm's two.

    Args:
        grad: g·W', with g the gradient of x·W'ᵀ.
        rows: x.
        statistics: means and reciprocal deviations of x.
        residual: the gradient to add to.
        grad_folded: gᵀ·x.
        weights: of the maps.
        norm: weight and bias.
        sums: where in memory the gradient of b' begins [C], and the sums of g by the means of x [C].
    """
    (first, second), (R, W) = weights, rows.shape
    grad_x, of_maps = torch.empty_like(rows), (torch.empty_like(first), torch.empty_like(second))
    of_norm = (torch.empty_like(norm[0]), torch.empty_like(norm[1]))
    of_rows = (grad, rows, *statistics, residual, grad_x, R)
    of_weights = (grad_folded, first, second, *norm, *sums, *of_maps, *of_norm, len(first), len(second))
    (blocks,), sizes = _blocks(R, W)
    launch(
        "norm_kernels.folded_backward_and_unfold", (-(-W // _FOLD_COLUMNS) + blocks,),
        *of_rows, *of_weights, **sizes, FOLD_ROWS=_FOLD_ROWS, FOLD_COLUMNS=_FOLD_COLUMNS,
    )  # fmt: skip
    return grad_x, of_maps, of_norm
