"""The steps that branches of a layer consist of: each starts one Triton kernel on tensors that it checks and makes.

R rows of W channels. Gradients of biases and norms, which are sums over rows, go to ``PartialSums``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from unimol_scale.model.fused.dropping import NOTHING, Dropping
from unimol_scale.model.fused.launching import block, launch, programs, rows_per_block
from unimol_scale.model.kernels import NORM_EPSILON

_SUM_COLUMNS, _SUM_ROWS = 64, 32


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

    def of(self, first: int) -> tuple[Tensor, int]:
        """Return where a kernel writes its sums from the ``first`` on, and the step from row to row."""
        return self.parts[:, sum(self.widths[:first]) :], self.step

    def between(self, first: int, later: int) -> int:
        """Return how many columns lie between the beginnings of two sums."""
        return sum(self.widths[first:later])

    def total(self, others: Tensor) -> Sequence[Tensor]:
        """Return the sums, and last the sum over ``others`` [rows, width], fp32; over no rows it is zero."""
        (R, W), (others_R, others_W) = self.parts.shape, others.shape
        total = self.parts.new_empty(W + others_W, dtype=self.dtype)
        grid = (-(-W // _SUM_COLUMNS) + -(-others_W // _SUM_COLUMNS),)
        tensors, sizes = (self.parts, others, total), (R, W, others_R, others_W)
        launch("row_kernels.sum_partials", grid, *tensors, *sizes, BR=_SUM_ROWS, BW=_SUM_COLUMNS)
        return torch.split(total, [*self.widths, others_W])

    def no_rows(self, width: int) -> Tensor:
        """Return rows whose sum is zero."""
        return self.parts.new_empty(0, width)


def _blocks(R: int, W: int) -> tuple[tuple[int], dict[str, int]]:
    BR = rows_per_block(W)
    return (-(-R // BR),), {"W": W, "BR": BR, "BW": block(W)}


def _shared(W: int) -> tuple[tuple[int], dict[str, int]]:
    """Return a grid of programs that share all rows, and the sizes."""
    return (programs(),), _blocks(1, W)[1]


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
    residual: Tensor,
) -> Tensor:
    """Return the gradient of rows x, added to that of a residual; sums are of the norm's weight and bias."""
    grad_x = torch.empty_like(x)
    grid, sizes = _shared(len(weight))
    tensors = (grad, x, mean, rstd, weight, residual, grad_x)
    launch("row_kernels.layer_norm_backward", grid, *tensors, *sums, len(x), **sizes)
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
