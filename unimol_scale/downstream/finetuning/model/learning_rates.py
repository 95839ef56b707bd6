"""The learning rate of every step, and of every layer."""

import math
from collections.abc import Mapping

from torch import nn

from unimol_scale.downstream.config import FinetuneTrainConfig


def rate_factor(step: int, total: int, config: FinetuneTrainConfig) -> float:
    """Return the learning rate of a step over its peak: linear up during the warm-up, then as ``schedule`` says.

    Args:
        step: from 0.
        total: number of all steps; the rate would be ``end_learning_rate`` at step ``total``.
        config: warm-up, schedule and its end.
    """
    rising = max(1, math.ceil(config.warm_up * total))
    if step < rising:
        return (step + 1) / rising
    left = max(0.0, (total - step) / max(total - rising, 1))
    shape = {"linear": left, "cosine": 0.5 * (1.0 - math.cos(math.pi * left)), "constant": 1.0}[config.schedule]
    end = config.end_learning_rate / config.learning_rate
    return end + (1.0 - end) * shape


def parameter_groups(
    named: Mapping[str, nn.Parameter], layers: int, config: FinetuneTrainConfig
) -> list[dict[str, object]]:
    """Return the optimizer's groups: the learning rate falls by ``layer_decay`` from a layer to the one below.

    The head and the last layer have the full rate, the encodings the lowest; only matrices decay.

    Args:
        named: parameters by their names in the model.
        layers: of the backbone.
        config: rates and decays.
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
            "lr": config.learning_rate * config.layer_decay**below,
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (below, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]
