"""Heads on top of the backbone; an objective builds only those it uses.

Shapes: B molecules, A atoms, N = A + 1 nodes, D atom channels, P pair channels, H heads, M chosen atoms, V tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimol_scale.data import vocabulary as vocab
from unimol_scale.model.backbone import Representation
from unimol_scale.model.fused import launching
from unimol_scale.model.fused.dropping import NOTHING, Dropping, draw_seed
from unimol_scale.model.fused.fused_head import FusedCoordinateHeadFunction
from unimol_scale.model.kernels import NORM_EPSILON, linear
from unimol_scale.model.layers import Linear, attention_weights, linear_parameters, norm_parameters, weight_parameter
from unimol_scale.model.presets import ModelConfig
from unimol_scale.model.track_updates import bias_of_atoms, count_nodes, mixed_attention


class TokenHead(nn.Module):
    """Logits of the element behind a masked token: LayerNorm, Linear, GELU, Linear."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.atom_width)
        self.dense = Linear(config.atom_width, config.atom_width)
        self.out = Linear(config.atom_width, vocab.NUM_TOKENS)

    def forward(self, atom_MD: Tensor) -> Tensor:
        """Return logits [M, V] for the atom representations [M, D]."""
        logits_MV: Tensor = self.out(F.gelu(self.dense(self.norm(atom_MD))))
        return logits_MV


class CoordinateHead(nn.Module):
    """Predicted coordinates: attention over the atoms' relative positions, one number per axis, rotation-equivariant.

    r_pred_i = r_i + Σ_heads Σ_j attention_ij · (r_j − r_i) · (v_j · f). The projection f is applied to v before the sum
    over j, so that each head mixes only one number per atom. (The released weights expect this direction.)
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D = config.atom_width
        self.heads = config.heads
        self.dropout = config.attention_dropout
        self.atom_norm_weight, self.atom_norm_bias = norm_parameters(D)
        self.pair_norm_weight, self.pair_norm_bias = norm_parameters(config.pair_width)
        self.qkv_weight = weight_parameter(3 * D, D)
        self.pair_weight, self.pair_bias = linear_parameters(config.heads, config.pair_width)
        self.force = nn.Parameter(torch.zeros(D))

    def forward(
        self, representation: Representation, coordinates_BA3: Tensor, seen_BAA: Tensor | None = None
    ) -> Tensor:
        """Return predicted coordinates [B, A, 3], Å, fp32.

        Args:
            representation: output of the backbone; the virtual node is not used.
            coordinates_BA3: input coordinates, Å.
            seen_BAA: bool, which relative positions r_j − r_i may be used; None: all of them.
        """
        if seen_BAA is None and self._suits_fused(representation, coordinates_BA3):
            return self._fused(representation, coordinates_BA3.float())
        nodes_B = count_nodes(representation.valid_BN)
        weight_BAA = self._native_weights(representation, nodes_B)
        if weight_BAA is None:
            weight_BAA = self._weights(representation, nodes_B)
        if seen_BAA is not None:
            weight_BAA = weight_BAA * seen_BAA
        # Σ_j w_ij (r_j − r_i) = Σ_j w_ij r_j − r_i Σ_j w_ij, without the [A, A, 3] differences.
        r_BA3 = coordinates_BA3.float()
        return r_BA3 + torch.matmul(weight_BAA, r_BA3) - r_BA3 * weight_BAA.sum(-1, keepdim=True)

    def _suits_fused(self, representation: Representation, coordinates_BA3: Tensor) -> bool:
        fits = launching.suits(representation.pair_BNNP, representation.atom_BND)
        return fits and not coordinates_BA3.requires_grad and self.force.dtype == representation.atom_BND.dtype

    def _fused(self, representation: Representation, coordinates_BA3: Tensor) -> Tensor:
        rate = self.dropout if self.training else 0.0
        inner = Dropping(rate=rate, seed=draw_seed(representation.atom_BND)) if rate else NOTHING
        moved_BA3: Tensor = FusedCoordinateHeadFunction.apply(  # type: ignore[no-untyped-call]
            representation.atom_BND, representation.pair_BNNP, representation.valid_BN, coordinates_BA3, inner,
            self.atom_norm_weight, self.atom_norm_bias, self.qkv_weight, self.pair_weight, self.pair_bias,
            self.pair_norm_weight, self.pair_norm_bias, self.force,
        )  # fmt: skip
        return moved_BA3

    def _native_weights(self, representation: Representation, nodes_B: Tensor | None) -> Tensor | None:
        if self.training and self.dropout:
            return None
        return mixed_attention(
            representation.atom_BND, representation.pair_BNNP, self.atom_norm_weight, self.atom_norm_bias,
            self.qkv_weight, self.pair_weight, self.pair_bias, self.pair_norm_weight, self.pair_norm_bias, self.force,
            heads=self.heads, nodes_B=nodes_B,
        )  # fmt: skip

    def _weights(self, representation: Representation, nodes_B: Tensor | None) -> Tensor:
        """Return the weights [B, A, A] of r_j − r_i in an atom's displacement: Σ_h attention_hij · (v_hj · f_h)."""
        atom_BAD = representation.atom_BND[:, 1:]
        B, A, D = atom_BAD.shape
        atom_BAD = F.layer_norm(atom_BAD, [D], self.atom_norm_weight, self.atom_norm_bias, NORM_EPSILON)
        padding_B1A = ~representation.valid_BN[:, None, 1:]
        # Finite, because a molecule without atoms would have no attention at all.
        least = torch.finfo(atom_BAD.dtype).min
        mask_B1A = torch.zeros_like(padding_B1A, dtype=atom_BAD.dtype).masked_fill(padding_B1A, least)
        bias_BHAA = bias_of_atoms(
            representation.pair_BNNP, self.pair_norm_weight, self.pair_norm_bias, self.pair_weight, self.pair_bias,
            nodes_B,
        )  # fmt: skip
        weights_MAA, value_MAd = attention_weights(linear(atom_BAD, self.qkv_weight), bias_BHAA, mask_B1A)
        attention_BHAA = F.dropout(weights_MAA, self.dropout, self.training).view(B, self.heads, A, A)
        force_H1d = self.force.view(self.heads, 1, -1)
        strength_BHA = (value_MAd.view(B, self.heads, A, -1) * force_H1d).float().sum(-1)
        return (attention_BHAA * strength_BHA.unsqueeze(2)).sum(1)
