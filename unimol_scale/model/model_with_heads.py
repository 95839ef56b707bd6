"""A backbone and the heads that were asked for: what is trained, and what a checkpoint holds."""

from torch import nn

from unimol_scale.model.accounting import Heads
from unimol_scale.model.backbone import TwoTrackBackbone
from unimol_scale.model.heads import CoordinateHead, TokenHead
from unimol_scale.model.layers import Linear
from unimol_scale.model.presets import ModelConfig
from unimol_scale.model.relation_heads import RelationHeads, SeparateRelationHeads


class HeadedModel(nn.Module):
    """Backbone and heads; a head that was not asked for is not built and has no attribute.

    Args:
        config: of the backbone; every head reads its own sizes from it.
        heads: which to build.

    Attributes:
        hydrogens: the molecules that it was pretrained on have hydrogens as atoms; None: that is not known.
    """

    hydrogens: bool | None = None
    token_head: TokenHead
    coordinate_head: CoordinateHead
    relation_heads: RelationHeads | SeparateRelationHeads
    projection: Linear

    def __init__(self, config: ModelConfig, heads: Heads) -> None:
        super().__init__()
        self.heads = heads
        self.backbone = TwoTrackBackbone(config)
        if heads.token:
            self.token_head = TokenHead(config)
        if heads.coordinate:
            self.coordinate_head = CoordinateHead(config)
        if heads.relations:
            separate = heads.relation_factors == "separate"
            self.relation_heads = (SeparateRelationHeads if separate else RelationHeads)(config, heads.relations)
        if heads.projection:
            self.projection = Linear(config.atom_width, heads.projection)
