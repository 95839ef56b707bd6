"""Chooses the implementation of both tracks' updates: C code for one CPU thread, Triton on a GPU, otherwise torch.

Shapes: B molecules, N nodes, A = N − 1 atoms, D atom channels, P pair channels, h hidden channels, C output channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from unimol_scale.model import kernels
from unimol_scale.model.fused import launching
from unimol_scale.model.fused.dropping import Dropping, NodeDroppings, draw_seed
from unimol_scale.model.fused.feed_forward_branch import FusedFeedForwardFunction
from unimol_scale.model.fused.node_branches import FusedNodesFunction
from unimol_scale.model.fused.triangle_branch import FusedTriangleFunction
from unimol_scale.model.native import functions as native
from unimol_scale.model.native.library import suits, suits_nodes

# Largest size of a tensor of pairs.
PAIR_AXES = 4


def count_nodes(valid_BN: Tensor) -> Tensor | None:
    """Return how many nodes each molecule has before its padding, int32 [B]; None if nothing needs it."""
    if valid_BN.device.type != "cpu":
        return None
    return (valid_BN * torch.arange(1, valid_BN.shape[1] + 1)).amax(1).int()


def dropping_of_batch(atom_BND: Tensor, pair_BNNP: Tensor, *, drops: bool) -> Dropping | None:
    """Return the dropout state for Triton kernels if they compute this batch (whole branches, with dropout and sum).

    None: another implementation computes it, and layers apply dropout to a branch's result and add it.

    Args:
        atom_BND: nodes.
        pair_BNNP: pairs.
        drops: whether anything is dropped; if not, no random number is drawn.
    """
    if not launching.suits(pair_BNNP, atom_BND):
        return None
    return Dropping(seed=draw_seed(atom_BND) if drops else None)


def node_branches(
    atom_BND: Tensor,
    pair_BNNP: Tensor,
    key_mask_B1N: Tensor,
    count_B: Tensor,
    valid_BN1: Tensor,
    *weights: Tensor,
    droppings: NodeDroppings,
) -> tuple[Tensor, Tensor]:
    """Return nodes and pairs after attention, the nodes' feed-forward and the outer product, by Triton.

    Args:
        atom_BND: nodes.
        pair_BNNP: pairs.
        key_mask_B1N: 0 at real nodes, −inf at padding.
        count_B: n of the 1/n scalings, fp32.
        valid_BN1: 1 at real nodes, 0 at padding.
        weights: of the three branches.
        droppings: what they drop.
    """
    both: tuple[Tensor, Tensor] = FusedNodesFunction.apply(  # type: ignore[no-untyped-call]
        atom_BND, pair_BNNP, key_mask_B1N, count_B, valid_BN1, droppings, *weights
    )
    return both


def attention(
    atom_BND: Tensor,
    pair_BNNP: Tensor,
    *weights: Tensor,
    heads: int,
    residual: bool,
    dropout: float,
    nodes_B: Tensor | None,
) -> Tensor | None:
    """Return [x +] the attention's update [B, N, D] by C code, or None if torch has to compute it.

    Args:
        atom_BND: x.
        pair_BNNP: pairs.
        weights: weight and bias of the norm, W_qkv, weight and bias of the pair bias, of the last map.
        heads: number of heads.
        residual: whether x is added.
        dropout: probability of dropout on the attention weights.
        nodes_B: ``count_nodes``.
    """
    pair_weight = weights[3]
    if dropout or nodes_B is None or not (suits(pair_BNNP, pair_weight) and suits_nodes(atom_BND, *weights)):
        return None
    out: Tensor = native.NativeAttentionFunction.apply(nodes_B, heads, residual, atom_BND, pair_BNNP, *weights)  # type: ignore[no-untyped-call]
    return out


def mixed_attention(
    atom_BND: Tensor, pair_BNNP: Tensor, *weights: Tensor, heads: int, nodes_B: Tensor | None
) -> Tensor | None:
    """Return Σ_h attention_hij · (v_hj · f_h) between atoms, [B, A, A], by C code, or None if torch has to compute it.

    Args:
        atom_BND: nodes; the virtual node is not used.
        pair_BNNP: pairs.
        weights: weight and bias of the atoms' norm, W_qkv, weight and bias of the pair bias, of the pairs' norm, and f.
        heads: number of heads.
        nodes_B: ``count_nodes``.
    """
    if nodes_B is None or not (suits(pair_BNNP, weights[3]) and suits_nodes(atom_BND, *weights)):
        return None
    out: Tensor = native.NativeMixedAttentionFunction.apply(nodes_B, heads, atom_BND, pair_BNNP, *weights)  # type: ignore[no-untyped-call]
    return out


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, nodes_B: Tensor | None) -> Tensor:
    """Return the layer norm of nodes [B, N, P] or pairs [B, N, N, P].

    Args:
        x: nodes or pairs.
        weight: of the norm.
        bias: of the norm.
        nodes_B: ``count_nodes``.
    """
    if nodes_B is not None and (suits if x.dim() == PAIR_AXES else suits_nodes)(x, weight, bias):
        out: Tensor = native.NativeLayerNormFunction.apply(nodes_B, x, weight, bias)  # type: ignore[no-untyped-call]
        return out
    return F.layer_norm(x, x.shape[-1:], weight, bias, kernels.NORM_EPSILON)


def feed_forward(
    x: Tensor,
    *weights: Tensor,
    residual: bool,
    dropout: float,
    nodes_B: Tensor | None = None,
    dropping: Dropping | None = None,
) -> Tensor:
    """Return [x +] W₂·D(GELU(W₁·LN(x) + b₁)) + b₂ over the last axis; see ``kernels.FeedForwardFunction``.

    Args:
        x: any shape.
        weights: weight and bias of the norm; W₁, b₁, W₂, b₂.
        residual: whether x is added.
        dropout: probability in D.
        nodes_B: ``count_nodes`` for nodes x [B, N, D] or pairs x [B, N, N, P].
        dropping: dropout that Triton kernels apply to the update; None: they do not compute it.
    """
    out: Tensor
    if dropping is not None:
        out = FusedFeedForwardFunction.apply(x, dropping, dropping.inside(dropout), *weights)  # type: ignore[no-untyped-call]
    elif not dropout and (suits if x.dim() == PAIR_AXES else suits_nodes)(x, *weights):
        out = native.NativeFeedForwardFunction.apply(nodes_B, residual, x, *weights)  # type: ignore[no-untyped-call]
    else:
        out = kernels.FeedForwardFunction.apply(x, *weights, residual, dropout)  # type: ignore[no-untyped-call]
    return out


def outer_product(
    pair_BNNP: Tensor,
    atom_BND: Tensor,
    count_B: Tensor,
    *weights: Tensor,
    residual: bool,
    nodes_B: Tensor | None,
) -> Tensor | None:
    """Return [x +] the outer product's update [B, N, N, P] by C code, or None if torch has to compute it.

    Args:
        pair_BNNP: x.
        atom_BND: nodes.
        count_B: n of the 1/n scalings, fp32.
        weights: weights and biases of the norm, of the map to both factors, and of the map of their product.
        residual: whether x is added.
        nodes_B: ``count_nodes``.
    """
    *of_nodes, weight_hX, bias_P = weights
    if nodes_B is None or weight_hX.dtype != torch.float32:
        return None
    if not (suits(pair_BNNP, bias_P, count_B) and suits_nodes(atom_BND, *of_nodes)):
        return None
    inputs = (pair_BNNP, atom_BND, count_B, *weights)
    out: Tensor = native.NativeOuterProductFunction.apply(nodes_B, residual, *inputs)  # type: ignore[no-untyped-call]
    return out


def triangle(
    pair_BNNP: Tensor,
    scale_B1NN: Tensor,
    *weights: Tensor,
    residual: bool,
    nodes_B: Tensor | None = None,
    dropping: Dropping | None = None,
) -> Tensor:
    """Return the triangle update [B, N, N, P]; see ``kernels.TriangleFunction``.

    Args:
        pair_BNNP: x.
        scale_B1NN: s.
        weights: weight and bias of the norm, of A's and B's maps, of the inner norm, of o and of g.
        residual: whether x is added.
        nodes_B: ``count_nodes``.
        dropping: see ``feed_forward``; rows of pairs share a draw.
    """
    out: Tensor
    if dropping is not None:
        out = FusedTriangleFunction.apply(pair_BNNP, scale_B1NN, dropping, *weights)  # type: ignore[no-untyped-call]
    elif suits(pair_BNNP, *weights):
        out = native.NativeTriangleFunction.apply(nodes_B, residual, pair_BNNP, scale_B1NN, *weights)  # type: ignore[no-untyped-call]
    else:
        out = kernels.TriangleFunction.apply(pair_BNNP, scale_B1NN, *weights, residual)  # type: ignore[no-untyped-call]
    return out


def channel_first_linear(pair_BNNP: Tensor, weight_CP: Tensor, bias_C: Tensor, nodes_B: Tensor | None = None) -> Tensor:
    """Map [B, N, N, P] to [B, C, N, N]; see ``kernels.channel_first_linear``."""
    if suits(pair_BNNP, weight_CP, bias_C):
        out: Tensor = native.NativeChannelFirstLinearFunction.apply(nodes_B, pair_BNNP, weight_CP, bias_C)  # type: ignore[no-untyped-call]
        return out
    return kernels.channel_first_linear(pair_BNNP, weight_CP, bias_C)


def bias_of_atoms(
    pair_BNNP: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight_CP: Tensor,
    bias_C: Tensor,
    nodes_B: Tensor | None = None,
) -> Tensor:
    """Map the layer norm of the pairs of atoms to channels-first layout, [B, C, A, A], without the virtual node."""
    if suits(pair_BNNP, weight_CP, bias_C):
        # Of all pairs, because a slice of the pairs would be copied.
        bias_BCNN: Tensor = native.NativeChannelFirstLinearFunction.apply(  # type: ignore[no-untyped-call]
            nodes_B, pair_BNNP, weight_CP, bias_C, norm_weight, norm_bias
        )
        return bias_BCNN[..., 1:, 1:]
    pair_BAAP = pair_BNNP[:, 1:, 1:]
    normal_BAAP = F.layer_norm(pair_BAAP, pair_BAAP.shape[-1:], norm_weight, norm_bias, kernels.NORM_EPSILON)
    return kernels.channel_first_linear(normal_BAAP, weight_CP, bias_C)
