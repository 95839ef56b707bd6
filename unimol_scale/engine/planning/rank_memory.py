"""Computes the memory of one rank, part by part, and the largest micro-batch that can occur.

Weights, gradients and optimizer states follow from the ZeRO stage, DeepSpeed's buffers from its settings, activations
from the model and the shape of a micro-batch (model/accounting.py). All of it is arithmetic: nothing is allocated.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from unimol_scale.engine.parallel.deepspeed_settings import deepspeed_settings
from unimol_scale.engine.parallel.matrix_exchange import ROUND_ELEMENTS
from unimol_scale.engine.run.run_config import PretrainConfig
from unimol_scale.model.accounting import Heads, activation_bytes, count_hidden, count_parameters
from unimol_scale.objectives.base import Objective

# DeepSpeed's own defaults, elements (0.19.8, zero/config.py).
_DEEPSPEED_DEFAULTS = {"reduce_bucket_size": 5e8, "sub_group_size": 1e9, "stage3_max_live_parameters": 1e9}
# What stands in memory before the first tensor: CUDA context, cuBLAS and NCCL buffers on a GPU; the interpreter with
# torch and DeepSpeed loaded on a CPU.
PROCESS_BYTES = {"cuda": 1.0 * 2**30, "cpu": 0.5 * 2**30}
# Of a device, kept free: fragments that the allocator cannot use, and estimates that are off.
MARGIN = 0.1
# AdamW's two moments and the master copy, all fp32; DeepSpeed keeps the copy in fp32 runs too. Muon has one momentum.
OPTIMIZER_BYTES, MUON_BYTES = 12, 8
AVERAGE_BYTES = 4
# Copies of the matrices of a round, while they are sent, made orthogonal and sent back.
_MUON_COPIES = 8
# A step brings more molecules of a kind than this bound with a probability below e^-30 (Bernstein's inequality).
_BERNSTEIN_EXPONENT = 30.0


@dataclass(frozen=True, kw_only=True)
class MicroBatchShape:
    """Equal molecules, padded: the shape that needs the most memory.

    Attributes:
        molecules: in the micro-batch.
        num_atoms: of each.
    """

    molecules: int
    num_atoms: int

    @property
    def pairs(self) -> int:
        """Padded pairs Σ(n+1)², virtual node included."""
        return self.molecules * (self.num_atoms + 1) ** 2


@dataclass(frozen=True, kw_only=True)
class RankMemory:
    """Bytes on the device of one rank, by part; what is offloaded stands in its host's memory instead.

    Attributes:
        weights: that the model computes with, as far as they are this rank's.
        gradients: accumulated ones.
        optimizer: fp32 master weights and both moments, or Muon's one.
        averages: fp32 averages of the weights, if the run keeps them.
        teacher: of a distillation, whole on every rank.
        buffers: of DeepSpeed's reductions.
        process: context and libraries.
        copy: of the state, while a checkpoint is written beside the next steps; a GPU's stands on its host.
        gathered: whole weights of the layers at work, under stage 3.
        activations: of the largest micro-batch, times those that are computed side by side.
        step: the optimizer's work space.
        host: what stands in the memory of the host: what is offloaded, and a GPU's ``copy``.
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
        """What is there all the time."""
        state = self.weights + self.gradients + self.optimizer + self.averages
        return state + self.teacher + self.buffers + self.process + self.copy

    @property
    def total(self) -> float:
        """At the peak: a micro-batch and the optimizer's step never need their memory at the same time."""
        return self.standing + max(self.gathered + self.activations, self.step)


def keeps_averages(config: PretrainConfig) -> bool:
    """Return whether a run keeps averages of its weights."""
    return config.train.ema_decay is not None


def checkpoint_bytes(config: PretrainConfig, parameters: int) -> int:
    """Return the size of one checkpoint: 12 bytes a parameter, 8 one of Muon's, 4 more with averages of the weights."""
    return optimizer_bytes(config, parameters) + parameters * AVERAGE_BYTES * keeps_averages(config)


