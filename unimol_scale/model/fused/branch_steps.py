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

    def total(self) -> Sequence[Tensor]:
        """Return the sums."""
        return torch.split(add_rows(self.parts, self.dtype), list(self.widths))


def add_rows(parts_RW: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the sum over rows [W] of fp32 rows."""
    R, W = parts_RW.shape
    total_W = parts_RW.new_empty(W, dtype=dtype)
    grid = (-(-W // _SUM_COLUMNS),)
    launch("row_kernels.sum_partials", grid, parts_RW, total_W, R, W, BR=_SUM_ROWS, BW=_SUM_COLUMNS)
    return total_W


def _blocks(R: int, W: int) -> tuple[tuple[int], dict[str, int]]:
    BR = rows_per_block(W)
    return (-(-R // BR),), {"W": W, "BR": BR, "BW": block(W)}


def _shared(W: int) -> tuple[tuple[int], dict[str, int]]:
    """Return a grid of programs that share all rows, and the sizes."""
    return (programs(),), _blocks(1, W)[1]


def drawn_from(dropping: Dropping, x: Tensor) -> tuple[Tensor, int]:
    """Return the seed, or a part of x without values where nothing is dropped, and the stream."""
    return (x[:0] if dropping.seed is None else dropping.seed), dropping.stream


def _strides(x: Tensor, R: int) -> tuple[int, int, int, int]:
    """Return rows a batch and the steps of batch, row and channel, of rows [R, W] or channels first [B, W, pitch]."""
    if x.dim() == 2:
        return R, 0, x.shape[1], 1
    return R // len(x), x.shape[1] * x.shape[2], 1, x.shape[2]


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, R: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the layer norm in rows [R, W], the means and the reciprocal deviations, fp32 [R].

    Args:
        x: rows [R, W], or channels first [B, W, pitch], of which the first R / B columns count.
        weight: of the norm.
        bias: of the norm.
        R: number of rows, if channels come first.
    """
    W, R = len(weight), R or len(x)
    y, statistics = x.new_empty(R, W), x.new_empty(2, R, dtype=torch.float32)
    grid, sizes = _blocks(R, W)
    tensors = (x, weight, bias, y, statistics[0], statistics[1])
    launch("row_kernels.layer_norm", grid, *tensors, R, *_strides(x, R), EPSILON=NORM_EPSILON, **sizes)
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
    """Return the gradient of x, in its layout, added to that of a residual; sums are of the norm's weight and bias."""
    grad_x = torch.empty_like(x)
    grid, sizes = _shared(len(weight))
    tensors = (grad, x, mean, rstd, weight, grad[:0] if residual is None else residual, grad_x)
    numbers = (len(grad), *_strides(x, len(grad)))
    launch("row_kernels.layer_norm_backward", grid, *tensors, *sums, *numbers, RESIDUAL=residual is not None, **sizes)
    return grad_x


def add_branch(
    x: Tensor, update: Tensor, dropping: Dropping, *, molecule: int, gate: Tensor | None = None, sharing: int = 1
) -> Tensor:
    """Return x + dropout(update [∘ gate]), in the memory of ``update``.

    Args:
        x: rows.
        update: of the branch.
        dropping: of the branch.
        molecule: rows of one molecule.
        gate: rows.
        sharing: consecutive rows that share a draw.
    """
    grid, sizes = _blocks(*x.shape)
    tensors = (x, update, update[:0] if gate is None else gate, update, *drawn_from(dropping, x))
    constants = {"GATED": gate is not None, **dropping.constants()}
    launch("row_kernels.add_branch", grid, *tensors, len(x), sharing, molecule, **sizes, **constants)
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


def gate_backward(
    grad: Tensor,
    update: Tensor,
    gate: Tensor,
    sums: tuple[Tensor, int],
    dropping: Dropping,
    molecule: int,
    sharing: int,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of both factors of a gated branch, each in the memory of the other; sums are of biases."""
    grid, sizes = _shared(grad.shape[1])
    tensors = (grad, update, gate, gate, update, *sums, *drawn_from(dropping, grad))
    launch("row_kernels.gate_backward", grid, *tensors, len(grad), sharing, molecule, **sizes, **dropping.constants())
    return gate, update


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


def channels_to_rows(x_BWX: Tensor, R: int, sums: tuple[Tensor, int]) -> Tensor:
    """Return channels first [B, W, pitch] as rows [R, W]; the sums are over them."""
    B, W, pitch = x_BWX.shape
    rows = x_BWX.new_empty(R, W)
    grid, sizes = _shared(W)
    launch("triangle_kernels.channels_to_rows", grid, x_BWX, rows, *sums, R, R // B, pitch, **sizes)
    return rows
