"""The model for a wanted number of parameters: the preset nearest to it, or one made deeper and wider. No torch.

Imports the model's presets and arithmetic only when asked.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unimol_scale.model.presets import ModelConfig

PRESET_IS_NEAR = 0.1  # a preset this close in parameters is taken as it is: the optimum is flat, and presets are known
STRETCH = (0.5, 3.0)  # of a preset's layers and width
EQUALLY_NEAR = 0.02  # among shapes this close to the number, the one most like its preset
HEAD_WIDTH = 16  # of every preset
DIMENSIONS = ("layers", "atom_width", "heads", "ffn_width", "pair_width", "pair_hidden", "gaussians")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model that can be trained.

    Attributes:
        size: name of the preset that it starts from.
        changes: fields of the model that differ from the preset's.
        model: the whole.
        parameters: all of them, with the heads of denoising.
    """

    size: str
    changes: Mapping[str, Any]
    model: "ModelConfig"
    parameters: float


def shape_for(parameters: float, options: Mapping[str, Any]) -> Shape:
    """Return the model nearest a number of parameters.

    A preset within 10 % is taken as it is. Otherwise the nearest preset's layers and atom width are stretched together,
    heads of 16 channels as everywhere; its pair track keeps its widths.

    Args:
        parameters: wanted.
        options: fields of the model other than its dimensions (dropout and the like), as the runs have them.
    """
    from unimol_scale.model.presets import PRESETS

    shapes = [_shape(size, {}, options) for size in PRESETS]
    nearest = min(shapes, key=lambda shape: _distance(shape, parameters))
    if _distance(nearest, parameters) <= math.log1p(PRESET_IS_NEAR):
        return nearest
    stretched = [_shape(nearest.size, changes, options) for changes in _stretches(nearest.model)]
    closest = min(_distance(shape, parameters) for shape in stretched)
    good = [shape for shape in stretched if _distance(shape, parameters) <= max(closest, math.log1p(EQUALLY_NEAR))]
    return min(good, key=lambda shape: (_change_of_aspect(shape.model, nearest.model), _distance(shape, parameters)))


def _shape(size: str, changes: Mapping[str, Any], options: Mapping[str, Any]) -> Shape:
    from unimol_scale.model.accounting import count_parameters
    from unimol_scale.model.presets import PRESETS

    preset = PRESETS[size]
    model = replace(preset, **{**options, **changes})
    differing = {key: value for key, value in vars(model).items() if value != getattr(preset, key)}
    return Shape(size=size, changes=differing, model=model, parameters=float(count_parameters(model).total))


def _stretches(model: "ModelConfig") -> Iterator[dict[str, int]]:
    low, high = STRETCH
    for layers in range(max(1, round(low * model.layers)), math.ceil(high * model.layers) + 1):
        for heads in range(max(1, round(low * model.heads)), math.ceil(high * model.heads) + 1):
            width = heads * HEAD_WIDTH
            yield {"layers": layers, "atom_width": width, "heads": heads, "ffn_width": width}


def _distance(shape: Shape, parameters: float) -> float:
    return abs(math.log(shape.parameters / parameters))


def _change_of_aspect(model: "ModelConfig", preset: "ModelConfig") -> float:
    """How much more a model was made deeper than wider, or the other way round."""
    return abs(math.log(model.layers / preset.layers) - math.log(model.atom_width / preset.atom_width))
