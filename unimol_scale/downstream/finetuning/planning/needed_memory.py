"""The memory that a fine-tuning needs on its device, by arithmetic: nothing is allocated."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.finetuning.adaptation.adapt import adapt
from unimol_scale.downstream.finetuning.model.property_model import PropertyModel
from unimol_scale.engine.planning.rank_memory import MARGIN, PROCESS_BYTES, MicroBatchShape
from unimol_scale.model.accounting import Heads, activation_bytes
from unimol_scale.model.presets import ModelConfig

# Of a trained parameter: both moments of AdamW, the best weights so far, and a running mean of them.
_MOMENTS, _BEST, _MEAN = 8, 4, 4


@dataclass(frozen=True, kw_only=True)
class ParameterCounts:
    """Parameters of a property model.

    Attributes:
        backbone: all of the backbone, adapters left out.
        head: of the head, which is always trained.
        trained: of the backbone, or of its adapters.
        adapted: elements of the weights that have adapters.
    """

    backbone: int
    head: int
    trained: int
    adapted: int

    @property
    def all_trained(self) -> int:
        """Those that the optimizer moves."""
        return self.trained + self.head


@dataclass(frozen=True, kw_only=True)
class FinetuneMemory:
    """Bytes on the device, by part.

    Attributes:
        weights: that the model computes with, fp32 ones of trained bf16 parameters, and sums of weights and adapters.
        gradients: of what is trained.
        optimizer: moments of AdamW, the best weights so far, and their running mean if there is one.
        activations: of the largest micro-batch.
        process: context and libraries.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    process: float

    @property
    def total(self) -> float:
        """At the peak."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.process


def count_trained(config: FinetuneConfig, model: ModelConfig, num_outputs: int) -> ParameterCounts:
    """Count the parameters of a model of meta tensors that is made ready as for training.

    Args:
        config: of the fine-tuning.
        model: dimensions of the backbone.
        num_outputs: of the head.
    """
    with torch.device("meta"):
        built = PropertyModel(
            model, num_outputs, config.pooling, config.train.dropout, config.train.head_of(config.head)
        )
        backbone = sum(parameter.numel() for parameter in built.backbone.parameters())
        head = sum(parameter.numel() for parameter in built.parameters()) - backbone
        adapt(built.backbone, config.train, seed=0)
    named = dict(built.backbone.named_parameters())
    return ParameterCounts(
        backbone=backbone,
        head=head,
        trained=sum(parameter.numel() for parameter in named.values() if parameter.requires_grad),
        adapted=sum(parameter.numel() for name, parameter in named.items() if name.endswith(".original")),
    )


def layers_with_gradients(config: FinetuneConfig, model: ModelConfig) -> int:
    """Return of how many layers a backward pass needs what the forward pass computed."""
    if config.train.probe is not None:
        return 0
    return model.layers if config.train.trained_layers is None else config.train.trained_layers


def needed_memory(
    config: FinetuneConfig, model: ModelConfig, counts: ParameterCounts, shape: MicroBatchShape, *, cuda: bool
) -> FinetuneMemory:
    """Return what the device must hold.

    Args:
        config: of the fine-tuning.
        model: dimensions of the backbone.
        counts: of its parameters.
        shape: of the largest micro-batch.
        cuda: whether the device is a GPU; a CPU computes one micro-batch at a time here, as with one thread.
    """
    in_bf16, probe = config.train.precision == "bf16", config.train.probe is not None
    width = 2 if in_bf16 else 4
    weights = (counts.backbone + counts.adapted) * width + counts.head * 4
    gradients = counts.all_trained * 4.0
    if in_bf16:  # fp32 copies of the weights, and their gradients before they are added to those
        weights += counts.trained * (4 + width)
        gradients += counts.trained * width
    kept = _MOMENTS + _BEST + (_MEAN if config.train.ema_decay is not None else 0)
    layers = max(1, layers_with_gradients(config, model))
    return FinetuneMemory(
        weights=float(weights),
        gradients=0.0 if probe else gradients,
        optimizer=0.0 if probe else float(counts.all_trained * kept),
        activations=activation_bytes(
            replace(model, layers=layers),
            shape.molecules,
            shape.num_atoms,
            width,
            mask_bytes=1 if cuda else None,
            heads=Heads(),
        ),
        process=PROCESS_BYTES["cuda" if cuda else "cpu"],
    )


def largest_shape(histogram: Mapping[int, int], batch_size: int, max_pairs: int) -> MicroBatchShape:
    """Return the micro-batch with the most pairs, and of those with as many the one with the most atoms.

    Args:
        histogram: atoms → rows.
        batch_size: most molecules of a micro-batch.
        max_pairs: most padded pairs; of a molecule that exceeds it, one is taken.
    """
    shapes = [
        MicroBatchShape(molecules=max(1, min(batch_size, count, max_pairs // (n + 1) ** 2)), num_atoms=n)
        for n, count in sorted(_at_most(histogram).items())
    ]
    return max(shapes, key=lambda shape: (shape.pairs, shape.num_atoms))


def _at_most(histogram: Mapping[int, int]) -> dict[int, int]:
    """Return atoms → rows with at most so many, which can share a micro-batch."""
    total, found = 0, {}
    for n in sorted(histogram):
        total += histogram[n]
        found[n] = total
    return found


def fitting_pairs(
    config: FinetuneConfig,
    model: ModelConfig,
    counts: ParameterCounts,
    histogram: Mapping[int, int],
    capacity: float,
    *,
    cuda: bool,
) -> int | None:
    """Return the largest ``train.max_pairs`` that a device holds, to two digits; None: not even one molecule fits.

    Args:
        config: of the fine-tuning.
        model: dimensions of the backbone.
        counts: of its parameters.
        histogram: atoms → rows.
        capacity: bytes of the device, of which a tenth stays free.
        cuda: whether it is a GPU.
    """
    least, batch_size = (max(histogram) + 1) ** 2, config.train.batch_size

    def fits(max_pairs: int) -> bool:
        shape = largest_shape(histogram, batch_size, max_pairs)
        return needed_memory(config, model, counts, shape, cuda=cuda).total <= capacity * (1 - MARGIN)

    if not fits(least):
        return None
    low, high = least, least * batch_size
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    digit = int("1" + "0" * max(0, len(str(low)) - 2))
    return max(least, low // digit * digit)
