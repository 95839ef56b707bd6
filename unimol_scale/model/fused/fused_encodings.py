"""What ``model.encodings`` computes of atoms and pairs as differentiable operations: few kernels, few bytes.

Shapes: B molecules, A atoms, N = A + 1 nodes (virtual node first), D atom channels, P pair channels, G Gaussians, V
rows of all tables of a track. A table's gradient is a product with how often each node or pair took which row.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unimol_scale.data import vocabulary as vocab
from unimol_scale.model.fused.branch_steps import PartialSums, gelu, gelu_backward
from unimol_scale.model.fused.dropping import NOTHING
from unimol_scale.model.fused.launching import PITCH, block, interprets, launch, programs, rows_per_block
from unimol_scale.model.kernels import REFERENCE_PI

# Rows of the tables of atoms: tokens, degrees, features, the virtual node; of pairs: bonds, paths, the virtual pair.
_ATOM_ROWS = (vocab.NUM_TOKENS, vocab.NUM_DEGREE_CODES, vocab.NUM_ATOM_CODES, 1)
_PAIR_ROWS = (vocab.NUM_BOND_CODES, vocab.NUM_PATH_CODES, 1)
_COLUMNS = 128
Gradients = tuple[Tensor | None, ...]


def _blocks(R: int, W: int) -> tuple[tuple[int, int], int, int]:
    """Return a grid of blocks of R rows and W columns, and how many are in one."""
    BR, BW = rows_per_block(_COLUMNS), min(block(W), 1024 if interprets() else _COLUMNS)
    return (-(-R // BR), -(-W // BW)), BR, BW


def _table_gradients(kernel: str, codes: Sequence[Tensor], N: int, grad_RW: Tensor, rows: Sequence[int]) -> Any:  # noqa: ANN401
    """Return the gradients of tables with so many rows, one below the other, and their parts."""
    R, V = len(grad_RW), -(-sum(rows) // PITCH) * PITCH
    columns_RV = grad_RW.new_empty(R, V)
    grid, BR, BV = _blocks(R, V)
    launch(kernel, grid, *codes, columns_RV, R, N, V, BR=BR, BV=BV)
    return torch.split((columns_RV.t() @ grad_RW)[: sum(rows)], list(rows))


class FusedAtomEncodingFunction(torch.autograd.Function):
    """``encodings.AtomEncoding`` [B, N, D] of tokens, degrees, features and which molecules are hidden, in bytes."""

    @staticmethod
    def forward(ctx: Any, codes: Sequence[Tensor], *tables: Tensor) -> Tensor:  # noqa: ANN401, D102
        (B, A), D = codes[0].shape, tables[0].shape[1]
        y_BND = tables[0].new_empty(B, A + 1, D)
        grid, BR, BW = _blocks(B * (A + 1), D)
        launch("encoding_kernels.encode_atoms", grid, *codes, *tables, y_BND, B * (A + 1), A + 1, D, BR=BR, BW=BW)
        ctx.codes = codes
        return y_BND

    @staticmethod
    def backward(ctx: Any, grad_BND: Tensor) -> Gradients:  # noqa: ANN401, D102
        _, N, D = grad_BND.shape
        grad_MD = grad_BND.reshape(-1, D).contiguous()
        return None, *_table_gradients("encoding_kernels.columns_of_atoms", ctx.codes, N, grad_MD, _ATOM_ROWS)


class FusedPairEncodingFunction(torch.autograd.Function):
    """``encodings.PairEncoding`` [B, N, N, P] of codes and distances, all of which are shown.

    ``codes`` are tokens [B, A] and bonds [B, A, A, 3], bytes, paths [B, A, A], int16, and which molecules are hidden;
    ``known`` coordinates [B, A, 3] and the centres of the Gaussians, fp32.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,  # noqa: ANN401
        codes: Sequence[Tensor],
        known: tuple[Tensor, Tensor],
        spacing: float,
        *weights: Tensor,
    ) -> Tensor:
        up_weight, up_bias, down_weight, down_bias, bonds, paths, scale, shift, virtual = weights
        (B, A), (P, G), token_BA = codes[0].shape, down_weight.shape, codes[0]
        R, N = B * (A + 1) ** 2, A + 1
        density_RG = up_weight.new_empty(B * A * A, G)
        BR = rows_per_block(G)
        ctx.numbers = (spacing, -math.log2(math.sqrt(2 * REFERENCE_PI) * spacing))
        mapped = (token_BA, known[0], scale, shift, known[1])
        launch(
            "encoding_kernels.pair_densities", (-(-len(density_RG) // BR),),
            *mapped, density_RG, len(density_RG), A, *ctx.numbers, G=G, BR=BR, BG=block(G),
        )  # fmt: skip
        hidden = torch.addmm(up_bias, density_RG, up_weight.t())
        distance_RP = torch.addmm(down_bias, gelu(hidden), down_weight.t())
        y_BNNP = up_weight.new_empty(B, N, N, P)
        grid, BR, BW = _blocks(R, P)
        tables = (bonds, paths, virtual)
        launch(
            "encoding_kernels.encode_pairs", grid, *codes, *tables, distance_RP, y_BNNP, R, N, P, BR=BR, BW=BW
        )  # fmt: skip
        ctx.codes = codes
        ctx.save_for_backward(density_RG, hidden, up_weight, down_weight, *mapped)
        return y_BNNP

    @staticmethod
    def backward(ctx: Any, grad_BNNP: Tensor) -> Gradients:  # noqa: ANN401, D102
        density_RG, hidden, up_weight, down_weight, *mapped = ctx.saved_tensors
        B, N, _, P = grad_BNNP.shape
        grad_RP, A, G = grad_BNNP.reshape(-1, P).contiguous(), N - 1, density_RG.shape[1]
        of_tables = _table_gradients("encoding_kernels.columns_of_pairs", ctx.codes, N, grad_RP, _PAIR_ROWS)
        grad_bonds, grad_paths, grad_virtual = of_tables
        sums = PartialSums(hidden, P, G)
        grad_distance = grad_RP.new_empty(len(density_RG), P)
        sizes = {"W": P, "BR": rows_per_block(P), "BW": block(P)}
        tensors = (grad_RP, grad_distance, *sums.of(0))
        launch("encoding_kernels.pairs_of_atoms", (programs(),), *tensors, len(density_RG), N, **sizes)
        active, grad_hidden = gelu_backward(hidden, grad_distance @ down_weight, sums.of(1), NOTHING)
        grad_down, grad_up = grad_distance.t() @ active, grad_hidden.t() @ density_RG
        scale, shift = mapped[2:4]
        code = torch.empty(2 * B * A, dtype=torch.int64, device=hidden.device)
        grad_scale, grad_shift = scale.new_empty(2 * B * A, 1), scale.new_empty(2 * B * A, 1)
        tensors = (grad_hidden @ up_weight, *mapped, code, grad_scale, grad_shift)
        sizes = {"G": G, "BA": block(A), "BG": block(G)}
        launch("encoding_kernels.pair_densities_backward", (B,), *tensors, A, B * A, *ctx.numbers, **sizes)
        of_maps = [
            torch.ops.aten.embedding_dense_backward(grad, code, len(shift), 0, False)
            for grad in (grad_scale, grad_shift)
        ]
        down_bias, up_bias = sums.total()
        return (
            None, None, None, grad_up, up_bias, grad_down, down_bias,
            grad_bonds / vocab.NUM_BOND_FEATURES, grad_paths, *of_maps, grad_virtual,
        )  # fmt: skip
