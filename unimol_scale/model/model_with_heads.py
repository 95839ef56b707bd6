"""A backbone with the requested heads: the model to train, and the content of a checkpoint."""

from torch import nn

from unimol_scale.data.input_views import InputsSeen
from unimol_scale.model.accounting import Heads
from unimol_scale.model.backbone import TwoTrackBackbone
from unimol_scale.model.heads import CoordinateHead, TokenHead
from unimol_scale.model.layers import Linear
from unimol_scale.model.presets import ModelConfig
from unimol_scale.model.relation_heads import RelationHeads, SeparateRelationHeads


class HeadedModel(nn.Module):
    """Backbone and heads; a head that is not requested is not built and has no attribute.

    Args:
        config: configuration of the backbone, from which every head takes its sizes.
        heads: which heads to build.
        seen: the views that pretraining shows; None: unknown.

    Attributes:
        hydrogens: whether the molecules of its pretraining have hydrogens as atoms; None: unknown.
    """

    hydrogens: bool | None = None
    token_head: TokenHead
    coordinate_head: CoordinateHead
    relation_heads: RelationHeads | SeparateRelationHeads
    projection: Linear

    def __init__(self, config: ModelConfig, heads: Heads, seen: InputsSeen | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.seen = seen
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
