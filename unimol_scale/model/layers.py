"""One layer of the two-track Transformer (Uni-Mol2, arXiv 2406.14969, and its public reference).

Shapes: B molecules, N nodes (virtual node first, then atoms, padded), D atom channels, P pair channels, H heads,
h hidden pair channels, d channels of one head. A module is a whole residual branch, including its layer norm, and owns
every parameter that it uses: ZeRO-3 fetches weights module by module, and each module costs time. Only where Triton
computes a layer does it use the weights of three branches at once.
"""

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimol_scale.model.fused.dropping import Dropping, NodeDroppings
from unimol_scale.model.kernels import NORM_EPSILON, OUTER_PRODUCT_EPSILON, OuterProductFunction, linear
from unimol_scale.model.node_masks import NodeMasks
from unimol_scale.model.presets import ModelConfig
from unimol_scale.model.track_updates import (
    attention,
    channel_first_linear,
    feed_forward,
    node_branches,
    outer_product,
    triangle,
)

Init = Literal["lecun", "he", "gate"]
# Indices of the branches of the pairs among those of a layer.
TRIANGLE, PAIR_FFN = 3, 4
EMBEDDING_STD = 0.1
# A normal distribution cut at two standard deviations has this standard deviation.
TRUNCATED_STD = 0.87962566103423978


@torch.no_grad()
def fill_truncated_normal(weight: Tensor, std: float) -> None:
    """Fill with a normal distribution cut at two standard deviations, drawn in fp32 on the CPU for any weight.

    Inside DeepSpeed's construction context torch.empty makes bf16 even if fp32 is requested, and bf16 draws are
    biased; memory from NumPy avoids this. Drawing on the CPU gives the same weights on every device.
    """
    if weight.device.type == "meta":
        return
    draw = torch.from_numpy(np.empty(tuple(weight.shape), dtype=np.float32))
    scale = std / TRUNCATED_STD
    weight.copy_(nn.init.trunc_normal_(draw, std=scale, a=-2 * scale, b=2 * scale))


@torch.no_grad()
def initialise(weight: Tensor, bias: Tensor | None, init: Init, gain: float = 1.0) -> None:
    """Initialise a linear map [out, in] in place.

    ``lecun`` keeps the variance, ``he`` doubles it for a following GELU, ``gate`` makes a gate start at one. ``gain``
    scales the standard deviation. The last map of a residual branch uses layers^-1/2, so that the sum of all branches
    starts about as large as their input; branches that start at zero learnt visibly later [measured].
    """
    if init == "gate":
        weight.zero_()
    else:
        fill_truncated_normal(weight, gain * math.sqrt((2.0 if init == "he" else 1.0) / weight.shape[1]))
    if bias is not None:
        bias.fill_(1.0 if init == "gate" else 0.0)


class Linear(nn.Linear):
    """A linear map with a named initialisation."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True, init: Init = "lecun") -> None:
        self.init = init
        super().__init__(in_features, out_features, bias=bias)

    def reset_parameters(self) -> None:
        """Initialise by the name given to the constructor."""
        initialise(self.weight, self.bias, self.init)


class Embedding(nn.Embedding):
    """An embedding table drawn from N(0, 0.1), or filled with one value; row 0 is zero when it is padding."""

    def __init__(self, rows: int, width: int, *, padding_idx: int | None = None, fill: float | None = None) -> None:
        self.fill = fill
        super().__init__(rows, width, padding_idx=padding_idx)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the table; the padding row is set to zero in the same scope."""
        if self.fill is None:
            fill_truncated_normal(self.weight, EMBEDDING_STD)
        else:
            self.weight.fill_(self.fill)
        if self.padding_idx is not None:
            self.weight[self.padding_idx].zero_()


def weight_parameter(out_features: int, in_features: int, init: Init = "lecun") -> nn.Parameter:
    """Return an initialised weight [out, in] for a module that owns it."""
    weight = nn.Parameter(torch.empty(out_features, in_features))
    initialise(weight, None, init)
    return weight


