"""Heads on top of the backbone; an objective builds only those it uses.

Shapes: B molecules, A atoms, N = A + 1 nodes, D atom channels, P pair channels, H heads, M chosen atoms, V tokens.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimol_scale.data import vocabulary as vocab
from unimol_scale.model.backbone import Representation
from unimol_scale.model.layers import ChannelFirstLinear, Linear
from unimol_scale.model.presets import ModelConfig


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
    over j, so that per head only one number an atom is mixed. (The direction is the one the released weights expect.)
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D = config.atom_width
        self.heads = config.heads
        self.dropout = config.attention_dropout
        self.atom_norm = nn.LayerNorm(D)
        self.pair_norm = nn.LayerNorm(config.pair_width)
        self.qkv = Linear(D, 3 * D, bias=False)
        self.pair_bias = ChannelFirstLinear(config.pair_width, config.heads)
        self.force = nn.Parameter(torch.empty(D))
        with torch.no_grad():
            self.force.zero_()

    def forward(self, representation: Representation, coordinates_BA3: Tensor) -> Tensor:
        """Return predicted coordinates [B, A, 3], Å, fp32.

        Args:
            representation: of the backbone; the virtual node takes no part.
            coordinates_BA3: input coordinates, Å.
        """
        atom_BAD = self.atom_norm(representation.atom_BND[:, 1:])
        pair_BAAP = self.pair_norm(representation.pair_BNNP[:, 1:, 1:])
        B, A, D = atom_BAD.shape
        q_BHAd, k_BHAd, v_BHAd = self.qkv(atom_BAD).view(B, A, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        valid_BA = representation.valid_BN[:, 1:]
        bias_BHAA = self.pair_bias(pair_BAAP).masked_fill(~valid_BA[:, None, None, :], -math.inf)
        logits_BHAA = torch.matmul(q_BHAd * (D // self.heads) ** -0.5, k_BHAd.transpose(2, 3)) + bias_BHAA
        attention_BHAA = F.dropout(logits_BHAA.float().softmax(dim=-1), self.dropout, self.training)
        force_H1d = self.force.view(self.heads, 1, -1)
        strength_BHA = (v_BHAd * force_H1d).float().sum(-1)
        weight_BAA = torch.einsum("bhij,bhj->bij", attention_BHAA, strength_BHA)
        # Σ_j w_ij (r_j − r_i) = Σ_j w_ij r_j − r_i Σ_j w_ij, without the [A, A, 3] differences.
        r_BA3 = coordinates_BA3.float()
        return r_BA3 + torch.matmul(weight_BAA, r_BA3) - r_BA3 * weight_BAA.sum(-1, keepdim=True)
