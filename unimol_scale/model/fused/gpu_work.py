"""Counts what a micro-batch makes a GPU do: kernels that the host starts, and bytes that they move. Imports no torch.

Two paths exist. The fused one has Triton kernels between torch's matrix products; the plain one has torch's operations
only, and computes fp32 and large molecules. The numbers are fitted to the operations of the built model, which
``benchmarks.gpu.kernel_counts`` lists with meta tensors over widths, depths and shapes of a micro-batch. A test
compares both, so a change of the kernels shows.
"""

from dataclasses import dataclass

from unimol_scale.model.accounting import (
    DENOISE_HEADS,
    TRAINING_TO_FORWARD,
    Heads,
    count_parameters,
    recomputed_layers,
    recomputed_share,
)
from unimol_scale.model.presets import ModelConfig

# Largest number of nodes and channels that the Triton kernels take (``fused.launching``, which imports torch).
MAX_NODES, MAX_CHANNELS = 64, 4096


@dataclass(frozen=True, kw_only=True)
class GpuWork:
    """What the forward and the backward pass of a micro-batch do on a GPU.

    Attributes:
        kernels: number of kernels, which hardly depends on the size of the micro-batch.
        product_bytes: bytes that the matrix products read and write.
        other_bytes: bytes that all other kernels read and write.
    """

    kernels: float
    product_bytes: float
    other_bytes: float


@dataclass(frozen=True, kw_only=True)
class _Path:
    """The counts of one path. Bytes are counted in values; P, h, H, D, F, G are the model's widths.

    Attributes:
        kernels_outside: kernels outside of the layers.
        kernels_of_layer: kernels of a layer.
        kernels_again: kernels of the repeated forward pass of a recomputed layer.
        kernels_of_dropout: further kernels outside of the layers and of each layer if the model drops anything.
        products: values that a layer's products move, per pair × (P, h), per node × (D, F, h·P), and per weight.
        others: the same for all other kernels.
        dropped: values that the other kernels of a layer move per pair × P for dropout.
        partial_sums: values of sums over all rows, which many programs each begin, in a layer and outside, × P.
        products_outside: values that the products outside of the layers move, per pair × (P, G, 1), and per weight.
        others_outside: values that other kernels outside of the layers move, per pair × (P, G, 1), and per node × D.
    """

    kernels_outside: int
    kernels_of_layer: int
    kernels_again: int
    kernels_of_dropout: tuple[int, int]
    products: tuple[float, ...]
    others: tuple[float, ...]
    dropped: float
    partial_sums: tuple[float, float]
    products_outside: tuple[float, ...]
    others_outside: tuple[float, ...]


PLAIN = _Path(
    kernels_outside=311,
    kernels_of_layer=156,
    kernels_again=74,
    kernels_of_dropout=(4, 28),
    products=(33.2, 45.0, 44.0, 1.8, 7.3, 3.0),
    others=(52.0, 100.0, 73.0, 10.0, 0.0, 0.3),
    dropped=31.3,
    partial_sums=(0, 0),
    products_outside=(5.6, 9.0, 300.0, 3.0),
    others_outside=(50.0, 53.0, 3600.0, 15.4),
)
FUSED = _Path(
    kernels_outside=88,
    kernels_of_layer=63,
    kernels_again=23,
    kernels_of_dropout=(2, 0),
    products=(22.9, 13.3, 26.0, 5.2, 4.1, 3.2),
    others=(34.4, 41.0, 30.5, 5.0, 3.4, 2.8),
    dropped=0.0,
    partial_sums=(73_000, 13_600),
    products_outside=(6.8, 8.6, 750.0, 3.0),
    others_outside=(13.7, 8.1, 800.0, 31.0),
)
# Kernels outside of the layers if an objective encodes bonds along paths or predicts relations, with either path.
_KERNELS_OF_RELATIONS = 443


def is_fused(config: ModelConfig, num_atoms: int, precision: str) -> bool:
    """Return whether Triton kernels compute such a micro-batch on a GPU that has Triton.

    Args:
        config: configuration of the model.
        num_atoms: atoms of the largest molecule of the micro-batch.
        precision: ``bf16`` or ``fp32``.
    """
    narrow = max(config.atom_width, config.pair_width) <= MAX_CHANNELS
    return precision == "bf16" and num_atoms < MAX_NODES and narrow


def training_work(
    config: ModelConfig,
    molecules: int,
    num_atoms: int,
    bytes_per_value: int,
    *,
    fused: bool,
    heads: Heads = DENOISE_HEADS,
) -> GpuWork:
    """Return what the forward and the backward pass of a micro-batch of equal molecules do.

    Args:
        config: configuration of the model.
        molecules: molecules in the micro-batch.
        num_atoms: atoms of each.
        bytes_per_value: 4 in fp32, 2 in bf16.
        fused: whether Triton kernels compute it; see ``is_fused``.
        heads: heads of the objective.
    """
    relations = config.edges == "path" or bool(heads.relations)
    layer, outside = (FUSED if fused else PLAIN), (FUSED if fused and not relations else PLAIN)
    nodes = molecules * (num_atoms + 1)
    pairs = nodes * (num_atoms + 1)
    d, p, h = config.atom_width, config.pair_width, config.pair_hidden
    parameters = count_parameters(config, heads)
    of_layer = (pairs * p, pairs * h, nodes * d, nodes * config.ffn_width, nodes * h * p)
    weights = parameters.non_embedding / config.layers
    gaussians = config.gaussians * config.geometry
    ends = (pairs * p, pairs * gaussians, pairs)
    passes = config.layers + recomputed_share(config) * config.layers / TRAINING_TO_FORWARD
    products = passes * _sum(layer.products, (*of_layer, weights))
    products += _sum(outside.products_outside, (*ends, parameters.total - parameters.non_embedding))
    dropped = layer.dropped * pairs * (config.dropout > 0.0)
    others = passes * (_sum(layer.others, (*of_layer, weights)) + (dropped + layer.partial_sums[0]) * p)
    others += _sum(outside.others_outside, (*ends, nodes * d)) + outside.partial_sums[1] * p
    return GpuWork(
        kernels=_kernels(config, layer, outside, relations=relations),
        product_bytes=bytes_per_value * products,
        other_bytes=bytes_per_value * others,
    )


def _kernels(config: ModelConfig, layer: _Path, outside: _Path, *, relations: bool) -> float:
    once, each = (drop * config.has_dropout for drop in (outside.kernels_of_dropout[0], layer.kernels_of_dropout[1]))
    first = _KERNELS_OF_RELATIONS if relations else outside.kernels_outside
    of_layers = config.layers * (layer.kernels_of_layer + each) + recomputed_layers(config) * layer.kernels_again
    return float(first + once + of_layers)


def _sum(factors: tuple[float, ...], values: tuple[float, ...]) -> float:
    return sum(factor * value for factor, value in zip(factors, values, strict=True))
