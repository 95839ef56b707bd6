"""The differentiable operations of ``kernels`` by the C code of this folder: the same values up to rounding.

For the backward pass they keep what torch's versions keep, so that memory plans hold for both. Of weights they keep the
parameters themselves, whose storage ZeRO-3 frees in between. Shapes as in ``kernels``. ``nodes_B``, int32, is the
number of real nodes of each molecule: pairs of other nodes are not computed but zero, and so are their gradients. None:
all.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unimol_scale.model.native.library import call

# Beyond the end of attention weights, the C code reads and writes this many floats and rows, and ignores them.
SPILLED_FLOATS, SPILLED_ROWS = 16, 8
# Replaces a tensor that a kernel need not read: a norm, or the number of nodes.
_NONE = torch.empty(0)
_NO_NORM = (_NONE, _NONE)


def _counts(nodes_B: Tensor | None) -> Tensor:
    return _NONE if nodes_B is None else nodes_B


def _alike(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in tensors]


def _plain(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [x if x.is_contiguous() else x.contiguous() for x in tensors]


class NativeAttentionFunction(torch.autograd.Function):
    """What ``layers.PairBiasedAttention`` computes, without dropout, from nodes [B, N, D] and pairs [B, N, N, P]."""

    @staticmethod
    def forward(ctx: Any, nodes_B: Tensor | None, heads: int, residual: bool, *inputs: Tensor) -> Tensor:  # noqa: ANN401, D102
        atom_BND, pair_BNNP, *weights, out_weight, out_bias = _plain(inputs)
        B, N, D = atom_BND.shape
        ctx.sizes = (B, N, D, heads, pair_BNNP.shape[-1], 0, False, residual)
        ctx.nodes = _counts(nodes_B)
        qkv_R3D, mixed_RD = atom_BND.new_empty(B * N, 3 * D), atom_BND.new_empty(B * N, D)
        weights_X = atom_BND.new_empty(B * heads * N * N + SPILLED_ROWS * N + SPILLED_FLOATS)
        y_BND = torch.empty_like(atom_BND)
        known = [ctx.nodes, atom_BND, pair_BNNP, *weights, *_NO_NORM, out_weight, out_bias]
        call("attention", ctx.sizes, [*known, qkv_R3D, weights_X, mixed_RD, y_BND])
        ctx.save_for_backward(qkv_R3D, weights_X, mixed_RD, *inputs)
        return y_BND

    @staticmethod
    def backward(ctx: Any, grad_BND: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401, D102
        qkv_R3D, weights_X, mixed_RD, *inputs = _plain(ctx.saved_tensors)
        *rest, out_weight, _ = inputs
        known = [ctx.nodes, *rest, *_NO_NORM, grad_BND.contiguous(), out_weight, qkv_R3D, weights_X, mixed_RD]
        gradients = _alike(inputs)
        call("attention_backward", ctx.sizes, [*known, *gradients])
        return (None, None, None, *gradients)


class NativeMixedAttentionFunction(torch.autograd.Function):
    """Σ_h attention_hij · (v_hj · f_h) [B, A, A] of ``heads.CoordinateHead``, without dropout, from nodes and pairs."""

    @staticmethod
    def forward(ctx: Any, nodes_B: Tensor, heads: int, *inputs: Tensor) -> Tensor:  # noqa: ANN401, D102
        known = _plain(inputs)
        (B, N, D), P = known[0].shape, known[1].shape[-1]
        ctx.sizes, ctx.nodes = (B, N, D, heads, P, 1, True), _counts(nodes_B)
        qkv_R3D, weight_BAA = known[0].new_empty(B * N, 3 * D), known[0].new_empty(B, N - 1, N - 1)
        weights_X = known[0].new_empty(B * heads * N * N + SPILLED_ROWS * N + SPILLED_FLOATS)
        call("mixed_attention", ctx.sizes, [ctx.nodes, *known, qkv_R3D, weights_X, weight_BAA])
        ctx.save_for_backward(qkv_R3D, weights_X, *inputs)
        return weight_BAA

    @staticmethod
    def backward(ctx: Any, grad_BAA: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401, D102
        qkv_R3D, weights_X, *inputs = _plain(ctx.saved_tensors)
        gradients = _alike(inputs)
        known = [ctx.nodes, *inputs, qkv_R3D, weights_X, grad_BAA.contiguous()]
        call("mixed_attention_backward", ctx.sizes, [*known, *gradients])
        return (None, None, *gradients)


class NativeFeedForwardFunction(torch.autograd.Function):
    """``kernels.FeedForwardFunction`` without dropout."""

    @staticmethod
    def forward(ctx: Any, nodes_B: Tensor | None, residual: bool, *inputs: Tensor) -> Tensor:  # noqa: ANN401, D102
        x, *weights = _plain(inputs)
        rows, width, hidden = x.numel() // x.shape[-1], x.shape[-1], len(weights[2])
        B, N = (1, 0) if nodes_B is None else x.shape[:2]
        ctx.sizes = (B, rows // B, N, width, hidden, residual, nodes_B is not None and x.dim() == 3)
        ctx.nodes = _counts(nodes_B)
        hidden_RH, y = x.new_empty(rows, hidden), torch.empty_like(x)
        call("feed_forward", ctx.sizes, [ctx.nodes, x, *weights, hidden_RH, y])
        ctx.save_for_backward(hidden_RH, *inputs)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401, D102
        hidden_RH, x, *weights = _plain(ctx.saved_tensors)
        gradients = _alike([x, *weights])
        norm_weight, norm_bias, up, _, down, _ = weights
        known = [ctx.nodes, grad.contiguous(), x, hidden_RH, norm_weight, norm_bias, up, down]
        call("feed_forward_backward", ctx.sizes, [*known, *gradients])
        return (None, None, *gradients)


class NativeOuterProductFunction(torch.autograd.Function):
    """What ``layers.OuterProduct`` computes from pairs [B, N, N, P], nodes [B, N, D] and the n of its scalings [B]."""

    @staticmethod
    def forward(ctx: Any, nodes_B: Tensor | None, residual: bool, *inputs: Tensor) -> Tensor:  # noqa: ANN401, D102
        pair_BNNP, atom_BND, *rest = _plain(inputs)
        B, N, D = atom_BND.shape
        twice_h = len(rest[3])
        ctx.sizes, ctx.nodes = (B, N, pair_BNNP.shape[-1], twice_h // 2, D, residual), _counts(nodes_B)
        factors_Rk, z_BNNP = atom_BND.new_empty(B * N, twice_h), torch.empty_like(pair_BNNP)
        call("outer_product", ctx.sizes, [ctx.nodes, pair_BNNP, atom_BND, *rest, factors_Rk, z_BNNP])
        ctx.save_for_backward(factors_Rk, *inputs[1:])
        return z_BNNP

    @staticmethod
    def backward(ctx: Any, grad_BNNP: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401, D102
        factors_Rk, atom_BND, count_B, *weights = _plain(ctx.saved_tensors)
        gradients = _alike([atom_BND, *weights])
        known = [ctx.nodes, _NONE, atom_BND, count_B, *weights, factors_Rk, grad_BNNP.contiguous()]
        call("outer_product_backward", ctx.sizes, [*known, *gradients])
        residual = ctx.sizes[-1]
        return (None, None, grad_BNNP if residual else None, gradients[0], None, *gradients[1:])


class NativeTriangleFunction(torch.autograd.Function):
    """``kernels.TriangleFunction``."""

    @staticmethod
    def forward(ctx: Any, nodes_B: Tensor | None, residual: bool, *inputs: Tensor) -> Tensor:  # noqa: ANN401, D102
        x_BNNP, scale_B1NN, *weights = _plain(inputs)
        B, N, _, P = x_BNNP.shape
        h = len(weights[4])
        ctx.sizes, ctx.nodes = (B, N, P, h, residual), _counts(nodes_B)
        project_BNNc, product_BNNh = x_BNNP.new_empty(B, N, N, 4 * h), x_BNNP.new_empty(B, N, N, h)
        y_BNNP = torch.empty_like(x_BNNP)
        known = [ctx.nodes, x_BNNP, scale_B1NN, *weights]
        call("triangle", ctx.sizes, [*known, project_BNNc, product_BNNh, y_BNNP])
        ctx.save_for_backward(project_BNNc, product_BNNh, *inputs)
        return y_BNNP

    @staticmethod
    def backward(ctx: Any, grad_BNNP: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401, D102
        project_BNNc, product_BNNh, x_BNNP, scale_B1NN, *weights = _plain(ctx.saved_tensors)
        known = [x_BNNP, scale_B1NN, project_BNNc, product_BNNh, *weights]
        grad_x_BNNP, *gradients = _alike([x_BNNP, *weights])
        call("triangle_backward", ctx.sizes, [ctx.nodes, grad_BNNP.contiguous(), *known, grad_x_BNNP, *gradients])
        return (None, None, grad_x_BNNP, None, *gradients)


class NativeChannelFirstLinearFunction(torch.autograd.Function):
    """``kernels.channel_first_linear`` of the pairs, or, given a norm's weight and bias, of their layer norm."""

    @staticmethod
    def forward(ctx: Any, nodes_B: Tensor | None, *inputs: Tensor) -> Tensor:  # noqa: ANN401, D102
        pair_BNNP, weight_CP, bias_C, *norm = _plain(inputs)
        B, N, _, P = pair_BNNP.shape
        ctx.sizes, ctx.nodes = (B, N, P, len(weight_CP), bool(norm)), _counts(nodes_B)
        ctx.save_for_backward(*inputs)
        y_BCNN = pair_BNNP.new_empty(B, len(weight_CP), N, N)
        call("channel_first_linear", ctx.sizes, [ctx.nodes, pair_BNNP, weight_CP, bias_C, *(norm or _NO_NORM), y_BCNN])
        return y_BCNN

    @staticmethod
    def backward(ctx: Any, grad_BCNN: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401, D102
        saved = _plain(ctx.saved_tensors)
        pair_BNNP, weight_CP, _, *norm = saved
        gradients = _alike(saved)
        known = [ctx.nodes, grad_BCNN.contiguous(), pair_BNNP, weight_CP, *(norm or _NO_NORM)]
        call("channel_first_linear_backward", ctx.sizes, [*known, *gradients])
        return (None, *gradients)


class NativeLayerNormFunction(torch.autograd.Function):
    """The layer norm of nodes [B, N, P] or pairs [B, N, N, P]."""

    @staticmethod
    def forward(ctx: Any, nodes_B: Tensor, *inputs: Tensor) -> Tensor:  # noqa: ANN401, D102
        x, weight, bias = _plain(inputs)
        ctx.sizes, ctx.nodes = (*x.shape[:2], x.shape[-1], x.dim() == 4), _counts(nodes_B)
        y = torch.empty_like(x)
        call("layer_norm", ctx.sizes, [ctx.nodes, x, weight, bias, y])
        ctx.save_for_backward(*inputs)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401, D102
        known = _plain(ctx.saved_tensors)
        gradients = _alike(known)
        call("layer_norm_backward", ctx.sizes, [ctx.nodes, *known, grad.contiguous(), *gradients])
        return (None, *gradients)


class NativeAtomEncodingFunction(torch.autograd.Function):
    """What ``encodings.AtomEncoding`` computes from the codes of atoms, [B, N, D].

    ``codes`` are tokens, degrees, features and which molecules are hidden, all of one byte; ``numbers`` are the
    constants with which the C code turns codes into rows of an embedding.
    """

    @staticmethod
    def forward(ctx: Any, codes: Sequence[Tensor], numbers: Sequence[int], *inputs: Tensor) -> Tensor:  # noqa: ANN401, D102
        tables = _plain(inputs)
        ctx.codes, (B, A), D = _plain(codes), codes[0].shape, tables[0].shape[1]
        ctx.sizes = (B, A, D, *(len(table) for table in tables[:3]), *numbers)
        y_BND = tables[0].new_empty(B, A + 1, D)
        call("atom_encoding", ctx.sizes, [*ctx.codes, *tables, y_BND])
        ctx.save_for_backward(*inputs)
        return y_BND

    @staticmethod
    def backward(ctx: Any, grad_BND: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401, D102
        gradients = _alike(ctx.saved_tensors)
        call("atom_encoding_backward", ctx.sizes, [*ctx.codes, grad_BND.contiguous(), *gradients])
        return (None, None, *gradients)


class NativePairEncodingFunction(torch.autograd.Function):
    """What ``encodings.PairEncoding`` computes from codes and distances, in one pass over the pairs [B, N, N, P].

    ``known`` are coordinates [B, A, 3], and the centres and spacing of the Gaussians. ``codes`` are those of bonds
    [B, A, A, 3] and of shown relations [B, A, A], bytes; of paths [B, A, A], int16; which molecules are hidden; and the
    atoms' types as the first and second atom of a pair [B, A], int32. ``numbers`` are the constants with which the C
    code turns codes into rows of an embedding.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,  # noqa: ANN401
        nodes_B: Tensor,
        known: Sequence[Tensor],
        codes: Sequence[Tensor],
        numbers: Sequence[int],
        *inputs: Tensor,
    ) -> Tensor:
        *weights, scale_T1, shift_T1, virtual_1P = _plain(inputs)
        bonds, paths = weights[4:]
        B, A, _ = known[0].shape
        ctx.sizes = (B, A, bonds.shape[1], len(known[1]), len(bonds), len(paths), len(scale_T1), *numbers)
        ctx.known, ctx.codes = (_counts(nodes_B), *_plain(known)), _plain(codes)
        hidden_BAAG = bonds.new_empty(B, A, A, len(known[1]))
        y_BNNP = bonds.new_empty(B, A + 1, A + 1, bonds.shape[1])
        read = [*ctx.known, *weights, *ctx.codes, scale_T1, shift_T1]
        call("pair_encoding", ctx.sizes, [*read, virtual_1P, hidden_BAAG, y_BNNP])
        ctx.save_for_backward(hidden_BAAG, *inputs)
        return y_BNNP

    @staticmethod
    def backward(ctx: Any, grad_BNNP: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401, D102
        hidden_BAAG, *inputs = _plain(ctx.saved_tensors)
        *weights, scale_T1, shift_T1, _ = inputs
        read = [*ctx.known, *weights, *ctx.codes, scale_T1, shift_T1]
        gradients = _alike(inputs)
        call("pair_encoding_backward", ctx.sizes, [*read, grad_BNNP.contiguous(), hidden_BAAG, *gradients])
        return (None, None, None, None, *gradients)
