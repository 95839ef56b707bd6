"""One layer of the two-track Transformer (Uni-Mol2, FACTS of arXiv 2406.14969 and its public reference).

Shapes: B molecules, N nodes (virtual node first, then atoms, padded), D atom channels, P pair channels, H heads,
h hidden pair channels. Every module uses only parameters that it owns, because ZeRO-3 fetches weights module by module,
and initialises them in its own constructor.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimol_scale.model.presets import ModelConfig

Init = Literal["lecun", "he", "zero", "gate"]
# Divides the outer product in the reference; kept because the released weights were trained with it.
OUTER_PRODUCT_EPSILON = 1e-3
EMBEDDING_STD = 0.02
# A normal distribution cut at two standard deviations has this standard deviation.
TRUNCATED_STD = 0.87962566103423978


@torch.no_grad()
def fill_truncated_normal(weight: Tensor, std: float) -> None:
    """Fill with a normal distribution cut at two standard deviations, drawn in fp32 whatever the weight's dtype.

    ZeRO-3 builds modules in bf16, where torch's own in-place draws come out biased.
    """
    if weight.device.type == "meta":
        return
    draw = torch.empty(weight.shape, dtype=torch.float32, device=weight.device)
    nn.init.trunc_normal_(draw, std=std / TRUNCATED_STD, a=-2 * std / TRUNCATED_STD, b=2 * std / TRUNCATED_STD)
    weight.copy_(draw)


@torch.no_grad()
def initialise(weight: Tensor, bias: Tensor | None, init: Init) -> None:
    """Initialise a linear map [out, in] in place.

    ``lecun`` keeps the variance, ``he`` doubles it for a following GELU, ``zero`` makes a residual branch start as the
    identity, ``gate`` makes a multiplicative gate start at one.
    """
    if init in ("lecun", "he"):
        gain = 2.0 if init == "he" else 1.0
        fill_truncated_normal(weight, math.sqrt(gain / weight.shape[1]))
    else:
        weight.zero_()
    if bias is not None:
        bias.fill_(1.0 if init == "gate" else 0.0)


class Linear(nn.Linear):
    """A linear map that initialises itself by name."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True, init: Init = "lecun") -> None:
        self.init = init
        super().__init__(in_features, out_features, bias=bias)

    def reset_parameters(self) -> None:
        """Initialise by the name given to the constructor."""
        initialise(self.weight, self.bias, self.init)


class Embedding(nn.Embedding):
    """An embedding table drawn from N(0, 0.02), or filled with one value; row 0 is zero when it is padding."""

    def __init__(self, rows: int, width: int, *, padding_idx: int | None = None, fill: float | None = None) -> None:
        self.fill = fill
        super().__init__(rows, width, padding_idx=padding_idx)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the table; the padding row is zeroed in the same scope."""
        if self.fill is None:
            fill_truncated_normal(self.weight, EMBEDDING_STD)
        else:
            self.weight.fill_(self.fill)
        if self.padding_idx is not None:
            self.weight[self.padding_idx].zero_()


class ChannelFirstLinear(nn.Module):
    """A linear map of the pair track whose result is [B, C, N, N]: what batched products over nodes want.

    One matrix product writes that layout directly, where a linear layer and a permute would copy.
    """

    def __init__(self, in_features: int, out_features: int, *, inits: tuple[Init, ...] = ("lecun",)) -> None:
        """Build the map; each of ``inits`` initialises an equal share of the output channels."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features))
        share = out_features // len(inits)
        for part, init in enumerate(inits):
            rows = slice(part * share, (part + 1) * share)
            initialise(self.weight[rows], self.bias[rows], init)

    def forward(self, pair_BNNP: Tensor) -> Tensor:
        """Map [B, N, N, P] to [B, C, N, N]."""
        B, N, _, P = pair_BNNP.shape
        columns_BPQ = pair_BNNP.reshape(B, N * N, P).transpose(1, 2)
        result_BCQ = torch.matmul(self.weight, columns_BPQ) + self.bias[:, None]
        return result_BCQ.view(B, -1, N, N)


