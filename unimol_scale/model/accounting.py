"""Counts of the model's parameters, FLOPs and memory, from its configuration alone. Imports no torch.

The trainer's MFU, the planner and the compute axis of the scaling laws all use these counts; tests compare them with
the built model and with torch's own FLOP counter.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from unimol_scale.data import vocabulary as vocab
from unimol_scale.errors import ConfigError, nearest
from unimol_scale.model.presets import ModelConfig

# A training step is one forward pass and a backward pass of twice its matrix products.
TRAINING_TO_FORWARD = 3.0
# Values per pair with ``edges: path``: a row of a table, its share, and what torch's sum over rows keeps of them.
BYTES_OF_HOP = 24
# Relation of a pair of atoms → channels that its head predicts.
RELATION_CHANNELS = {"path": vocab.NUM_PATH_CLASSES, "edge": vocab.NUM_HOPS * vocab.NUM_EDGE_CLASSES, "distance": 1}


@dataclass(frozen=True, kw_only=True)
class Heads:
    """Which heads are built on the backbone; every objective states its own.

    Attributes:
        token: whether there is a head for masked tokens.
        coordinate: whether there is a coordinate head.
        relations: relations of pairs to predict, names of ``RELATION_CHANNELS``; empty for none.
        projection: width of a linear map from the atoms to another model's atoms; 0 for none.
        relation_factors: ``shared``: all relations are read from the same two maps of the atoms; ``separate``: each
            from two maps of its own.
    """

    token: bool = False
    coordinate: bool = False
    relations: tuple[str, ...] = ()
    projection: int = 0
    relation_factors: Literal["shared", "separate"] = "shared"

    def __post_init__(self) -> None:
        for name in self.relations:
            if name not in RELATION_CHANNELS:
                raise ConfigError(f"heads.relations: unknown relation {name!r}; {nearest(name, RELATION_CHANNELS)}")

    @property
    def relation_channels(self) -> int:
        """Channels predicted per pair of atoms."""
        return sum(RELATION_CHANNELS[name] for name in self.relations)

    @property
    def relation_maps(self) -> int:
        """Number of pairs of maps of the atoms from which the relations are read."""
        return len(self.relations) if self.relation_factors == "separate" else min(1, len(self.relations))


DENOISE_HEADS = Heads(token=True, coordinate=True)


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """Parameters by group, so that a scaling law can count or leave out any of them.

    Attributes:
        embedding: token, feature, path and kernel tables and maps, and the layer norms of the input.
        atom_track: attention and feed-forward network of the atoms.
        pair_track: outer product, triangle update, feed-forward network and attention bias of the pairs.
        heads: the heads of the objective.
    """

    embedding: int
    atom_track: int
    pair_track: int
    heads: int

    @property
    def total(self) -> int:
        """All parameters."""
        return self.embedding + self.atom_track + self.pair_track + self.heads

    @property
    def non_embedding(self) -> int:
        """Parameters of the layers only."""
        return self.atom_track + self.pair_track

    def as_dict(self) -> dict[str, int]:
        """Return the groups and their total, ready for JSON."""
        return {
            "embedding": self.embedding,
            "atom_track": self.atom_track,
            "pair_track": self.pair_track,
            "heads": self.heads,
            "total": self.total,
        }


def count_parameters(config: ModelConfig, heads: Heads = DENOISE_HEADS) -> ParameterCount:
    """Count the parameters of the backbone and of an objective's heads (by default denoise's, as published)."""
    d, p, h = config.atom_width, config.pair_width, config.pair_hidden
    gaussians = config.gaussians
    embedding = (
        (vocab.NUM_TOKENS + vocab.NUM_ATOM_CODES + vocab.NUM_DEGREE_CODES + 1) * d
        + (vocab.NUM_BOND_CODES + vocab.NUM_PATH_CODES + 1 + vocab.NUM_HOPS * (config.edges == "path")) * p
        + (2 * vocab.NUM_PAIR_TYPES + gaussians * (gaussians + 1) + (gaussians + 1) * p) * config.geometry
        + 2 * d
        + 2 * p
    )
    feed_forward = 2 * d + d * config.ffn_width + config.ffn_width + config.ffn_width * d + d
    attention = 2 * d + 4 * d * d + d
    bias = p * config.heads + config.heads
    outer_product = 2 * d + 2 * h * (d + 1) + h * h * p + p
    triangle = 2 * p + 2 * (2 * h * (p + 1)) + 2 * h + (h + 1) * p + (p + 1) * p
    pair_feed_forward = 2 * p + 2 * p * (p + 1)
    token_head = (d * (d + 1) + 2 * d + (d + 1) * vocab.NUM_TOKENS) * heads.token
    coordinate_head = (2 * d + 2 * p + 3 * d * d + d + bias) * heads.coordinate
    r, k, maps = vocab.RELATION_HIDDEN, heads.relation_channels, heads.relation_maps
    factor_norms = 4 * r * maps * (heads.relation_factors == "separate")
    relation_heads = (2 * d + maps * 2 * r * (d + 1) + factor_norms + (r * r + 1) * k) if k else 0
    projection = (d + 1) * heads.projection
    return ParameterCount(
        embedding=embedding,
        atom_track=config.layers * (attention + feed_forward),
        pair_track=config.layers * (bias + outer_product + triangle + pair_feed_forward),
        heads=token_head + coordinate_head + relation_heads + projection,
    )


def hidden_matrices(config: ModelConfig) -> dict[str, tuple[tuple[int, int, int], ...]]:
    """Return track → (number, rows, columns) of one layer's hidden matrices, which Muon can update."""
    d, f, p, h = config.atom_width, config.ffn_width, config.pair_width, config.pair_hidden
    return {
        "atom": ((4, d, d), (1, f, d), (1, d, f)),
        "pair": ((1, config.heads, p), (2, h, d), (1, p, h * h), (4, h, p), (1, p, h), (3, p, p)),
    }


