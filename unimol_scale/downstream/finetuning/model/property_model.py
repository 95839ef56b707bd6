"""A backbone with a head that predicts properties of molecules.

Shapes: B molecules, L targets, D atom channels.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from unimol_scale.downstream.config import Pooling
from unimol_scale.downstream.embedding.pooling import pool
from unimol_scale.model.backbone import TwoTrackBackbone
from unimol_scale.model.encodings import ModelInput
from unimol_scale.model.layers import Linear
from unimol_scale.model.presets import ModelConfig


class PropertyModel(nn.Module):
    """Backbone, pooling, and a head: LayerNorm (the backbone ends in none), Linear, GELU, dropout, Linear.

    Args:
        config: of the backbone.
        num_targets: L.
        pooling: how atoms become one vector of the molecule.
        dropout: in the head.
    """

    def __init__(self, config: ModelConfig, num_targets: int, pooling: Pooling, dropout: float) -> None:
        super().__init__()
        self.backbone = TwoTrackBackbone(config)
        self.pooling = pooling
        self.norm = nn.LayerNorm(config.atom_width)
        self.dense = Linear(config.atom_width, config.atom_width, init="he")
        self.dropout = nn.Dropout(dropout)
        self.out = Linear(config.atom_width, num_targets)

    def forward(self, molecules: ModelInput) -> Tensor:
        """Return [B, L], fp32: normalised values of a regression, logits of a classifier."""
        pooled_BD = self.norm(pool(self.backbone(molecules), self.pooling))
        hidden_BD = self.dropout(F.gelu(self.dense(pooled_BD)))
        out_BL: Tensor = self.out(hidden_BD)
        return out_BL