class PairBiasedAttention(nn.Module):
    """Self-attention of the nodes with one additive bias per head from the pair representation."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D = config.atom_width
        self.heads = config.heads
        self.dropout = config.attention_dropout
        self.qkv = Linear(D, 3 * D, bias=False)
        self.pair_bias = ChannelFirstLinear(config.pair_width, config.heads)
        self.out = Linear(D, D, init="zero")

    def forward(self, atom_BND: Tensor, pair_BNNP: Tensor, padding_BN: Tensor) -> Tensor:
        """Return [B, N, D]; keys where ``padding_BN`` is true are not attended to."""
        B, N, D = atom_BND.shape
        q_BHNd, k_BHNd, v_BHNd = self.qkv(atom_BND).view(B, N, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias_BHNN = self.pair_bias(pair_BNNP).masked_fill(padding_BN[:, None, None, :], -math.inf)
        mixed_BHNd = F.scaled_dot_product_attention(
            q_BHNd, k_BHNd, v_BHNd, attn_mask=bias_BHNN, dropout_p=self.dropout if self.training else 0.0
        )
        out_BND: Tensor = self.out(mixed_BHNd.transpose(1, 2).reshape(B, N, D))
        return out_BND


class FeedForward(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = Linear(width, hidden, init="he")
        self.down = Linear(hidden, width, init="zero")

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        out: Tensor = self.down(F.gelu(self.up(x)))
        return out


class OuterProduct(nn.Module):
    """Update of the pairs from the outer product of their two nodes, without forming the outer product.

    z_ij = Σ_cd a_ic b_jd W_cd is evaluated as T_i = a_i·W, z_ij = T_i·b_j: 2hP + 2h²P/n operations a pair instead of
    2h²P, and no n²h² tensor.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        h, P = config.pair_hidden, config.pair_width
        self.hidden = h
        self.project = Linear(config.atom_width, 2 * h)
        # Row c, column (d, p): the layout that makes a·W one matrix product.
        self.weight = nn.Parameter(torch.empty(h, h * P))
        self.bias = nn.Parameter(torch.empty(P))
        initialise(self.weight, self.bias, "zero")

    def forward(self, atom_BND: Tensor, valid_BN1: Tensor, count_B11: Tensor) -> Tensor:
        """Return [B, N, N, P].

        Args:
            atom_BND: normalised nodes.
            valid_BN1: 1 at real nodes, 0 at padding.
            count_B11: the n of the 1/n scaling, fp32.
        """
        B, N, _ = atom_BND.shape
        h = self.hidden
        # The reference scales a and b by n^-1/2 each and divides by (eps + 1/n): the product keeps 1/(1 + eps n).
        undo_B11 = 1.0 / (OUTER_PRODUCT_EPSILON + 1.0 / count_B11)
        a_BNh, b_BNh = (self.project(atom_BND) * valid_BN1).split(h, dim=-1)
        b_BNh = b_BNh * (undo_B11 / count_B11).to(b_BNh.dtype)
        T_BNhP = torch.matmul(a_BNh, self.weight).view(B, N, h, -1)
        constant_B11P = (self.bias * undo_B11.to(self.bias.dtype)).unsqueeze(1)
        return torch.matmul(b_BNh.unsqueeze(1), T_BNhP) + constant_B11P


class TriangleUpdate(nn.Module):
    """Update of pair (i, j) from the pairs that share a node with both, outgoing and incoming in one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        P, h = config.pair_width, config.pair_hidden
        # Values of a and b, then their gates: one map, so that the normalised pairs are read once.
        self.project = ChannelFirstLinear(P, 4 * h, inits=("lecun", "gate"))
        self.norm = nn.LayerNorm(h)
        self.out = Linear(h, P, init="zero")
        self.gate = Linear(P, P, init="gate")

    def forward(self, pair_BNNP: Tensor, scale_B1NN: Tensor) -> Tensor:
        """Return [B, N, N, P].

        Args:
            pair_BNNP: normalised pairs.
            scale_B1NN: n^-1/2 at pairs of real nodes, 0 elsewhere.
        """
        value_BcNN, gate_BcNN = self.project(pair_BNNP).chunk(2, dim=1)
        a_BhNN, b_BhNN = (value_BcNN * torch.sigmoid(gate_BcNN) * scale_B1NN).chunk(2, dim=1)
        mixed_BhNN = torch.matmul(a_BhNN, b_BhNN.transpose(2, 3)) + torch.matmul(a_BhNN.transpose(2, 3), b_BhNN)
        out_BNNP: Tensor = self.out(self.norm(mixed_BhNN.permute(0, 2, 3, 1))) * self.gate(pair_BNNP)
        return out_BNNP


class TwoTrackLayer(nn.Module):
    """Pre-norm residual layer: attention, feed-forward, outer product, triangle update, pair feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D, P = config.atom_width, config.pair_width
        self.attention_norm = nn.LayerNorm(D)
        self.attention = PairBiasedAttention(config)
        self.ffn_norm = nn.LayerNorm(D)
        self.ffn = FeedForward(D, config.ffn_width)
        self.outer_product_norm = nn.LayerNorm(D)
        self.outer_product = OuterProduct(config)
        self.triangle_norm = nn.LayerNorm(P)
        self.triangle = TriangleUpdate(config)
        self.pair_ffn_norm = nn.LayerNorm(P)
        self.pair_ffn = FeedForward(P, P)
        self.dropout = config.dropout
        self.triangle_dropout = config.triangle_dropout

    def forward(self, atom_BND: Tensor, pair_BNNP: Tensor, valid_BN: Tensor, count_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the updated nodes [B, N, D] and pairs [B, N, N, P].

        Args:
            atom_BND: nodes, virtual node first.
            pair_BNNP: pairs.
            valid_BN: bool, true at real nodes.
            count_B: fp32, the n of the 1/n scalings.
        """
        dtype = atom_BND.dtype
        valid_BN1 = valid_BN.unsqueeze(-1).to(dtype)
        scale_BNN = valid_BN1 * valid_BN.unsqueeze(1) * count_B.rsqrt()[:, None, None].to(dtype)

        atom_BND = atom_BND + self._drop(self.attention(self.attention_norm(atom_BND), pair_BNNP, ~valid_BN))
        atom_BND = atom_BND + self._drop(self.ffn(self.ffn_norm(atom_BND)))
        update_BNNP = self.outer_product(self.outer_product_norm(atom_BND), valid_BN1, count_B[:, None, None])
        pair_BNNP = pair_BNNP + self._drop(update_BNNP)
        update_BNNP = self.triangle(self.triangle_norm(pair_BNNP), scale_BNN.unsqueeze(1))
        pair_BNNP = pair_BNNP + self._drop_rows(update_BNNP)
        pair_BNNP = pair_BNNP + self._drop(self.pair_ffn(self.pair_ffn_norm(pair_BNNP)))
        return atom_BND, pair_BNNP

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def _drop_rows(self, pair_BNNP: Tensor) -> Tensor:
        if not (self.training and self.triangle_dropout):
            return pair_BNNP
        keep_BN1P = F.dropout(torch.ones_like(pair_BNNP[:, :, :1]), self.triangle_dropout, training=True)
        return pair_BNNP * keep_BN1P
