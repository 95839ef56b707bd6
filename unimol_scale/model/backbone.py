"""The two-track backbone: encodings, input norms and the stack of layers. No norm follows the last layer.

Shapes: B molecules, A atoms, N = A + 1 nodes (virtual node first), D atom channels, P pair channels.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unimol_scale.model.encodings import AtomEncoding, ModelInput, PairEncoding
from unimol_scale.model.layers import TwoTrackLayer
from unimol_scale.model.node_masks import NodeMasks
from unimol_scale.model.presets import ModelConfig
from unimol_scale.model.track_updates import dropping_of_batch, layer_norm


@dataclass(frozen=True, kw_only=True)
class Representation:
    """The backbone's output for a batch; values at padding are arbitrary.

    Attributes:
        atom_BND: nodes, virtual node first.
        pair_BNNP: pairs of nodes.
        valid_BN: bool, true at real nodes.
        inner_BND: nodes at the depths that were asked for, from the first to the last.
    """

    atom_BND: Tensor
    pair_BNNP: Tensor
    valid_BN: Tensor
    inner_BND: tuple[Tensor, ...] = ()


class InputNorm(nn.LayerNorm):
    """The layer norm of an encoding."""

    def forward(self, x: Tensor, nodes_B: Tensor | None = None) -> Tensor:
        """Return the layer norm, in the shape of x.

        Args:
            x: nodes or pairs.
            nodes_B: see ``NodeMasks``.
        """
        return layer_norm(x, self.weight, self.bias, nodes_B)


class TwoTrackBackbone(nn.Module):
    """Two-track atom/pair Transformer (Uni-Mol2, arXiv 2406.14969)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.atom_encoding = AtomEncoding(config)
        self.pair_encoding = PairEncoding(config)
        self.atom_norm = InputNorm(config.atom_width)
        self.pair_norm = InputNorm(config.pair_width)
        self.layers = nn.ModuleList(TwoTrackLayer(config, rate, index) for index, rate in enumerate(config.drop_paths))

    def forward(
        self, batch: ModelInput, watch: Callable[[Tensor], None] | None = None, inner: Collection[int] = ()
    ) -> Representation:
        """Return atom [B, N, D] and pair [B, N, N, P] representations.

        Args:
            batch: what the model sees.
            watch: called for every layer with its attention scores before the softmax, [B, H, N, N], including the pair
                bias; they are computed a second time for it. Does not work with sharded weights.
            inner: depths whose nodes are kept in ``inner_BND``: 0 for what the first layer gets, l for the output of
                layer l, counted from 1.
        """
        valid_BN = torch.nn.functional.pad(batch.valid_BA, (1, 0), value=True)
        if self.config.normalize_by == "molecule":
            count_B = valid_BN.sum(dim=1, dtype=torch.float32)
        else:
            count_B = torch.full_like(valid_BN[:, 0], valid_BN.shape[1], dtype=torch.float32)
        atom_BND = self.atom_encoding(batch)
        masks = NodeMasks.of(valid_BN, count_B, atom_BND.dtype)
        atom_BND = self.atom_norm(atom_BND, masks.nodes_B)
        pair_BNNP = self.pair_norm(self.pair_encoding(batch), masks.nodes_B)
        dropping = dropping_of_batch(atom_BND, pair_BNNP, drops=self.training and self.config.has_dropout)
        masks = replace(masks, dropping=dropping)
        every = self.config.checkpoint_every if torch.is_grad_enabled() else 0
        kept = [atom_BND] if 0 in inner else []
        for index, layer in enumerate(self.layers):
            if watch is not None:
                assert isinstance(layer, TwoTrackLayer)
                watch(layer.attention.scores(atom_BND, pair_BNNP))
            if every and index % every == 0:
                atom_BND, pair_BNNP = checkpoint(layer, atom_BND, pair_BNNP, masks, use_reentrant=False)
            else:
                atom_BND, pair_BNNP = layer(atom_BND, pair_BNNP, masks)
            if index + 1 in inner:
                kept.append(atom_BND)
        return Representation(atom_BND=atom_BND, pair_BNNP=pair_BNNP, valid_BN=valid_BN, inner_BND=tuple(kept))