def linear_parameters(
    out_features: int, in_features: int, init: Init = "lecun", gain: float = 1.0
) -> tuple[nn.Parameter, nn.Parameter]:
    """Return an initialised weight [out, in] and bias [out] for a module that owns them."""
    weight, bias = nn.Parameter(torch.empty(out_features, in_features)), nn.Parameter(torch.empty(out_features))
    initialise(weight, bias, init, gain)
    return weight, bias


def residual_gain(config: ModelConfig) -> float:
    """Return the gain of the last map of a residual branch: layers^-1/2."""
    return 1.0 / math.sqrt(config.layers)


def norm_parameters(width: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Return the weight, one, and bias, zero, of a layer norm for a module that owns them."""
    return nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))


class PairBiasedAttention(nn.Module):
    """Self-attention of the nodes with one additive bias per head from the pair representation, after a layer norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D = config.atom_width
        self.heads = config.heads
        self.dropout = config.attention_dropout
        self.norm_weight, self.norm_bias = norm_parameters(D)
        self.qkv_weight = weight_parameter(3 * D, D)
        self.pair_weight, self.pair_bias = linear_parameters(config.heads, config.pair_width)
        self.out_weight, self.out_bias = linear_parameters(D, D, gain=residual_gain(config))

    def weights(self) -> tuple[Tensor, ...]:
        """Return all of them, in the order of the kernels' arguments."""
        return (
            self.norm_weight, self.norm_bias, self.qkv_weight, self.pair_weight, self.pair_bias,
            self.out_weight, self.out_bias,
        )  # fmt: skip

    def forward(self, atom_BND: Tensor, pair_BNNP: Tensor, masks: NodeMasks, *, residual: bool) -> Tensor:
        """Return the update [B, N, D], added to the nodes if ``residual``.

        Args:
            atom_BND: nodes.
            pair_BNNP: pairs.
            masks: masks of the batch.
            residual: whether to add the nodes.
        """
        B, N, D = atom_BND.shape
        done = attention(
            atom_BND, pair_BNNP, *self.weights(), heads=self.heads, residual=residual,
            dropout=self.dropout if self.training else 0.0, nodes_B=masks.nodes_B,
        )  # fmt: skip
        if done is not None:
            return done
        qkv_BN3D, bias_BHNN = self._projected(atom_BND, pair_BNNP, masks.nodes_B)
        weights_MNN, value_MNd = attention_weights(qkv_BN3D, bias_BHNN, masks.key_mask_B1N)
        weights_MNN = F.dropout(weights_MNN.to(value_MNd.dtype), self.dropout, self.training)
        mixed_BND = torch.bmm(weights_MNN, value_MNd).view(B, self.heads, N, -1).transpose(1, 2).reshape(B, N, D)
        update_BND = linear(mixed_BND, self.out_weight, self.out_bias)
        return atom_BND + update_BND if residual else update_BND

    def scores(self, atom_BND: Tensor, pair_BNNP: Tensor) -> Tensor:
        """Return the input of the softmax, q·kᵀ/√d + the pair bias, [B, H, N, N]; values at padding are arbitrary.

        Args:
            atom_BND: nodes.
            pair_BNNP: pairs.
        """
        qkv_BN3D, bias_BHNN = self._projected(atom_BND, pair_BNNP)
        logits_MNN, _ = attention_logits(qkv_BN3D, bias_BHNN, atom_BND.new_zeros(1, 1, 1))
        return logits_MNN.view_as(bias_BHNN)

    def _projected(self, atom_BND: Tensor, pair_BNNP: Tensor, nodes_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return queries, keys and values [B, N, 3D], and the pair bias [B, H, N, N]."""
        D = atom_BND.shape[-1]
        normal_BND = F.layer_norm(atom_BND, [D], self.norm_weight, self.norm_bias, NORM_EPSILON)
        bias_BHNN = channel_first_linear(pair_BNNP, self.pair_weight, self.pair_bias, nodes_B)
        return linear(normal_BND, self.qkv_weight), bias_BHNN


def attention_weights(qkv_BN3D: Tensor, bias_BHNN: Tensor, key_mask_B1N: Tensor) -> tuple[Tensor, Tensor]:
    """Return softmax(q·kᵀ/√d + bias + mask) [B·H, N, N], fp32, and the values [B·H, N, d].

    Args:
        qkv_BN3D: queries, keys and values, each of H heads of d channels.
        bias_BHNN: per head.
        key_mask_B1N: 0 at real nodes, −inf at padding.
    """
    logits_MNN, v = attention_logits(qkv_BN3D, bias_BHNN, key_mask_B1N)
    return logits_MNN.softmax(dim=-1, dtype=torch.float32), v


def attention_logits(qkv_BN3D: Tensor, bias_BHNN: Tensor, key_mask_B1N: Tensor) -> tuple[Tensor, Tensor]:
    """Return q·kᵀ/√d + bias + mask [B·H, N, N] and the values [B·H, N, d]; see ``attention_weights``."""
    B, H, N, _ = bias_BHNN.shape
    q, k, v = qkv_BN3D.view(B, N, 3, H, -1).permute(2, 0, 3, 1, 4).reshape(3, B * H, N, -1).unbind(0)
    masked_MNN = (bias_BHNN + key_mask_B1N.unsqueeze(1)).view(B * H, N, N)
    return torch.baddbmm(masked_MNN, q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5), v


class FeedForward(nn.Module):
    """LayerNorm, Linear, GELU, dropout, Linear, over the last axis; used in the atom track and the pair track."""

    def __init__(self, width: int, hidden: int, gain: float, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm_weight, self.norm_bias = norm_parameters(width)
        self.up_weight, self.up_bias = linear_parameters(hidden, width, "he")
        self.down_weight, self.down_bias = linear_parameters(width, hidden, gain=gain)

    def weights(self) -> tuple[Tensor, ...]:
        """Return all of them, in the order of the kernels' arguments."""
        return (self.norm_weight, self.norm_bias, self.up_weight, self.up_bias, self.down_weight, self.down_bias)

    def forward(self, x: Tensor, masks: NodeMasks | None = None, *, residual: bool) -> Tensor:
        """Return the update, added to the input if ``residual``; the same shape as the input.

        Args:
            x: nodes or pairs.
            masks: masks of their batch, if there are any.
            residual: whether to add the input.
        """
        return feed_forward(
            x, *self.weights(), residual=residual, dropout=self.dropout if self.training else 0.0,
            nodes_B=masks.nodes_B if masks else None, dropping=masks.dropping if masks else None,
        )  # fmt: skip


class OuterProduct(nn.Module):
    """Update of the pairs from the outer product of their two nodes, after a layer norm of the nodes."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D, h, P = config.atom_width, config.pair_hidden, config.pair_width
        self.norm_weight, self.norm_bias = norm_parameters(D)
        self.project_weight, self.project_bias = linear_parameters(2 * h, D)
        # Row c, column (d, p): this layout makes a·W one matrix product.
        self.weight = nn.Parameter(torch.empty(h, h * P))
        self.bias = nn.Parameter(torch.empty(P))
        # A sum over h² products, where a linear map of h inputs would sum over h.
        initialise(self.weight.view(h * P, h), self.bias, "lecun", residual_gain(config) * h**-0.5)

    def weights(self) -> tuple[Tensor, ...]:
        """Return all of them, in the order of the kernels' arguments."""
        return (self.norm_weight, self.norm_bias, self.project_weight, self.project_bias, self.weight, self.bias)

    def forward(self, atom_BND: Tensor, pair_BNNP: Tensor, masks: NodeMasks, *, residual: bool) -> Tensor:
        """Return the update [B, N, N, P], added to the pairs if ``residual``.

        Args:
            atom_BND: nodes.
            pair_BNNP: pairs.
            masks: masks of the batch.
            residual: whether to add the pairs.
        """
        count_B11 = masks.count_B11
        done = outer_product(
            pair_BNNP, atom_BND, count_B11.view(-1), *self.weights(), residual=residual, nodes_B=masks.nodes_B
        )
        if done is not None:
            return done
        # The reference scales a and b by n^-1/2 each and divides by (eps + 1/n), so the product keeps 1/(1 + eps n).
        undo_B11 = 1.0 / (OUTER_PRODUCT_EPSILON + 1.0 / count_B11)
        normal_BND = F.layer_norm(atom_BND, atom_BND.shape[-1:], self.norm_weight, self.norm_bias, NORM_EPSILON)
        projected_BNk = linear(normal_BND, self.project_weight, self.project_bias) * masks.valid_BN1
        a_BNh, b_BNh = projected_BNk.chunk(2, dim=-1)
        b_BNh = b_BNh * (undo_B11 / count_B11).to(b_BNh.dtype)
        constant_B11P = (self.bias * undo_B11.to(self.bias.dtype)).unsqueeze(1)
        inputs = (pair_BNNP, a_BNh, b_BNh, self.weight, constant_B11P, residual)
        out: Tensor = OuterProductFunction.apply(*inputs)  # type: ignore[no-untyped-call]
        return out


class TriangleUpdate(nn.Module):
    """Update of pair (i, j) from the pairs that share a node with both, outgoing and incoming in one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        P, h = config.pair_width, config.pair_hidden
        self.norm_weight, self.norm_bias = norm_parameters(P)
        # Values of a and b, then their gates, in one map, so that the normalised pairs are read once.
        self.project_weight, self.project_bias = linear_parameters(4 * h, P)
        initialise(self.project_weight[2 * h :], self.project_bias[2 * h :], "gate")
        self.inner_weight, self.inner_bias = norm_parameters(h)
        self.out_weight, self.out_bias = linear_parameters(P, h, gain=residual_gain(config))
        self.gate_weight, self.gate_bias = linear_parameters(P, P, "gate")

    def forward(self, pair_BNNP: Tensor, masks: NodeMasks, *, residual: bool) -> Tensor:
        """Return the update [B, N, N, P], added to the input if ``residual``.

        Args:
            pair_BNNP: pairs.
            masks: masks of the batch.
            residual: whether to add the input.
        """
        return triangle(
            pair_BNNP, masks.scale_B1NN, self.norm_weight, self.norm_bias, self.project_weight, self.project_bias,
            self.inner_weight, self.inner_bias, self.out_weight, self.out_bias, self.gate_weight, self.gate_bias,
            residual=residual, nodes_B=masks.nodes_B, dropping=masks.dropping,
        )  # fmt: skip


class TwoTrackLayer(nn.Module):
    """Pre-norm residual layer: attention, feed-forward, outer product, triangle update, pair feed-forward.

    Args:
        config: configuration of the model.
        drop_path: probability that a residual branch of this layer is left out for a molecule in training.
        index: index of the layer, so that no two layers drop the same.
    """

    def __init__(self, config: ModelConfig, drop_path: float = 0.0, index: int = 0) -> None:
        super().__init__()
        gain = residual_gain(config)
        self.attention = PairBiasedAttention(config)
        self.ffn = FeedForward(config.atom_width, config.ffn_width, gain, config.activation_dropout)
        self.outer_product = OuterProduct(config)
        self.triangle = TriangleUpdate(config)
        self.pair_ffn = FeedForward(config.pair_width, config.pair_width, gain, config.activation_dropout)
        self.drop_path = drop_path
        self.dropout = config.dropout
        self.triangle_dropout = config.triangle_dropout
        self.index = index

    def forward(self, atom_BND: Tensor, pair_BNNP: Tensor, masks: NodeMasks) -> tuple[Tensor, Tensor]:
        """Return the updated nodes [B, N, D] and pairs [B, N, N, P]."""
        # If nothing is dropped, or an update drops by itself, it also adds itself, which saves a pass over memory.
        whole = masks.dropping is not None
        fused = whole or not (self.training and (self.dropout or self.drop_path))
        fused_triangle = whole or not (self.training and (self.triangle_dropout or self.drop_path))

        if masks.dropping is not None:
            atom_BND, pair_BNNP = self._fused_nodes(atom_BND, pair_BNNP, masks)
        else:
            atom = self.attention(atom_BND, pair_BNNP, masks, residual=fused)
            atom_BND = atom if fused else atom_BND + self._drop(atom)
            atom = self.ffn(atom_BND, masks, residual=fused)
            atom_BND = atom if fused else atom_BND + self._drop(atom)
            pair = self.outer_product(atom_BND, pair_BNNP, masks, residual=fused)
            pair_BNNP = pair if fused else pair_BNNP + self._drop(pair)
        pair = self.triangle(pair_BNNP, self._of_branch(masks, TRIANGLE), residual=fused_triangle)
        pair_BNNP = pair if fused_triangle else pair_BNNP + self._drop_rows(pair)
        pair = self.pair_ffn(pair_BNNP, self._of_branch(masks, PAIR_FFN), residual=fused)
        pair_BNNP = pair if fused else pair_BNNP + self._drop(pair)
        return atom_BND, pair_BNNP

    def _fused_nodes(self, atom_BND: Tensor, pair_BNNP: Tensor, masks: NodeMasks) -> tuple[Tensor, Tensor]:
        """Return nodes and pairs after the three branches that begin with the nodes."""
        assert masks.dropping is not None
        attention, ffn, outer = (self._dropping(masks.dropping, branch) for branch in range(TRIANGLE))
        on = float(self.training)
        droppings = NodeDroppings(
            attention=attention, attention_weights=attention.inside(on * self.attention.dropout),
            feed_forward=ffn, activation=ffn.inside(on * self.ffn.dropout), outer_product=outer,
        )  # fmt: skip
        known = (masks.key_mask_B1N, masks.count_B11.view(-1), masks.valid_BN1)
        # ZeRO-3 sees that the layer reads weights of other modules, and from the next step on fetches them with it.
        weights = (*self.attention.weights(), *self.ffn.weights(), *self.outer_product.weights())
        return node_branches(atom_BND, pair_BNNP, *known, *weights, droppings=droppings)

    def _of_branch(self, masks: NodeMasks, branch: int) -> NodeMasks:
        """Return the masks with what Triton kernels drop of a branch."""
        return masks if masks.dropping is None else replace(masks, dropping=self._dropping(masks.dropping, branch))

    def _dropping(self, of_batch: Dropping, branch: int) -> Dropping:
        """Return what Triton kernels drop of a branch: nothing but in training."""
        rate = self.triangle_dropout if branch == TRIANGLE else self.dropout
        return of_batch.of_branch(self.index, branch, rate, self.drop_path) if self.training else of_batch

    def _drop(self, x: Tensor) -> Tensor:
        return self._drop_branch(F.dropout(x, self.dropout, self.training) if self.dropout else x)

    def _drop_rows(self, pair_BNNP: Tensor) -> Tensor:
        if self.triangle_dropout:
            keep_BN1P = F.dropout(torch.ones_like(pair_BNNP[:, :, :1]), self.triangle_dropout, self.training)
            pair_BNNP = pair_BNNP * keep_BN1P
        return self._drop_branch(pair_BNNP)

    def _drop_branch(self, x: Tensor) -> Tensor:
        """Leave out a residual branch for some molecules, scale it for the others (Huang et al., arXiv 1603.09382)."""
        if not (self.training and self.drop_path):
            return x
        return x * F.dropout(x.new_ones(len(x), *[1] * (x.dim() - 1)), self.drop_path)
