"""Computes the memory of one rank, part by part, and the largest micro-batch that can occur.

Weights, gradients and optimizer states follow from the ZeRO stage, DeepSpeed's buffers from its settings, and
activations from the model and the shape of a micro-batch (model/accounting.py). Everything is arithmetic: nothing is
allocated.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from unimol_scale.engine.parallel.deepspeed_settings import deepspeed_settings
from unimol_scale.engine.parallel.matrix_exchange import ROUND_ELEMENTS
from unimol_scale.engine.run.run_config import PretrainConfig
from unimol_scale.model.accounting import Heads, activation_bytes, count_hidden, count_parameters
from unimol_scale.objectives.base import Objective

# DeepSpeed's own defaults in elements (0.19.8, zero/config.py).
_DEEPSPEED_DEFAULTS = {"reduce_bucket_size": 5e8, "sub_group_size": 1e9, "stage3_max_live_parameters": 1e9}
# Memory in use before the first tensor: CUDA context, cuBLAS and NCCL buffers on a GPU; on a CPU, the interpreter with
# torch and DeepSpeed loaded.
PROCESS_BYTES = {"cuda": 1.0 * 2**30, "cpu": 0.5 * 2**30}
# Fraction of a device to keep free, for fragments that the allocator cannot use and for errors of the estimate.
MARGIN = 0.1
# AdamW's two moments and the master copy, all fp32; DeepSpeed keeps the copy in fp32 runs too. Muon has one momentum.
OPTIMIZER_BYTES, MUON_BYTES = 12, 8
AVERAGE_BYTES = 4
# Copies of a round's matrices while they are sent, made orthogonal and sent back.
_MUON_COPIES = 8
# A step contains more molecules of a size than this bound with a probability below e^-30 (Bernstein's inequality).
_BERNSTEIN_EXPONENT = 30.0


@dataclass(frozen=True, kw_only=True)
class MicroBatchShape:
    """Equal molecules with padding: the shape that needs the most memory.

    Attributes:
        molecules: molecules in the micro-batch.
        num_atoms: atoms of each.
    """

    molecules: int
    num_atoms: int

    @property
    def pairs(self) -> int:
        """Padded pairs Σ(n+1)², virtual node included."""
        return self.molecules * (self.num_atoms + 1) ** 2


@dataclass(frozen=True, kw_only=True)
class RankMemory:
    """Bytes on the device of one rank, by part; offloaded parts are in the host's memory instead.

    Attributes:
        weights: the weights that the model computes with, this rank's share.
        gradients: accumulated gradients.
        optimizer: fp32 master weights and both moments, or Muon's single momentum.
        averages: fp32 averages of the weights, if the run keeps them.
        teacher: the teacher of a distillation, whole on every rank.
        buffers: buffers of DeepSpeed's reductions.
        process: context and libraries.
        copy: copy of the state while a checkpoint is written in the background; a GPU's copy is on its host.
        gathered: whole weights of the layers in use, under stage 3.
        activations: of the largest micro-batch, times the number computed side by side.
        step: work space of the optimizer.
        host: memory used on the host: offloaded parts, and a GPU's ``copy``.
    """

    weights: float
    gradients: float
    optimizer: float
    averages: float
    teacher: float
    buffers: float
    process: float
    copy: float
    gathered: float
    activations: float
    step: float
    host: float

    @property
    def standing(self) -> float:
        """Memory in use all the time."""
        state = self.weights + self.gradients + self.optimizer + self.averages
        return state + self.teacher + self.buffers + self.process + self.copy

    @property
    def total(self) -> float:
        """Peak memory: a micro-batch and the optimizer's step never need theirs at the same time."""
        return self.standing + max(self.gathered + self.activations, self.step)


def keeps_averages(config: PretrainConfig) -> bool:
    """Return whether a run keeps averages of its weights."""
    return config.train.ema_decay is not None


def checkpoint_bytes(config: PretrainConfig, parameters: int) -> int:
    """Return a checkpoint's size: 12 bytes per parameter (8 for Muon's), and 4 more with averages of the weights."""
    return optimizer_bytes(config, parameters) + parameters * AVERAGE_BYTES * keeps_averages(config)


def optimizer_bytes(config: PretrainConfig, parameters: int) -> int:
    """Return the bytes of the fp32 master weights and optimizer states, over all ranks."""
    muon = count_hidden(config.model, config.train.tracks_of_muon)
    return (parameters - muon) * OPTIMIZER_BYTES + muon * MUON_BYTES


