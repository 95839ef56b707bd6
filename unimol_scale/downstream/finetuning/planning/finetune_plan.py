"""Estimates which parameters a fine-tuning would train, and the memory and time it would need on a device.

The time comes from a roofline (``engine.planning.roofline``): a micro-batch takes as long as its kernels on the device,
or as their start by the host if that takes longer. A backward pass costs twice a forward pass in
the layers that it goes through. Reading, saving, baselines and early stopping are not included. Atoms are counted in
the molecular graphs, so no conformers are generated.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from unimol_scale.data.steps.micro_batches import plan_micro_batches
from unimol_scale.downstream.compute import pair_budget
from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.data.batches import RowReader
from unimol_scale.downstream.finetuning.adaptation.freezing import check_trained_layers
from unimol_scale.downstream.finetuning.labelled_rows import load_rows
from unimol_scale.downstream.finetuning.planning.needed_memory import (
    FinetuneMemory,
    ParameterCounts,
    count_trained,
    fitting_pairs,
    largest_shape,
    layers_with_gradients,
    needed_memory,
)
from unimol_scale.downstream.finetuning.problem.identity import identify_start, settle
from unimol_scale.downstream.finetuning.row_parts import split_labelled
from unimol_scale.engine.planning.accelerators import Target, named_target, target_here
from unimol_scale.engine.planning.rank_memory import MARGIN, MicroBatchShape
from unimol_scale.engine.planning.roofline import micro_batch_time
from unimol_scale.model.accounting import TRAINING_TO_FORWARD, Heads, forward_flops, training_flops
from unimol_scale.model.presets import ModelConfig

HERE = "here"
_BATCHES_DRAWN = 8


@dataclass(frozen=True, kw_only=True)
class FinetunePlan:
    """What a fine-tuning would need.

    Attributes:
        device: name of the device.
        capacity: memory of the device, in bytes; None: unknown.
        counts: numbers of parameters.
        memory: memory needed at the peak.
        shape: shape of the largest micro-batch.
        max_pairs: maximum number of padded atom pairs in a micro-batch.
        fitting: largest ``max_pairs`` that fits into the memory; None: not even one molecule fits, or the memory is
            unknown.
        rows: numbers of training rows, of validation rows, and of all used rows.
        epochs: maximum number of epochs of each training.
        trainings: number of trainings whose models are kept, and number of trainings of a search.
        epoch_seconds: seconds of one epoch with its validation; for a probe, seconds to compute the vectors.
        precision: precision in which the backbone computes.
        is_probe: whether only a head is fitted, to vectors that the backbone computes once.
    """

    device: str
    capacity: float | None
    counts: ParameterCounts
    memory: FinetuneMemory
    shape: MicroBatchShape
    max_pairs: int
    fitting: int | None
    rows: tuple[int, int, int]
    epochs: int
    trainings: tuple[int, int]
    epoch_seconds: float
    precision: str
    is_probe: bool

    @property
    def fits(self) -> bool | None:
        """Whether the needed memory is at most nine tenths of the device's; None: its memory is unknown."""
        return None if self.capacity is None else self.memory.total <= self.capacity * (1 - MARGIN)

    @property
    def seconds(self) -> float:
        """Seconds of all trainings together, if none stops early."""
        return self.epoch_seconds * (1 if self.is_probe else self.epochs * sum(self.trainings))


def plan_finetuning(config: FinetuneConfig, device: str) -> FinetunePlan:
    """Plan a fine-tuning; only 2D depictions of molecules are written, into the cache.

    Args:
        config: the settings of the fine-tuning.
        device: name of a device, such as "rtx4090", or "here".

    Raises:
        ConfigError: a setting is wrong, or there is no such device.
        SourceError: the data is missing or wrong.
        CheckpointError: the pretrained model cannot be read.
    """
    precision = config.train.precision
    target = target_here(precision) if device == HERE else named_target(device, precision, "--plan, beside here")
    model, _, _ = identify_start(config)
    check_trained_layers(config.train.trained_layers, model.layers)
    config = settle(config, model)
    rows = load_rows(config, geometry=False)
    splits = split_labelled(config, rows)
    reader = RowReader(
        rows.molecules.split,
        rows.molecules.position_M[rows.usable_M],
        rows.labels_ML[rows.usable_M],
        drop_hydrogens=rows.leaves_out_hydrogens,
    )
    histogram = Counter(reader.num_atoms(np.arange(len(reader))).tolist())
    kind = torch.device("cuda" if target.is_gpu else "cpu")
    max_pairs = pair_budget(config.train.max_pairs, kind, max(histogram))
    counts = count_trained(config, model, rows.outputs.num_logits)
    shape = largest_shape(histogram, config.train.batch_size, max_pairs)
    split = splits[0][1]
    capacity = target.memory
    return FinetunePlan(
        device=target.name,
        capacity=capacity,
        counts=counts,
        memory=needed_memory(config, model, counts, shape, cuda=target.is_gpu),
        shape=shape,
        max_pairs=max_pairs,
        fitting=None
        if capacity is None
        else fitting_pairs(config, model, counts, histogram, capacity, cuda=target.is_gpu),
        rows=(len(split.train), len(split.valid), len(reader)),
        epochs=config.train.most_epochs,
        trainings=(config.num_seeds * len(splits), config.tune * config.tune_folds * len(splits)),
        epoch_seconds=_epoch_seconds(
            config, model, histogram, max_pairs, target, rows=(len(split.train), len(split.valid), len(reader))
        ),
        precision=config.train.precision,
        is_probe=config.train.probe is not None,
    )


def _epoch_seconds(
    config: FinetuneConfig,
    model: ModelConfig,
    histogram: Mapping[int, int],
    max_pairs: int,
    target: Target,
    rows: tuple[int, int, int],
) -> float:
    """Return the seconds of an epoch; for a probe, the seconds of a forward pass over all rows."""
    train, valid, every = rows
    layers = layers_with_gradients(config, model)
    trained_share = layers / model.layers
    training = 1.0 + (TRAINING_TO_FORWARD - 1.0) * trained_share  # cost of a step, in forward passes
    forward = _seconds_of_row(config, model, histogram, max_pairs, target)
    if config.train.probe is not None:
        return forward * every
    return forward * (training * train + valid)


def _seconds_of_row(
    config: FinetuneConfig, model: ModelConfig, histogram: Mapping[int, int], max_pairs: int, target: Target
) -> float:
    """Return the seconds of a forward pass for one row, from batches drawn from the histogram; always the same draw."""
    sizes, weights = np.array(list(histogram), np.int32), np.array(list(histogram.values()), np.float64)
    random, batch = np.random.default_rng(0), min(config.train.batch_size, sum(histogram.values()))
    precision = config.train.precision
    flops = device = host = 0.0
    for _ in range(_BATCHES_DRAWN):
        atoms_G = random.choice(sizes, size=batch, p=weights / weights.sum())
        for members in plan_micro_batches(atoms_G, 1, max_pairs).members:
            count, n = len(members), int(atoms_G[members].max())
            flops += count * forward_flops(model, n, Heads())
            of_both = count * training_flops(model, n, Heads())
            time = micro_batch_time(model, Heads(), of_both, count, n, target, precision=precision)
            device += (time.compute + time.memory_traffic) / TRAINING_TO_FORWARD
            host += time.host / TRAINING_TO_FORWARD
    seconds = max(device, host) if target.mfu is None else flops / (target.peak_flops * target.mfu)
    return seconds / (batch * _BATCHES_DRAWN)
