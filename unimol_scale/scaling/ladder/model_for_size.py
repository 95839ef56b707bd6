"""Finds a model with a given number of parameters: a preset near it, or one made deeper and wider. No torch."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unimol_scale.model.presets import ModelConfig

NEAR = 0.1  # models this close in parameters will do: the optimum is flat
STRETCH = (0.5, 3.0)  # smallest and largest factor on a preset's layers and width
# What a change of depth over width counts beside one of the number of parameters, both as logarithms. The law holds for
# models of the runs' shape, and a flat model costs less compute for its parameters than they do.
SHAPE_WEIGHT = 0.25
HEAD_WIDTH = 16  # channels per head, as in every preset
DIMENSIONS = ("layers", "atom_width", "heads", "ffn_width", "pair_width", "pair_hidden", "gaussians")


@dataclass(frozen=True, kw_only=True)
class SizedModel:
    """A model as a preset with changes.

    Attributes:
        size: name of the preset.
        changes: fields that differ from the preset.
        model: the preset with the changes.
        parameters: number of parameters, with the heads of the denoise objective.
    """

    size: str
    changes: Mapping[str, Any]
    model: "ModelConfig"
    parameters: float


def model_for_parameters(parameters: float, options: Mapping[str, Any]) -> SizedModel:
    """Return the model nearest to a number of parameters.

    A preset within 10 % is used unchanged. Otherwise the number of layers and the atom width of the nearest preset are
    scaled together, with heads of 16 channels; its pair track keeps its widths. A small model has few layers, so either
    its parameters or its shape can only be met roughly.

    Args:
        parameters: wanted number.
        options: fields of the model other than its dimensions (dropout and others), as the runs have them.
    """
    from unimol_scale.model.presets import PRESETS

    near = math.log1p(NEAR)
    candidates = [_sized_model(size, {}, options) for size in PRESETS]
    nearest = min(candidates, key=lambda sized: _distance(sized, parameters))
    if _distance(nearest, parameters) <= near:
        return nearest
    stretched = [_sized_model(nearest.size, changes, options) for changes in _stretches(nearest.model)]
    closest = min(_distance(sized, parameters) for sized in stretched)
    return min(
        (sized for sized in stretched if _distance(sized, parameters) <= max(closest, near)),
        key=lambda sized: _distance(sized, parameters) + SHAPE_WEIGHT * _change_of_aspect(sized.model, nearest.model),
    )


def _sized_model(size: str, changes: Mapping[str, Any], options: Mapping[str, Any]) -> SizedModel:
    from unimol_scale.model.accounting import count_parameters
    from unimol_scale.model.presets import PRESETS

    preset = PRESETS[size]
    model = replace(preset, **{**options, **changes})
    differing = {key: value for key, value in vars(model).items() if value != getattr(preset, key)}
    return SizedModel(size=size, changes=differing, model=model, parameters=float(count_parameters(model).total))


def _stretches(model: "ModelConfig") -> Iterator[dict[str, int]]:
    low, high = STRETCH
    for layers in range(max(1, round(low * model.layers)), math.ceil(high * model.layers) + 1):
        for heads in range(max(1, round(low * model.heads)), math.ceil(high * model.heads) + 1):
            width = heads * HEAD_WIDTH
            yield {"layers": layers, "atom_width": width, "heads": heads, "ffn_width": width}


def _distance(sized: SizedModel, parameters: float) -> float:
    return abs(math.log(sized.parameters / parameters))


def _change_of_aspect(model: "ModelConfig", preset: "ModelConfig") -> float:
    """How much the ratio of depth to width differs from the preset's, as a logarithm."""
    return abs(math.log(model.layers / preset.layers) - math.log(model.atom_width / preset.atom_width))