def micro_batch_bytes(config: PretrainConfig, objective: Objective, shape: MicroBatchShape, *, cuda: bool) -> float:
    """Return the peak memory of a micro-batch's activations in bytes."""
    return activation_bytes(
        config.model,
        shape.molecules,
        shape.num_atoms,
        value_bytes(config),
        mask_bytes=1 if cuda else None,
        heads=objective.heads,
    )


def largest_micro_batch(
    config: PretrainConfig, objective: Objective, histogram: Mapping[int, int], *, cuda: bool
) -> MicroBatchShape:
    """Return the micro-batch within ``data.max_pairs`` that needs the most memory of all that can occur.

    Pairs dominate, but small molecules have more atoms per pair, so every size is tried. The number of molecules with
    at most n atoms in a micro-batch is limited by the step and by chance (Bernstein's bound, which is exceeded once in
    10¹³ steps). If molecules are shuffled only within windows of shards, the bound by chance does not apply.

    Args:
        config: configuration of the run.
        objective: objective of the run, whose heads need memory too.
        histogram: atoms → molecules of the training split.
        cuda: whether the device is a GPU.
    """
    batch, rows = config.train.global_batch_size, sum(histogram.values())
    best, most = None, -1.0
    up_to = 0
    for n in sorted(histogram):
        up_to += histogram[n]
        expected = batch * up_to / rows
        chance = batch
        if config.data.window is None:
            e = _BERNSTEIN_EXPONENT
            chance = int(expected + e / 3 + (e * e / 9 + 2 * e * expected) ** 0.5)
        # The end of an epoch may bring a molecule a second time.
        count = min(config.data.pair_budget // (n + 1) ** 2, batch, chance, 2 * up_to)
        atoms = n
        if (shapes := config.data.shapes) is not None and count:
            atoms = int(shapes.atoms(np.array([n], np.int32))[0])
            count, atoms = shapes.shape(min(count, shapes.max_pairs // (atoms + 1) ** 2), n)
        shape = MicroBatchShape(molecules=count, num_atoms=atoms)
        needed = micro_batch_bytes(config, objective, shape, cuda=cuda)
        if count and needed >= most:
            best, most = shape, needed
    # A budget that holds no molecule is refused when the data are opened; here the memory of one molecule is computed.
    return best or MicroBatchShape(molecules=1, num_atoms=max(histogram))


def rank_memory(
    config: PretrainConfig,
    objective: Objective,
    shape: MicroBatchShape,
    *,
    world_size: int,
    cuda: bool,
) -> RankMemory:
    """Return the memory that one rank needs.

    Args:
        config: configuration of the run.
        objective: objective of the run, which determines the parameters.
        shape: shape of the largest micro-batch.
        world_size: ranks that share what the ZeRO stage shares.
        cuda: whether the device is a GPU.

    Raises:
        ConfigError: the file of DeepSpeed settings cannot be read.
    """
    settings = deepspeed_settings(config, cuda=cuda)
    zero = settings["zero_optimization"]
    teacher = objective.teacher
    parameters, width = objective.count_parameters(config.model).total, value_bytes(config)
    stage = int(zero["stage"])
    shares = [parameters / world_size if stage >= least else float(parameters) for least in (1, 2, 3)]
    accumulates_fp32 = settings.get("data_types", {}).get("grad_accum_dtype") == "fp32"
    weights, gradients = shares[2] * width, shares[1] * (4 if accumulates_fp32 else width)
    at_once = config.train.side_by_side or 1
    if at_once > 1:  # gradients of each micro-batch, and their sum before DeepSpeed takes it
        gradients += (at_once + 1) * parameters * width
    elif config.train.cuda_graphs:  # those of a micro-batch, and their sum before DeepSpeed takes it
        gradients += 2 * parameters * width
    optimizer = optimizer_bytes(config, parameters) * shares[0] / parameters
    averages = shares[0] * AVERAGE_BYTES * keeps_averages(config)
    # One state, divided among the ranks, at any stage.
    copy = checkpoint_bytes(config, parameters) / world_size * config.train.save_in_background
    host = copy if cuda else 0.0
    if _is_offloaded(zero, "offload_optimizer"):
        host, gradients, optimizer = host + gradients + optimizer, 0.0, 0.0
    if _is_offloaded(zero, "offload_param"):
        host, weights = host + weights, 0.0
    return RankMemory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        averages=averages,
        teacher=float(count_parameters(teacher, Heads()).total * width) if teacher is not None else 0.0,
        buffers=_buffer_bytes(zero, parameters, width, cuda=cuda),
        process=PROCESS_BYTES["cuda" if cuda else "cpu"],
        copy=0.0 if cuda else copy,
        gathered=min(parameters, _elements(zero, "stage3_max_live_parameters")) * width if stage == 3 else 0.0,
        activations=at_once * micro_batch_bytes(config, objective, shape, cuda=cuda),
        # Gradients become fp32, one sub-group at a time under stage 3; the fused AdamW needs no further memory.
        step=min(shares[0], _elements(zero, "sub_group_size") if stage == 3 else parameters) * 4
        + _muon_work_space(config, world_size),
        host=host,
    )


def fitting_max_pairs(
    config: PretrainConfig,
    objective: Objective,
    histogram: Mapping[int, int],
    capacity: float,
    *,
    world_size: int,
    cuda: bool,
    margin: float = MARGIN,
) -> int | None:
    """Return the largest ``data.max_pairs`` whose micro-batches fit in a rank's memory, ignoring the configured one.

    Args:
        config: configuration of the run.
        objective: objective of the run.
        histogram: atoms → molecules of the training split.
        capacity: bytes of the device.
        world_size: ranks that share what the ZeRO stage shares.
        cuda: whether the device is a GPU.
        margin: fraction of the device to keep free.

    Returns:
        The value, to two digits, or the whole batch; None: not even one molecule fits.
    """
    # Any micro-batch will do here, since the other memory does not depend on it.
    one = MicroBatchShape(molecules=1, num_atoms=max(histogram))
    memory = rank_memory(config, objective, one, world_size=world_size, cuda=cuda)
    free = capacity * (1 - margin) - memory.standing - memory.gathered
    if memory.standing + memory.step > capacity * (1 - margin):
        return None
    least, at_once = (max(histogram) + 1) ** 2, config.train.side_by_side or 1

    def fits(max_pairs: int) -> bool:
        changed = replace(config, data=replace(config.data, max_pairs=max_pairs))
        shape = largest_micro_batch(changed, objective, histogram, cuda=cuda)
        return at_once * micro_batch_bytes(config, objective, shape, cuda=cuda) <= free

    if not fits(least):
        return None
    whole = least * config.train.global_batch_size  # a micro-batch never holds more
    low, high = least, whole
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    if low == whole:
        return whole  # rounded down, it would cut the batch in two
    digit = int("1" + "0" * max(0, len(str(low)) - 2))
    return max(least, low // digit * digit)


def value_bytes(config: PretrainConfig) -> int:
    """Return the bytes of a value of weights and activations."""
    return 2 if config.train.precision == "bf16" else 4


def _muon_work_space(config: PretrainConfig, world_size: int) -> float:
    """Return the bytes that Muon needs for its matrices during a step, besides the state."""
    muon = count_hidden(config.model, config.train.tracks_of_muon)
    if not muon:
        return 0.0
    a_round = min(ROUND_ELEMENTS * world_size, muon)
    # Under stage 0, every rank receives the whole round.
    whole = 2 * a_round if config.zero.stage_used == 0 else 0
    return float((_MUON_COPIES * a_round / world_size + whole) * value_bytes(config))


def _elements(zero: Mapping[str, Any], key: str) -> float:
    return float(zero.get(key, _DEEPSPEED_DEFAULTS[key]))


def _is_offloaded(zero: Mapping[str, Any], key: str) -> bool:
    return bool(zero.get(key, {}).get("device", "none") != "none")


def _buffer_bytes(zero: Mapping[str, Any], parameters: int, width: int, *, cuda: bool) -> float:
    """Return the bytes of the buckets in which gradients are reduced.

    Stages 1 to 3 allocate whole buckets, however small the model; on a CPU, pages count only once they are used.
    """
    bucket = _elements(zero, "reduce_bucket_size")
    touched = min(bucket, parameters)
    if int(zero["stage"]) == 0:
        return touched * width
    allocated = bucket if cuda else touched
    if int(zero["stage"]) == 3:
        return (allocated + touched) * width  # the second term is the source of the reduce-scatter
    return allocated * width * (2 if zero.get("overlap_comm") else 1)
