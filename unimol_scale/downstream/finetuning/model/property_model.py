"""A backbone with a head that predicts properties of molecules.

Shapes: B molecules, W outputs, D atom channels, V channels of a molecule's vector.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimol_scale.downstream.config import HeadName, Pooling
from unimol_scale.downstream.embedding.pooling import inner_depths, pool, vector_width
from unimol_scale.model.backbone import Representation, TwoTrackBackbone
from unimol_scale.model.encodings import ModelInput
from unimol_scale.model.heads import CoordinateHead
from unimol_scale.model.layers import Linear
from unimol_scale.model.presets import ModelConfig


class ThresholdLinear(nn.Module):
    """Logits of being above each of T thresholds: a linear map shared by all, and a bias for each in descending order.

    This is CORAL's last layer (Cao et al. 2020, arXiv 1901.07884). Because the thresholds share their weights, the
    logits of a molecule are ordered like the biases, and no class has a negative probability. The paper shows that the
    optimal biases are in descending order; here they are sorted, so they always are.

    Args:
        width: number of input channels.
        num_thresholds: number of thresholds T.
    """

    def __init__(self, width: int, num_thresholds: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, width))
        self.bias = nn.Parameter(torch.zeros(num_thresholds))

    def forward(self, hidden_BD: Tensor) -> Tensor:
        """Return logits [B, T]."""
        return F.linear(hidden_BD, self.weight) + self.bias.sort(descending=True).values


class ChannelScale(nn.Module):
    """Multiplies every channel by a weight, and adds a bias.

    Args:
        width: number of channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        return x * self.weight + self.bias


class PropertyModel(nn.Module):
    """Backbone, pooling, LayerNorm, and one of three heads.

    ``mlp``: Linear, GELU, dropout, Linear. ``linear``: dropout, Linear (D&D, arXiv 2309.04062). ``dense-tanh``:
    dropout, Linear, tanh, dropout, Linear (the public code of Uni-Mol2, arXiv 2406.14969). All heads start with a
    LayerNorm, because the backbone does not end with one and its pooled vectors have a large offset that all molecules
    share. A linear head would have to learn to cancel the offset, and a tanh would be saturated by it.
    ``head_initialisation`` uses the LayerNorm to standardise the channels. With ``layers``, a ``ChannelScale`` takes
    its place: these channels are of different kinds, which have no common mean and variance.

    Args:
        config: configuration of the backbone.
        num_outputs: number of outputs W.
        pooling: how atoms become the vector of a molecule.
        dropout: dropout in the head.
        head: kind of the head.
        ordered: whether the outputs are thresholds of ordered classes (``ThresholdLinear``).

    Attributes:
        coordinate_head: predicts the noise on coordinates in training; None if there is none. It is not saved.
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
        self.inner = inner_depths(config, pooling)
        self.head = head
        V, D = vector_width(config, pooling), config.atom_width
        self.norm = ChannelScale(V) if pooling == "layers" else nn.LayerNorm(V)
        if head != "linear":
            self.dense = Linear(V, D, init="he" if head == "mlp" else "lecun")
        self.dropout = dropout
        self.out = (ThresholdLinear if ordered else Linear)(V if head == "linear" else D, num_outputs)
        self.coordinate_head = None

    @property
    def trained_parameters(self) -> list[nn.Parameter]:
        """The parameters that are not frozen, in a fixed order."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def forward(self, molecules: ModelInput) -> Tensor:
        """Return the outputs, float32 [B, W]: scaled values of a regression, or logits of a classifier."""
        return self.properties(self.represent(molecules))

    def represent(self, molecules: ModelInput) -> Representation:
        """Return the backbone's output, with the depths that the pooling needs."""
        representation: Representation = self.backbone(molecules, inner=self.inner)
        return representation

    def properties(self, representation: Representation, generator: torch.Generator | None = None) -> Tensor:
        """Return the same as ``forward``, given the representation of the molecules.

        Args:
            representation: return value of ``represent``.
            generator: generator for the head's dropout; None: torch's own.
        """
        return self.from_vectors(self.vectors(representation), generator)

    def vectors(self, representation: Representation) -> Tensor:
        """Return one vector per molecule, [B, V], whose channels have similar scales after ``initialise_head``."""
        vector_BD: Tensor = self.norm(pool(representation, self.pooling))
        return vector_BD

    def from_vectors(
        self, hidden_BD: Tensor, generator: torch.Generator | None = None, *, thinned: bool = False
    ) -> Tensor:
        """Return the same as ``forward``, [B, W], given the vectors of molecules.

        Args:
            hidden_BD: vectors of molecules.
            generator: generator for the head's dropout; None: torch's own.
            thinned: drop channels of the head in evaluation too, the same ones for all molecules, so that the result
                does not depend on batching. Each draw is one of the models that dropout trains (Gal and Ghahramani
                2016, arXiv 1506.02142).
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
