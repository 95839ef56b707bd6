"""Heads that predict relations of pairs of atoms from an outer product of the two atoms (MoleBlend, eq. 10 and 11).

Shapes: B molecules, A atoms, N = A + 1 nodes, D atom channels, r channels of each factor, K predicted channels.
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

    The maps to the two factors are shared by all relations. Everything after the factors is fp32: in bf16 a distance of
    8 Å would be off by 0.03 Å.

    Args:
        config: configuration of the backbone.
        relations: relations to predict, names of ``RELATION_CHANNELS``.
    """

    def __init__(self, config: ModelConfig, relations: Sequence[str]) -> None:
        super().__init__()
        D, r = config.atom_width, vocab.RELATION_HIDDEN
        self.channels = {name: RELATION_CHANNELS[name] for name in relations}
        self.norm_weight, self.norm_bias = norm_parameters(D)
        self.project_weight, self.project_bias = linear_parameters(2 * r, D)
        self.weight, self.bias = _map_of_products(sum(self.channels.values()))

    def forward(self, representation: Representation) -> dict[str, Tensor]:
        """Return relation → prediction [B, A, A, channels], fp32; the first atom axis is the start of a path."""
        atom_BAD = representation.atom_BND[:, 1:]
        normal_BAD = F.layer_norm(atom_BAD, atom_BAD.shape[-1:], self.norm_weight, self.norm_bias, NORM_EPSILON)
        a_BAr, b_BAr = linear(normal_BAD, self.project_weight, self.project_bias).float().chunk(2, dim=-1)
        z_BAAK = _outer_product(a_BAr, b_BAr, self.weight, self.bias)
        return dict(zip(self.channels, torch.split(z_BAAK, list(self.channels.values()), dim=-1), strict=True))


class SeparateRelationHeads(nn.Module):
    """LayerNorm of the atoms, and a ``RelationHead`` for every relation, as in MoleBlend's public code.

    The layer norm corresponds to the one at the end of the encoder there; this backbone has none at its end.

    Args:
        config: configuration of the backbone.
        relations: relations to predict, names of ``RELATION_CHANNELS``.
    """

    def __init__(self, config: ModelConfig, relations: Sequence[str]) -> None:
        super().__init__()
        self.norm_weight, self.norm_bias = norm_parameters(config.atom_width)
        self.heads = nn.ModuleDict({name: RelationHead(config, RELATION_CHANNELS[name]) for name in relations})

    def forward(self, representation: Representation) -> dict[str, Tensor]:
        """Return relation → prediction [B, A, A, channels], fp32; the first atom axis is the start of a path."""
        atom_BAD = representation.atom_BND[:, 1:]
        normal_BAD = F.layer_norm(atom_BAD, atom_BAD.shape[-1:], self.norm_weight, self.norm_bias, NORM_EPSILON)
        return {name: head(normal_BAD) for name, head in self.heads.items()}


class RelationHead(nn.Module):
    """Two factors of the atoms, each Linear, GELU, LayerNorm; their outer product; a linear map of it.

    Everything after the factors is fp32.

    Args:
        config: configuration of the backbone.
        channels: K, channels of the prediction.
    """

    def __init__(self, config: ModelConfig, channels: int) -> None:
        super().__init__()
        r = vocab.RELATION_HIDDEN
        self.project_weight, self.project_bias = linear_parameters(2 * r, config.atom_width, "he")
        self.factor_norm_weight, self.factor_norm_bias = norm_parameters(2 * r)
        self.weight, self.bias = _map_of_products(channels)

    def forward(self, normal_BAD: Tensor) -> Tensor:
        """Return the prediction [B, A, A, K], fp32, for the normalised atoms [B, A, D]."""
        factors_BA2r = F.gelu(linear(normal_BAD, self.project_weight, self.project_bias).float())
        weight_2r, bias_2r = self.factor_norm_weight.float(), self.factor_norm_bias.float()
        a_BAr, b_BAr = (
            F.layer_norm(factor_BAr, factor_BAr.shape[-1:], weight_r, bias_r, NORM_EPSILON)
            for factor_BAr, weight_r, bias_r in zip(
                factors_BA2r.chunk(2, dim=-1), weight_2r.chunk(2), bias_2r.chunk(2), strict=True
            )
        )
        return _outer_product(a_BAr, b_BAr, self.weight, self.bias)


def _map_of_products(channels: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Return weight and bias of a linear map of r² products to K channels, for a module that owns them."""
    r = vocab.RELATION_HIDDEN
    # Row c, column (d, k): this layout makes a·W one matrix product.
    weight, bias = nn.Parameter(torch.empty(r, r * channels)), nn.Parameter(torch.empty(channels))
    # A sum over r² products, where a linear map of r inputs would have a sum over r.
    initialise(weight.view(r * channels, r), bias, "lecun", r**-0.5)
    return weight, bias


def _outer_product(a_BAr: Tensor, b_BAr: Tensor, weight: Tensor, bias_K: Tensor) -> Tensor:
    """Return z_ij = Σ_cd a_ic b_jd W_cd + k, [B, A, A, K], fp32.

    Computed as (a_i·W)·b_j: 2rK + 2r²K/n operations per pair, and no tensor of size n²·r².
    """
    B, A, r = a_BAr.shape
    K = len(bias_K)
    T_MrK = torch.matmul(a_BAr.reshape(B * A, r), weight.float()).view(B * A, r, K)
    b_MAr = b_BAr.unsqueeze(1).expand(B, A, A, r).reshape(B * A, A, r)
    return torch.baddbmm(bias_K.float(), b_MAr, T_MrK).view(B, A, A, K)