def count_hidden(config: ModelConfig, tracks: Sequence[str]) -> int:
    """Count the elements of the hidden matrices of the given tracks."""
    matrices = [matrix for track in tracks for matrix in hidden_matrices(config)[track]]
    return config.layers * sum(number * rows * columns for number, rows, columns in matrices)


def orthogonalisation_flops(config: ModelConfig, tracks: Sequence[str], iterations: int) -> float:
    """FLOPs of orthogonalising the hidden matrices of the given tracks once, by Newton–Schulz iterations."""
    matrices = [matrix for track in tracks for matrix in hidden_matrices(config)[track]]
    sides = [(number, min(rows, columns), max(rows, columns)) for number, rows, columns in matrices]
    return float(config.layers * iterations * sum(n * (4 * short**2 * long + 2 * short**3) for n, short, long in sides))


def forward_flops(config: ModelConfig, num_atoms: int, heads: Heads = DENOISE_HEADS) -> float:
    """FLOPs of one forward pass for one molecule of ``num_atoms`` atoms without padding, as implemented here.

    Counts matrix products (two FLOPs per multiply-add); elementwise work is memory-bound and not counted, as usual for
    MFU.
    """
    d, p, h = config.atom_width, config.pair_width, config.pair_hidden
    n = num_atoms + 1
    pairs = n * n
    kernel = num_atoms * num_atoms * 2 * config.gaussians * (config.gaussians + p) * config.geometry
    attention = 2 * n * 4 * d * d + 2 * 2 * pairs * d + 2 * pairs * p * config.heads
    feed_forward = 2 * n * 2 * d * config.ffn_width
    outer_product = 2 * n * d * 2 * h + 2 * n * h * h * p + 2 * pairs * h * p
    triangle = 2 * pairs * p * 4 * h + 2 * 2 * n * pairs * h + 2 * pairs * h * p + 2 * pairs * p * p
    pair_feed_forward = 2 * pairs * 2 * p * p
    layer = attention + feed_forward + outer_product + triangle + pair_feed_forward
    atom_pairs = num_atoms * num_atoms
    token_head = 2 * num_atoms * (d * d + d * vocab.NUM_TOKENS) * heads.token
    coordinate_head = 2 * num_atoms * (3 * d * d + d) + 2 * atom_pairs * (d + p * config.heads + 3)
    r, k, maps = vocab.RELATION_HIDDEN, heads.relation_channels, heads.relation_maps
    relation_heads = 2 * num_atoms * (maps * 2 * d * r + r * r * k) + 2 * atom_pairs * r * k if k else 0
    projection = 2 * num_atoms * d * heads.projection
    of_heads = token_head + coordinate_head * heads.coordinate + relation_heads + projection
    return float(kernel + config.layers * layer + of_heads)


