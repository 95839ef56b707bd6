"""Calculates the memory that a fine-tuning needs on its device, without allocating it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.finetuning.adaptation.adapt import adapt
from unimol_scale.downstream.finetuning.model.property_model import PropertyModel
from unimol_scale.engine.planning.rank_memory import MARGIN, PROCESS_BYTES, MicroBatchShape
from unimol_scale.model.accounting import Heads, activation_bytes
from unimol_scale.model.presets import ModelConfig

# Bytes per trained parameter: both moments of AdamW, the best weights so far, and a running mean of the weights.
_MOMENTS, _BEST, _MEAN = 8, 4, 4


@dataclass(frozen=True, kw_only=True)
class ParameterCounts:
    """Numbers of parameters of a property model.

    Attributes:
        backbone: parameters of the backbone, without adapters.
        head: parameters of the head, which are always trained.
        trained: trained parameters of the backbone or of its adapters.
        adapted: elements of the weight matrices that have adapters.
    """

    backbone: int
    head: int
    trained: int
    adapted: int

    @property
    def all_trained(self) -> int:
        """Number of parameters that the optimizer updates."""
        return self.trained + self.head


@dataclass(frozen=True, kw_only=True)
class FinetuneMemory:
    """Memory on the device, in bytes.

    Attributes:
        weights: the model's weights, fp32 copies of trained bf16 parameters, and sums of weights and adapters.
        gradients: gradients of the trained parameters.
        optimizer: moments of AdamW, the best weights so far, and the running mean of the weights if there is one.
        activations: activations of the largest micro-batch.
        process: the device context and libraries.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    process: float

    @property
    def total(self) -> float:
        """Memory at the peak."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.process


def count_trained(config: FinetuneConfig, model: ModelConfig, num_outputs: int) -> ParameterCounts:
    """Count the parameters on a model of meta tensors, which is prepared as for training.

    Args:
        config: settings of the fine-tuning.
        model: dimensions of the backbone.
        num_outputs: number of outputs of the head.
    """
    with torch.device("meta"):
        built = PropertyModel(
            model, num_outputs, config.molecule_pooling, config.train.dropout, config.train.head_of(config.head)
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
    """Return the number of layers whose activations a backward pass needs."""
    if config.train.probe is not None:
        return 0
    return model.layers if config.train.trained_layers is None else config.train.trained_layers


def needed_memory(
    config: FinetuneConfig, model: ModelConfig, counts: ParameterCounts, shape: MicroBatchShape, *, cuda: bool
) -> FinetuneMemory:
    """Return the memory that the fine-tuning needs on the device.

    Args:
        config: settings of the fine-tuning.
        model: dimensions of the backbone.
        counts: numbers of parameters.
        shape: shape of the largest micro-batch.
        cuda: whether the device is a GPU; for a CPU, one micro-batch at a time is assumed, as with one thread.
    """
    in_bf16, probe = config.train.precision == "bf16", config.train.probe is not None
    width = 2 if in_bf16 else 4
    weights = (counts.backbone + counts.adapted) * width + counts.head * 4
    gradients = counts.all_trained * 4.0
    if in_bf16:  # fp32 copies of the weights, and the model's gradients before they are added to the fp32 ones
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
    """Return the shape of the micro-batch with the most padded pairs; among equals, the one with the most atoms.

    Args:
        histogram: number of atoms → number of rows.
        batch_size: maximum number of molecules in a micro-batch.
        max_pairs: maximum number of padded pairs; a molecule that exceeds it is a micro-batch by itself.
    """
    shapes = [
        MicroBatchShape(molecules=max(1, min(batch_size, count, max_pairs // (n + 1) ** 2)), num_atoms=n)
        for n, count in sorted(_at_most(histogram).items())
    ]
    return max(shapes, key=lambda shape: (shape.pairs, shape.num_atoms))


def _at_most(histogram: Mapping[int, int]) -> dict[int, int]:
    """Return number of atoms → number of rows with at most that many atoms, which can share a micro-batch."""
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
    """Return the largest ``train.max_pairs`` that fits, to two digits; None: not even one molecule fits.

    Args:
        config: settings of the fine-tuning.
        model: dimensions of the backbone.
        counts: numbers of parameters.
        histogram: number of atoms → number of rows.
        capacity: memory of the device in bytes, of which a tenth stays free.
        cuda: whether the device is a GPU.
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
