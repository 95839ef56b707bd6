"""The model inside a checkpoint of a run: what the trainer recorded says which, the shares hold its weights.

The trainer records ``model`` (a ``ModelConfig``) and ``heads`` (those that a finished run's model keeps; ``Heads``).
An option that did not exist when a file was written is absent from it and takes its default, which keeps old models as
they were.
"""

import dataclasses
from collections.abc import Callable, Mapping

from torch import Tensor

from unimol_scale.checkpoints.run.published import MANIFEST, CheckpointInfo
from unimol_scale.checkpoints.run.shares import MEAN, WEIGHT, ShareReader
from unimol_scale.config import Origin, build
from unimol_scale.errors import CheckpointError, ConfigError
from unimol_scale.model.accounting import Heads
from unimol_scale.model.presets import ModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """What a run trains.

    Attributes:
        model: dimensions and options.
        heads: which are kept.
    """

    model: ModelConfig
    heads: Heads


def trained_model(info: CheckpointInfo) -> TrainedModel:
    """Return what a checkpoint is of.

    Raises:
        CheckpointError: the trainer did not record it, or an option without a default is missing, or one is unknown.
    """
    tree = {name: info.meta[name] for name in ("model", "heads") if name in info.meta}
    try:
        return build(TrainedModel, tree, Origin(name=str(info.path / MANIFEST), recorded=True))
    except ConfigError as error:
        raise CheckpointError(f"checkpoint {info.path}: {error}") from error


def weights_reader(info: CheckpointInfo, expected: Mapping[str, Tensor], *, averaged: bool) -> Callable[[str], Tensor]:
    """Return what gives a tensor of a model by its name, fp32; do not write into it.

    Args:
        info: a verified checkpoint.
        expected: name → tensor of the shape that is wanted; what the run trains beyond them is left out.
        averaged: take the mean over the steps if the run kept one, else the weights after the last step.

    Raises:
        CheckpointError: now or when asked, a tensor is missing or of another size.
    """
    reader = ShareReader(info.path)
    kind = MEAN if averaged and MEAN in reader.kinds else WEIGHT
    return lambda name: reader.full(name, kind, expected[name].shape)


def read_weights(info: CheckpointInfo, expected: Mapping[str, Tensor], *, averaged: bool) -> dict[str, Tensor]:
    """Return all tensors of a model; see ``weights_reader``."""
    weights = weights_reader(info, expected, averaged=averaged)
    return {name: weights(name) for name in expected}