def training_flops(config: ModelConfig, num_atoms: int, heads: Heads = DENOISE_HEADS) -> float:
    """FLOPs of one training step for one molecule, forward and backward, without recomputation."""
    return TRAINING_TO_FORWARD * forward_flops(config, num_atoms, heads)


def mean_flops(of_molecule: Callable[[int], float], histogram: Mapping[int, int]) -> float:
    """Mean of ``of_molecule(atoms)``, in FLOPs, over a histogram of atom counts (atoms → molecules)."""
    molecules = sum(histogram.values())
    return sum(of_molecule(n) * count for n, count in histogram.items()) / molecules


def activation_bytes(
    config: ModelConfig,
    molecules: int,
    num_atoms: int,
    bytes_per_value: int,
    *,
    mask_bytes: int | None = None,
    heads: Heads = DENOISE_HEADS,
) -> float:
    """Peak bytes that one micro-batch of equal molecules needs in addition to weights, gradients and optimizer.

    Counted from what ``kernels`` keeps for the backward pass. For a layer that is: its input, the pairs before and
    after the triangle update and the hidden layer of the pair network (4P per pair), the gated maps and their product
    (5h), the attention weights in fp32 (H), and dropout masks. In addition there is the work space of one triangle
    update's backward pass. With activation checkpointing, only the inputs of recomputed layers are kept, and the inside
    of one layer at a time.

    Args:
        config: configuration of the model.
        molecules: molecules in the micro-batch.
        num_atoms: atoms of each.
        bytes_per_value: 4 in fp32, 2 in bf16.
        mask_bytes: bytes per element of a dropout mask: on a GPU torch keeps 1; None: as many as a value, as on a CPU.
        heads: heads of the objective; those for pairs need memory too.
    """
    d, p, h = config.atom_width, config.pair_width, config.pair_hidden
    n, v, m = num_atoms + 1, bytes_per_value, bytes_per_value if mask_bytes is None else mask_bytes
    attention = n * n * config.heads * (4 if v == 4 else 4 + v)
    if config.attention_dropout:
        # The mask, and in fp32 the attention weights before and after it.
        attention += n * n * config.heads * (m + (v if v == 4 else 0))
    masks = m * (n * n * 2 * p + n * 2 * d) if config.dropout else 0
    if config.activation_dropout:  # its masks take one byte per value on every device
        masks += n * n * p + n * config.ffn_width
    layer = v * (n * n * (4 * p + 5 * h) + n * (8 * d + config.ffn_width + 6 * h)) + attention + masks
    layer_input = v * (n * d + n * n * p)
    recomputed = recomputed_layers(config)
    inside = config.layers - recomputed + (1 if recomputed else 0)
    ends = v * n * n * (3 * p + config.gaussians) + 4 * n * n * config.heads
    ends += n * n * vocab.NUM_HOPS * BYTES_OF_HOP * (config.edges == "path")
    # Predictions for pairs, their log-probabilities, a gradient, and a·W, in fp32; freed before the layers' backward
    # pass.
    relations = 4 * heads.relation_channels * (3 * n * n + n * vocab.RELATION_HIDDEN)
    work_space = v * n * n * (5 * p + 8 * h)
    return float(molecules * (layer * inside + layer_input * recomputed + ends + max(relations, work_space)))


def recomputed_share(config: ModelConfig) -> float:
    """Fraction of the layers whose forward pass is repeated in the backward pass."""
    return recomputed_layers(config) / config.layers


def recomputed_layers(config: ModelConfig) -> int:
    """Return the number of layers whose forward pass is repeated in the backward pass."""
    return -(-config.layers // config.checkpoint_every) if config.checkpoint_every else 0
