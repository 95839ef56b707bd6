"""A backbone with a head that predicts properties of molecules.

Shapes: B molecules, W outputs, D atom channels.
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


class ThresholdLinear(nn.Module):
    """Logits of being above each of T thresholds: one linear map for all, and a bias for each, sorted in falling order.

    CORAL's last layer (Cao et al. 2020, arXiv 1901.07884): since the thresholds share their weights, the logits of a
    molecule fall as the biases do, and no class has a negative probability. The paper shows that the best biases are in
    this order; they are sorted here, so that all are.

    Args:
        width: of the input.
        num_thresholds: T.
    """

    def __init__(self, width: int, num_thresholds: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, width))
        self.bias = nn.Parameter(torch.zeros(num_thresholds))

    def forward(self, hidden_BD: Tensor) -> Tensor:
        """Return logits [B, T]."""
        return F.linear(hidden_BD, self.weight) + self.bias.sort(descending=True).values


class PropertyModel(nn.Module):
    """Backbone, pooling, LayerNorm, and one of three heads.

    ``mlp``: Linear, GELU, dropout, Linear. ``linear``: dropout, Linear (D&D, arXiv 2309.04062). ``dense-tanh``:
    dropout, Linear, tanh, dropout, Linear (the public code of Uni-Mol2, arXiv 2406.14969). All begin with a LayerNorm:
    the backbone ends in none, and its pooled vectors have a large offset that all molecules share. A linear head would
    have to learn to cancel it, and a tanh would be saturated by it. The norm is also where ``head_initialisation``
    standardises the channels.

    Args:
        config: of the backbone.
        num_outputs: W.
        pooling: how atoms become one vector of the molecule.
        dropout: in the head.
        head: its kind.
        ordered: the outputs are thresholds of ordered classes (``ThresholdLinear``).

    Attributes:
        coordinate_head: predicts the noise on coordinates in training; None: there is none. It is not saved.
    """

    coordinate_head: CoordinateHead | None

    def __init__(
        self,
        config: ModelConfig,
        num_outputs: int,
        pooling: Pooling,
        dropout: float,
        head: HeadName = "mlp",
        *,
        ordered: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = TwoTrackBackbone(config)
        self.pooling = pooling
        self.head = head
        self.norm = nn.LayerNorm(config.atom_width)
        if head != "linear":
            self.dense = Linear(config.atom_width, config.atom_width, init="he" if head == "mlp" else "lecun")
        self.dropout = dropout
        self.out = (ThresholdLinear if ordered else Linear)(config.atom_width, num_outputs)
        self.coordinate_head = None

    @property
    def trained_parameters(self) -> list[nn.Parameter]:
        """Those that are not frozen, in a fixed order."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def forward(self, molecules: ModelInput) -> Tensor:
        """Return [B, W], fp32: normalised values of a regression, logits of a classifier."""
        return self.properties(self.backbone(molecules))

    def properties(self, representation: Representation, generator: torch.Generator | None = None) -> Tensor:
        """Return what ``forward`` does, for molecules that the backbone has seen.

        Args:
            representation: of the backbone.
            generator: dropout of the head draws from it; None: from torch's own.
        """
        return self.from_vectors(self.vectors(representation), generator)

    def vectors(self, representation: Representation) -> Tensor:
        """Return one vector of every molecule, [B, D], whose channels have about the same scale."""
        vector_BD: Tensor = self.norm(pool(representation, self.pooling))
        return vector_BD

    def from_vectors(
        self, hidden_BD: Tensor, generator: torch.Generator | None = None, *, thinned: bool = False
    ) -> Tensor:
        """Return what ``forward`` does, [B, W], from the vectors of molecules; see ``properties``.

        Args:
            hidden_BD: vectors of molecules.
            generator: dropout of the head draws from it; None: from torch's own.
            thinned: drop channels of the head in evaluation, too, the same for all molecules, so that the result does
                not depend on how these are batched. A draw is one of the models that dropout has trained (Gal and
                Ghahramani 2016, arXiv 1506.02142).
        """
        if self.head == "mlp":
            hidden_BD = self._drop(F.gelu(self.dense(hidden_BD)), generator, thinned)
        elif self.head == "dense-tanh":
            hidden_BD = torch.tanh(self.dense(self._drop(hidden_BD, generator, thinned)))
            hidden_BD = self._drop(hidden_BD, generator, thinned)
        else:
            hidden_BD = self._drop(hidden_BD, generator, thinned)
        out_BW: Tensor = self.out(hidden_BD)
        return out_BW

    def _drop(self, hidden_BD: Tensor, generator: torch.Generator | None, thinned: bool) -> Tensor:
        kept = 1.0 - self.dropout
        if thinned:
            kept_1D = torch.empty(1, hidden_BD.shape[-1]).bernoulli_(kept, generator=generator)
            return hidden_BD * kept_1D.to(hidden_BD) / kept
        if generator is None or not self.training or self.dropout == 0.0:
            return F.dropout(hidden_BD, self.dropout, self.training)
        return hidden_BD * torch.empty_like(hidden_BD).bernoulli_(kept, generator=generator) / kept
