"""A backbone with a head that predicts properties of molecules.

Shapes: B molecules, L targets, D atom channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimol_scale.downstream.config import HeadName, Pooling
from unimol_scale.downstream.embedding.pooling import pool
from unimol_scale.model.backbone import Representation, TwoTrackBackbone
from unimol_scale.model.encodings import ModelInput
from unimol_scale.model.heads import CoordinateHead
from unimol_scale.model.layers import Linear
from unimol_scale.model.presets import ModelConfig


class PropertyModel(nn.Module):
    """Backbone, pooling, LayerNorm, and one of three heads.

    ``mlp``: Linear, GELU, dropout, Linear. ``linear``: dropout, Linear (D&D, arXiv 2309.04062). ``dense-tanh``:
    dropout, Linear, tanh, dropout, Linear (the public code of Uni-Mol2, arXiv 2406.14969). All begin with a LayerNorm:
    the backbone ends in none, and its pooled vectors have a large offset that all molecules share. A linear head would
    have to learn to cancel it, and a tanh would be saturated by it. The norm is also where ``head_initialisation``
    standardises the channels.

    Args:
        config: of the backbone.
        num_targets: L.
        pooling: how atoms become one vector of the molecule.
        dropout: in the head.
        head: its kind.

    Attributes:
        coordinate_head: predicts the noise on coordinates in training; None: there is none. It is not saved.
    """

    coordinate_head: CoordinateHead | None

    def __init__(
        self, config: ModelConfig, num_targets: int, pooling: Pooling, dropout: float, head: HeadName = "mlp"
    ) -> None:
        super().__init__()
        self.backbone = TwoTrackBackbone(config)
        self.pooling = pooling
        self.head = head
        self.norm = nn.LayerNorm(config.atom_width)
        if head != "linear":
            self.dense = Linear(config.atom_width, config.atom_width, init="he" if head == "mlp" else "lecun")
        self.dropout = dropout
        self.out = Linear(config.atom_width, num_targets)
        self.coordinate_head = None

    def forward(self, molecules: ModelInput) -> Tensor:
        """Return [B, L], fp32: normalised values of a regression, logits of a classifier."""
        return self.properties(self.backbone(molecules))

    def properties(self, representation: Representation, generator: torch.Generator | None = None) -> Tensor:
        """Return what ``forward`` does, for molecules that the backbone has seen.

        Args:
            representation: of the backbone.
            generator: dropout of the head draws from it; None: from torch's own.
        """
        hidden_BD = self.norm(pool(representation, self.pooling))
        if self.head == "mlp":
            hidden_BD = self._drop(F.gelu(self.dense(hidden_BD)), generator)
        elif self.head == "dense-tanh":
            hidden_BD = self._drop(torch.tanh(self.dense(self._drop(hidden_BD, generator))), generator)
        else:
            hidden_BD = self._drop(hidden_BD, generator)
        out_BL: Tensor = self.out(hidden_BD)
        return out_BL

    def _drop(self, hidden_BD: Tensor, generator: torch.Generator | None) -> Tensor:
        if generator is None or not self.training or self.dropout == 0.0:
            return F.dropout(hidden_BD, self.dropout, self.training)
        kept = 1.0 - self.dropout
        return hidden_BD * torch.empty_like(hidden_BD).bernoulli_(kept, generator=generator) / kept
