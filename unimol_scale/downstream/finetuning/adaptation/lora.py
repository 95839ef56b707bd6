"""Low-rank adapters (LoRA) on the linear maps of the layers; merged into the weights after training (arXiv 2106.09685).

Shapes: weights [O, I] as stored, r the rank.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from unimol_scale.downstream.trained_parts import LoraTarget
from unimol_scale.engine.parallel.hidden_weights import hidden_weights
from unimol_scale.model.backbone import TwoTrackBackbone


class LowRankUpdate(nn.Module):
    """Adds α/r · B·A to a weight; A is initialised as in ``nn.Linear`` (Kaiming-uniform) and B is 0, as in peft.

    For the bilinear map of the outer product, the rank refers to the shape in which it is stored. The rank is limited
    to the smaller dimension of a weight; the scale stays α/r with the given r.

    Args:
        weight: the weight [O, I], whose shape, device and dtype are used.
        rank: r.
        alpha: α.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        rows, columns = weight.shape
        held = min(rank, rows, columns)
        self.scale = alpha / rank
        self.A = nn.Parameter(weight.new_empty(held, columns))
        self.B = nn.Parameter(weight.new_zeros(rows, held))
        if not self.A.is_meta:
            nn.init.kaiming_uniform_(self.A, a=math.sqrt(5.0))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight plus the update, [O, I]."""
        return torch.addmm(weight, self.B, self.A, alpha=self.scale)


def add_adapters(
    backbone: TwoTrackBackbone, targets: tuple[LoraTarget, ...], rank: int, alpha: float, trained_layers: int | None
) -> None:
    """Freeze a backbone, and add adapters to the linear maps of its layers, initialised from torch's generator.

    Args:
        backbone: the backbone; changed in place. Weights with an adapter have other tensor names until
            ``merge_adapters`` is called.
        targets: tracks whose linear maps get adapters.
        rank: rank of the updates.
        alpha: the updates are scaled by alpha / rank.
        trained_layers: number of last layers that get adapters; None: all layers.
    """
    backbone.requires_grad_(False)
    shapes = {name: tuple(parameter.shape) for name, parameter in backbone.named_parameters()}
    first = 0 if trained_layers is None else len(backbone.layers) - trained_layers
    for name in hidden_weights(backbone, shapes, targets):
        path, _, tensor = name.rpartition(".")
        if int(name.split(".")[1]) >= first:
            module = backbone.get_submodule(path)
            parametrize.register_parametrization(
                module, tensor, LowRankUpdate(getattr(module, tensor), rank, alpha), unsafe=True
            )


def merge_adapters(backbone: TwoTrackBackbone) -> None:
    """Add the updates of all adapters to their weights and remove the adapters; do nothing if there are none."""
    for module in list(backbone.modules()):
        if parametrize.is_parametrized(module):
            for tensor in list(module.parametrizations):  # type: ignore[union-attr, arg-type]
                parametrize.remove_parametrizations(module, tensor, leave_parametrized=True)
