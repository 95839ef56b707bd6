"""Heads that predict relations of pairs of atoms from an outer product of the two atoms (MoleBlend, eq. 10 and 11).

Shapes: B molecules, A atoms, N = A + 1 nodes, D atom channels, r channels of each factor, K predicted channels in all.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimol_scale.data import vocabulary as vocab
from unimol_scale.model.accounting import RELATION_CHANNELS
from unimol_scale.model.backbone import Representation
from unimol_scale.model.kernels import NORM_EPSILON, linear
from unimol_scale.model.layers import initialise, linear_parameters, norm_parameters
from unimol_scale.model.presets import ModelConfig


class RelationHeads(nn.Module):
    """LayerNorm, two linear maps of the atoms, their outer product, and a linear map of it for every relation.

    The maps to the two factors are shared by all relations. From the factors on everything is fp32: a distance of 8 Å
    in bf16 would be off by 0.03 Å.

    Args:
        config: of the backbone.
        relations: names of ``RELATION_CHANNELS``: what is predicted.
    """

    def __init__(self, config: ModelConfig, relations: Sequence[str]) -> None:
        super().__init__()
        D, r = config.atom_width, vocab.RELATION_HIDDEN
        self.channels = {name: RELATION_CHANNELS[name] for name in relations}
        K = sum(self.channels.values())
        self.norm_weight, self.norm_bias = norm_parameters(D)
        self.project_weight, self.project_bias = linear_parameters(2 * r, D)
        # Row c, column (d, k): the layout that makes a·W one matrix product.
        self.weight = nn.Parameter(torch.empty(r, r * K))
        self.bias = nn.Parameter(torch.empty(K))
        # A sum over r² products, where a linear map of r inputs would have a sum over r.
        initialise(self.weight.view(r * K, r), self.bias, "lecun", r**-0.5)

    def forward(self, representation: Representation) -> dict[str, Tensor]:
        """Return relation → prediction [B, A, A, channels], fp32; the first atom axis is the start of a path.

        z_ij = Σ_cd a_ic b_jd W_cd + k as (a_i·W)·b_j: 2rK + 2r²K/n operations a pair, and no tensor of n²·r².
        """
        atom_BAD = representation.atom_BND[:, 1:]
        B, A, D = atom_BAD.shape
        normal_BAD = F.layer_norm(atom_BAD, [D], self.norm_weight, self.norm_bias, NORM_EPSILON)
        a_BAr, b_BAr = linear(normal_BAD, self.project_weight, self.project_bias).float().chunk(2, dim=-1)
        r, K = a_BAr.shape[-1], len(self.bias)
        T_MrK = torch.matmul(a_BAr.reshape(B * A, r), self.weight.float()).view(B * A, r, K)
        b_MAr = b_BAr.unsqueeze(1).expand(B, A, A, r).reshape(B * A, A, r)
        z_BAAK = torch.baddbmm(self.bias.float(), b_MAr, T_MrK).view(B, A, A, K)
        return dict(zip(self.channels, torch.split(z_BAAK, list(self.channels.values()), dim=-1), strict=True))
