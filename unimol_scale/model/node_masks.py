"""What the layers know of a batch besides its representations: padding, sizes, and what Triton kernels drop.

Shapes: B molecules, N nodes (virtual node first, then atoms, padded).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unimol_scale.model.fused.dropping import Dropping
from unimol_scale.model.track_updates import count_nodes


@dataclass(frozen=True, kw_only=True)
class NodeMasks:
    """Padding and size information for the layers; made once per batch.

    Attributes:
        valid_BN1: 1 at real nodes, 0 at padding.
        key_mask_B1N: 0 at real nodes, −inf at padding.
        scale_B1NN: n^-1/2 at pairs of real nodes, 0 elsewhere.
        count_B11: n of the 1/n scalings, fp32.
        nodes_B: nodes of each molecule before its padding, int32; None if nothing needs it.
        dropping: dropout that Triton kernels apply to a branch's update before adding it; None if they are not used.
    """

    valid_BN1: Tensor
    key_mask_B1N: Tensor
    scale_B1NN: Tensor
    count_B11: Tensor
    nodes_B: Tensor | None = None
    dropping: Dropping | None = None

    @staticmethod
    def of(valid_BN: Tensor, count_B: Tensor, dtype: torch.dtype) -> "NodeMasks":
        """Make the masks.

        Args:
            valid_BN: bool, true at real nodes.
            count_B: n of the 1/n scalings, fp32.
            dtype: dtype of the representations.
        """
        valid_BN1 = valid_BN.unsqueeze(-1).to(dtype)
        scale_BNN = valid_BN1 * valid_BN.unsqueeze(1) * count_B.rsqrt()[:, None, None].to(dtype)
        key_mask_BN = torch.zeros_like(valid_BN, dtype=dtype).masked_fill(~valid_BN, -math.inf)
        return NodeMasks(
            valid_BN1=valid_BN1,
            key_mask_B1N=key_mask_BN.unsqueeze(1),
            scale_B1NN=scale_BNN.unsqueeze(1),
            count_B11=count_B[:, None, None],
            nodes_B=count_nodes(valid_BN),
        )