def optimizer_bytes(config: PretrainConfig, parameters: int) -> int:
    """Return the bytes of the fp32 master weights and of the optimizer's states, of all ranks together."""
    muon = count_hidden(config.model, config.train.tracks_of_muon)
    return (parameters - muon) * OPTIMIZER_BYTES + muon * MUON_BYTES


def micro_batch_bytes(config: PretrainConfig, objective: Objective, shape: MicroBatchShape, *, cuda: bool) -> float:
    """Return what the activations of a micro-batch need at their peak."""
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
    """Return the micro-batch within ``data.max_pairs`` that needs the most memory of all that a step can bring.

    Pairs dominate, but small molecules have more atoms to a pair, so every size is tried. There are never more
    molecules of at most n atoms in a micro-batch than a step has, and no more than chance brings (Bernstein's bound,
    which is exceeded once in 10¹³ steps); where molecules are shuffled within windows of shards only, chance says
    nothing.

    Args:
        config: of the run.
        objective: its heads need memory too.
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
        # An epoch's end may bring a molecule a second time.
        count = min(config.data.pair_budget // (n + 1) ** 2, batch, chance, 2 * up_to)
        shape = MicroBatchShape(molecules=count, num_atoms=n)
        needed = micro_batch_bytes(config, objective, shape, cuda=cuda)
        if count and needed >= most:
            best, most = shape, needed
    # A budget that holds no molecule is refused when the data are opened; here it is what one would need.
    return best or MicroBatchShape(molecules=1, num_atoms=max(histogram))


def rank_memory(
    config: PretrainConfig,
    objective: Objective,
    shape: MicroBatchShape,
    *,
    world_size: int,
    cuda: bool,
) -> RankMemory:
    """Return what one rank's memory must hold.

    Args:
        config: of the run.
        objective: says which parameters there are.
        shape: of the largest micro-batch.
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
    if at_once > 1:  # micro-batches' own gradients, and their sum before it is DeepSpeed's
        gradients += (at_once + 1) * parameters * width
    optimizer = optimizer_bytes(config, parameters) * shares[0] / parameters
    averages = shares[0] * AVERAGE_BYTES * keeps_averages(config)
    # One state, cut among the ranks, whatever the stage.
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
        # Gradients become fp32, a sub-group at a time under stage 3; the fused AdamW needs nothing beside them.
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
    """Return the largest ``data.max_pairs`` whose micro-batches a rank's memory holds, whatever the configuration says.

    Args:
        config: of the run.
        objective: of the run.
        histogram: atoms → molecules of the training split.
        capacity: bytes of the device.
        world_size: ranks that share what the ZeRO stage shares.
        cuda: whether the device is a GPU.
        margin: share of the device that stays free.

    Returns:
        It, to two digits, or the whole batch; None: not even one molecule fits.
    """
    # Of any micro-batch: what is in memory beside it is the same.
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
    """Return the bytes that Muon's matrices need beside the state while they are moved."""
    muon = count_hidden(config.model, config.train.tracks_of_muon)
    if not muon:
        return 0.0
    a_round = min(ROUND_ELEMENTS * world_size, muon)
    # Under stage 0, every rank gets the whole round back.
    whole = 2 * a_round if config.zero.stage == 0 else 0
    return float((_MUON_COPIES * a_round / world_size + whole) * value_bytes(config))


def _elements(zero: Mapping[str, Any], key: str) -> float:
    return float(zero.get(key, _DEEPSPEED_DEFAULTS[key]))


def _is_offloaded(zero: Mapping[str, Any], key: str) -> bool:
    return bool(zero.get(key, {}).get("device", "none") != "none")


def _buffer_bytes(zero: Mapping[str, Any], parameters: int, width: int, *, cuda: bool) -> float:
    """Return the bytes of the buckets that gradients are reduced in.

    Stages 1 to 3 allocate whole buckets, however small the model; a CPU's pages count only once they are touched.
    """
    bucket = _elements(zero, "reduce_bucket_size")
    touched = min(bucket, parameters)
    if int(zero["stage"]) == 0:
        return touched * width
    allocated = bucket if cuda else touched
    if int(zero["stage"]) == 3:
        return (allocated + touched) * width  # the second is what a reduction scatters from
    return allocated * width * (2 if zero.get("overlap_comm") else 1)
