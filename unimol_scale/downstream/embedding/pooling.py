"""Pools the representations of a molecule's atoms into one vector.

Shapes: B molecules, N nodes (virtual node first), D atom channels.
"""

from torch import Tensor

from unimol_scale.downstream.config import Pooling
from unimol_scale.model.backbone import Representation


def pool(representation: Representation, pooling: Pooling) -> Tensor:
    """Return [B, D] in fp32: the virtual node, or the mean over a molecule's atoms, without the virtual node."""
    if pooling == "virtual_node":
        return representation.atom_BND[:, 0].float()
    valid_BA1 = representation.valid_BN[:, 1:, None]
    atom_BAD = representation.atom_BND[:, 1:].float().masked_fill(~valid_BA1, 0.0)
    return atom_BAD.sum(1) / valid_BA1.sum(1)
