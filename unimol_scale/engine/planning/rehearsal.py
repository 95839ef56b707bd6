"""Runs the largest possible micro-batch before the first step, so that a lack of memory is noticed at the start.

The molecules are made up, not read: carbon chains of the right size need the same memory as real ones, take no search
through the store, and are the same on every rank. Shapes: B molecules, A atoms, L labels.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from unimol_scale.common.machine.devices import full_memory
from unimol_scale.common.machine.memory import available_bytes, local_ranks, resident_bytes, return_freed_memory
from unimol_scale.common.units import GIB
from unimol_scale.data import vocabulary as vocab
from unimol_scale.data.batch import MoleculeBatch
from unimol_scale.data.features import shortest_paths
from unimol_scale.data.steps.random_streams import MoleculeKeys
from unimol_scale.engine.parallel.ranks import Ranks
from unimol_scale.engine.planning.rank_memory import (
    MicroBatchShape,
    fitting_max_pairs,
    largest_micro_batch,
    micro_batch_bytes,
    rank_memory,
)
from unimol_scale.engine.run.run_config import PretrainConfig
from unimol_scale.errors import RunError
from unimol_scale.objectives.base import Objective, Sample, corruption_of
from unimol_scale.store.schema import ConformerOrigin

# Above this fraction of the available memory, what malloc keeps for itself could be missed: 1.8 times what is in use
_TIGHT = 0.4
_CARBON = 6
# Å, step along a zigzag chain, across it, and out of its plane, so that no geometry is degenerate.
_STEP, _ZIGZAG, _TWIST = 1.26, 0.44, 0.3


def rehearse(
    config: PretrainConfig,
    objective: Objective,
    histogram: Mapping[int, int],
    ranks: Ranks,
    run: Callable[[Sample], object],
) -> MicroBatchShape:
    """Run the largest micro-batch once, for every part of a mixture, and return its shape.

    Args:
        config: configuration of the run.
        objective: objective of the run.
        histogram: atoms → molecules of the training split.
        ranks: this process among the others; every rank calls this.
        run: runs forward and backward of one sample; the caller drops the gradients that this adds.

    Raises:
        RunError: memory is too small for it; the message names a ``data.max_pairs`` that would fit.
    """
    prepare_host_memory(config, objective, histogram, ranks)
    cuda = ranks.device.type == "cuda"
    shape = largest_micro_batch(config, objective, histogram, cuda=cuda)
    try:
        for sample in worst_samples(config, objective, shape):
            run(sample)
        if cuda:
            torch.cuda.synchronize(ranks.device)
    except (MemoryError, RuntimeError) as error:
        reason = full_memory(error)
        if reason is None:
            raise
        capacity = device_bytes(ranks)
        raise RunError(_refusal(config, objective, histogram, ranks, shape, capacity, f"failed: {reason}")) from error
    return shape


def prepare_host_memory(
    config: PretrainConfig, objective: Objective, histogram: Mapping[int, int], ranks: Ranks
) -> None:
    """If ranks use host memory, refuse a run that would not fit: the system's out-of-memory killer gives no message.

    If the run fits but uses much of the available memory, malloc is told to return freed memory. Call this before the
    model is built; later calls are allowed, and count memory that this process already holds as available.

    Raises:
        RunError: the estimate exceeds the available memory and ``train.rehearse`` is on; the message names what would
            fit.
    """
    available = available_bytes()
    if ranks.device.type == "cuda" or available is None:
        return
    shape = largest_micro_batch(config, objective, histogram, cuda=False)
    memory = rank_memory(config, objective, shape, world_size=ranks.world_size, cuda=False)
    held = resident_bytes()
    missing = max(0.0, memory.total - held)
    if missing * local_ranks() > available * _TIGHT:
        return_freed_memory()
    refused = float(config.train.rehearse and missing * local_ranks() > available)
    # All ranks must agree: a single one that continues would wait for the others.
    if refused if ranks.world_size == 1 else ranks.sum({"refused": refused})["refused"]:
        capacity = held + available / local_ranks()
        reason = f"needs an estimated {memory.total / GIB:.1f} GiB per rank, but {capacity / GIB:.1f} GiB are available"
        raise RunError(_refusal(config, objective, histogram, ranks, shape, capacity, reason))


def worst_samples(config: PretrainConfig, objective: Objective, shape: MicroBatchShape) -> list[Sample]:
    """Return a micro-batch of the given shape, as each part of the objective corrupts it."""
    keys = MoleculeKeys(
        seed=config.seed,
        epoch_B=np.zeros(shape.molecules, np.int64),
        molecule_B=np.arange(shape.molecules, dtype=np.int64),
    )
    batch = carbon_chains(shape, num_labels=len(config.data.labels))
    return [corruption_of(part, config.model)(batch, keys, 0) for part in objective.parts]


def carbon_chains(shape: MicroBatchShape, num_labels: int = 0) -> MoleculeBatch:
    """Return identical unbranched carbon chains in a batch of the given shape."""
    B, A = shape.molecules, shape.num_atoms
    atom_A = np.arange(A)
    bonded_AA = np.abs(atom_A[:, None] - atom_A[None, :]) == 1
    flat_A3 = np.stack([_STEP * atom_A, _ZIGZAG * (-1.0) ** atom_A, np.zeros(A)], axis=1)
    flat_A3 -= flat_A3.mean(0)
    twisted_A3 = flat_A3 + np.stack([np.zeros(A), np.zeros(A), _TWIST * (atom_A % 3 - 1.0)], axis=1)

    def repeated(array: npt.NDArray[Any], dtype: type[np.generic]) -> npt.NDArray[Any]:
        return np.repeat(array[None].astype(dtype), B, axis=0)

    return MoleculeBatch(
        num_atoms_B=np.full(B, A, np.int32),
        valid_BA=np.ones((B, A), np.bool_),
        atomic_number_BA=np.full((B, A), _CARBON, np.uint8),
        atom_features_BA8=np.zeros((B, A, vocab.NUM_ATOM_FEATURES), np.uint8),
        degree_BA=repeated(bonded_AA.sum(1), np.uint8),
        bond_features_BAA3=repeated(bonded_AA[..., None].repeat(vocab.NUM_BOND_FEATURES, -1), np.uint8),
        path_BAA=repeated(shortest_paths(bonded_AA[None])[0], np.int16),
        coordinates_BA3=repeated(twisted_A3, np.float32),
        planar_BA3=repeated(flat_A3, np.float32),
        conformer_origin_B=np.full(B, ConformerOrigin.MMFF, np.uint8),
        labels_BL=np.full((B, num_labels), np.nan),
    )


def _refusal(
    config: PretrainConfig,
    objective: Objective,
    histogram: Mapping[int, int],
    ranks: Ranks,
    shape: MicroBatchShape,
    capacity: float | None,
    reason: str,
) -> str:
    cuda = ranks.device.type == "cuda"
    activations = micro_batch_bytes(config, objective, shape, cuda=cuda)
    fitting = capacity and fitting_max_pairs(
        config, objective, histogram, capacity, world_size=ranks.world_size, cuda=cuda
    )
    if fitting and fitting < config.data.pair_budget:
        advice = f"data.max_pairs={fitting} would fit by estimate"
    elif fitting:  # the estimate was too low; it is only known that less is needed
        advice = f"try data.max_pairs={max((max(histogram) + 1) ** 2, config.data.pair_budget // 2)}"
    else:
        advice = "no data.max_pairs would fit by estimate"
    return (
        f"the largest micro-batch of data.max_pairs {config.data.pair_budget} ({shape.molecules} molecules of "
        f"{shape.num_atoms} atoms, {shape.pairs} padded pairs, {activations / GIB:.2f} GiB of activations) {reason}. "
        f"{advice}; model.checkpoint_every=1 trades time for memory, and --dry-run shows where memory goes"
    )


def device_bytes(ranks: Ranks) -> float | None:
    """Return the total memory that this rank may use, in bytes; None if unknown."""
    if ranks.device.type == "cuda":
        return float(torch.cuda.get_device_properties(ranks.device).total_memory)
    available = available_bytes()
    return None if available is None else resident_bytes() + available / local_ranks()
