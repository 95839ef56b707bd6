"""Low-rank adapters on the linear maps of the layers, which are added to the weights in the end (arXiv 2106.09685).

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
    """Adds α/r · B·A to a weight; A is drawn as by ``nn.Linear`` (Kaiming-uniform) and B is 0, as in peft.

    The bilinear map of the outer product has its rank counted in the shape that it is stored in. A rank beyond the
    smaller side of a weight is held to that side, and the scale stays α/r of the setting.

    Args:
        weight: [O, I], for its shape, device and dtype.
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
        """Return the weight with the update."""
        return torch.addmm(weight, self.B, self.A, alpha=self.scale)


def add_adapters(
    backbone: TwoTrackBackbone, targets: tuple[LoraTarget, ...], rank: int, alpha: float, trained_layers: int | None
) -> None:
    """Freeze a backbone, and put adapters on the linear maps of its layers; their draws come from torch's generator.

    Args:
        backbone: is changed in place: the tensors of a weight that has an adapter get other names until
            ``merge_adapters``.
        targets: tracks whose maps get one.
        rank: of the updates.
        alpha: their scale is alpha / rank.
        trained_layers: of the last layers alone; None: of all.
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
    """Add the updates of all adapters to their weights and take the adapters off; a backbone without any stays so."""
    for module in list(backbone.modules()):
        if parametrize.is_parametrized(module):
            for tensor in list(module.parametrizations):  # type: ignore[union-attr, arg-type]
                parametrize.remove_parametrizations(module, tensor, leave_parametrized=True)
