"""Pools the representations of a molecule's atoms into one vector.

``layers`` takes more out of a frozen model than the last layer alone: the first layers know the atoms, the last ones
what pretraining asked for, and sums know the size of the molecule (docs/benchmarks.md has the measurement).

Shapes: B molecules, A atoms, N nodes (virtual node first), D atom channels, V channels of a vector.
"""

import torch
from torch import Tensor

from unimol_scale.downstream.config import Pooling
from unimol_scale.model.backbone import Representation
from unimol_scale.model.presets import ModelConfig

_PARTS = 4  # of the stack of layers, at whose ends ``layers`` looks
_STATISTICS = 3  # mean, standard deviation and sum
_LEAST_VARIANCE = 1e-6  # so that the gradient of the standard deviation is finite where all atoms are alike


def inner_depths(model: ModelConfig, pooling: Pooling) -> tuple[int, ...]:
    """Return the depths of the backbone that a pooling needs; see ``TwoTrackBackbone.forward``.

    ``layers`` needs the input of the first layer and the ends of the four quarters of the stack; a stack of fewer than
    four layers has fewer depths.
    """
    if pooling != "layers":
        return ()
    return tuple(sorted({round(part * model.layers / _PARTS) for part in range(_PARTS + 1)}))


def vector_width(model: ModelConfig, pooling: Pooling) -> int:
    """Return the number of channels V of a molecule's vector."""
    return model.atom_width * (_STATISTICS * len(inner_depths(model, pooling)) or 1)


def pool(representation: Representation, pooling: Pooling) -> Tensor:
    """Return one vector per molecule, fp32 [B, V].

    Args:
        representation: of the backbone, with ``inner_depths`` kept.
        pooling: ``mean`` of the molecule's atoms, without the virtual node (V = D); the ``virtual_node`` (V = D); or
            ``layers``: mean, standard deviation and sum over the atoms, for one depth after another.
    """
    valid_BA1 = representation.valid_BN[:, 1:, None]
    if pooling == "virtual_node":
        return representation.atom_BND[:, 0].float()
    if pooling == "mean":
        return _sum_of_atoms(representation.atom_BND, valid_BA1) / valid_BA1.sum(1)
    assert representation.inner_BND, "the backbone was asked for inner_depths"
    parts = []
    for nodes_BND in representation.inner_BND:
        sum_BD = _sum_of_atoms(nodes_BND, valid_BA1)
        mean_BD = sum_BD / valid_BA1.sum(1)
        difference_BAD = (nodes_BND[:, 1:].float() - mean_BD[:, None]).masked_fill(~valid_BA1, 0.0)
        variance_BD = difference_BAD.square().sum(1) / valid_BA1.sum(1)
        parts += [mean_BD, (variance_BD + _LEAST_VARIANCE).sqrt(), sum_BD]
    return torch.cat(parts, dim=1)


def _sum_of_atoms(nodes_BND: Tensor, valid_BA1: Tensor) -> Tensor:
    return nodes_BND[:, 1:].float().masked_fill(~valid_BA1, 0.0).sum(1)
