"""Computes the learning rate of every step and of every layer."""

import math
from collections.abc import Mapping

from torch import nn

from unimol_scale.downstream.config import FinetuneTrainConfig


def rate_factor(step: int, total: int, config: FinetuneTrainConfig) -> float:
    """Return the learning rate of a step divided by the peak: a linear warm-up, followed by the ``schedule``.

    Args:
        step: number of the step, from 0.
        total: total number of steps; the rate would reach ``end_learning_rate`` at step ``total``.
        config: settings with the warm-up, the schedule and its end.
    """
    rising = max(1, math.ceil(config.warm_up * total))
    if step < rising:
        return (step + 1) / rising
    left = max(0.0, (total - step) / max(total - rising, 1))
    shape = {"linear": left, "cosine": 0.5 * (1.0 - math.cos(math.pi * left)), "constant": 1.0}[config.schedule]
    end = config.end_learning_rate / config.peak_rate
    return end + (1.0 - end) * shape


def parameter_groups(
    named: Mapping[str, nn.Parameter], layers: int, config: FinetuneTrainConfig
) -> list[dict[str, object]]:
    """Return the optimizer's parameter groups; each layer's rate is ``layer_decay`` times that of the layer above.

    The head and the last layer have the full rate, the encodings the lowest. Weight decay applies only to matrices.

    Args:
        named: name in the model → parameter.
        layers: number of layers of the backbone.
        config: settings with learning rate and decays.
    """
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in named.items():
        if name.startswith("backbone.layers."):
            below = layers - 1 - int(name.split(".")[2])
        else:
            below = layers if name.startswith("backbone.") else 0
        groups.setdefault((below, parameter.ndim >= 2), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.peak_rate * config.layer_decay**below,
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (below, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]
