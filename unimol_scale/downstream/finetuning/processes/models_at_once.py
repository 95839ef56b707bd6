"""Decides how many models of a fine-tuning are trained at the same time, and with how many threads each."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unimol_scale.common.machine.memory import available_bytes
from unimol_scale.common.machine.threads import threads_for
from unimol_scale.common.plugins import is_reference
from unimol_scale.downstream.compute import most_concurrent, pair_budget
from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.finetuning.planning.needed_memory import count_trained, largest_shape, needed_memory
from unimol_scale.downstream.finetuning.problem.seed_problem import SeedProblem
from unimol_scale.engine.parallel.ranks import Ranks
from unimol_scale.errors import ConfigError
from unimol_scale.model.accounting import Heads, count_parameters, mean_flops, training_flops

# A process takes some seconds to start. Two cores take half a minute for so much work [measured].
_WORTH_FLOPS = 2e12
# Of the available memory, the part that the models may need together.
_MEMORY_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The processes that fit models.

    Attributes:
        count: number of models that are trained at the same time; 0: they are trained here, one after another.
        threads: number of threads with which each model is trained.
    """

    count: int
    threads: int


def check_models_at_once(config: FinetuneConfig, ranks: Ranks | None) -> None:
    """Check whether several models can be trained at the same time, if the user asks for it.

    Raises:
        ConfigError: ranks share the training of each model, or the metric is known to this process only.
    """
    if config.models_at_once is None or config.models_at_once == 1:
        return
    if ranks is not None:
        raise ConfigError("models_at_once: ranks of torchrun share the training of each model, so leave it out")
    if _is_of_this_process(config.metric):
        raise ConfigError(
            f"models_at_once: other processes cannot import the metric {config.metric}; move it to a file of its own, "
            "or leave models_at_once out"
        )


def plan_processes(problems: Sequence[SeedProblem], missing: int, cores: int) -> Processes:
    """Return how many models are to be trained at the same time, and with how many threads each.

    On a CPU, small models are trained faster in processes of their own, with one core or a few each, than one after
    another with all cores. There are as many processes as cores, or up to half as many again if otherwise some cores
    had no work at the end; fewer if memory does not suffice.

    The threads of a model decide what dropout draws. They depend on the data, the settings and the cores, and not on
    the memory or on the models that are missing, so a fine-tuning that was interrupted gives the same models.

    Args:
        problems: what each of all models is fitted to.
        missing: number of models that have to be fitted.
        cores: number of cores to compute with.
    """
    config, device = problems[0].config, problems[0].device
    alone = Processes(count=0, threads=cores)
    if problems[0].ranks is not None or config.train.probe is not None or _is_of_this_process(config.metric):
        return alone
    if config.models_at_once == 1:
        return alone
    if config.models_at_once is not None:
        threads = max(1, cores // min(config.models_at_once, len(problems)))
        return Processes(count=min(config.models_at_once, missing), threads=threads)
    if device.type != "cpu" or cores == 1 or len(problems) == 1:
        return alone
    flops = _flops(problems[0])
    if flops * len(problems) < _WORTH_FLOPS:
        return alone
    parameters = count_parameters(problems[0].start.model, Heads()).total
    threads = min(-(-cores // min(len(problems), cores)), threads_for(parameters, cores))
    fitting = int(_memory() * _MEMORY_SHARE / _bytes_of_process(problems[0], threads))
    return Processes(count=max(1, min(_wanted(missing, cores), fitting)), threads=threads)


def _wanted(missing: int, cores: int) -> int:
    """Return the number of processes with which no core is without work at the end, or as many as cores."""
    rounds = max(1, missing // cores)
    wanted = -(-missing // rounds)
    return wanted if wanted <= cores + cores // 2 else cores


def _is_of_this_process(metric: str | None) -> bool:
    """Return whether a metric of the user's is in the program that runs, which another process does not import."""
    return metric is not None and is_reference(metric) and metric.startswith("__main__:")


def _memory() -> float:
    """Return the available memory in bytes; where the system does not say, half of what is installed."""
    available = available_bytes()
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2 if available is None else available


def _sizes(problem: SeedProblem) -> Counter[int]:
    """Return number of atoms → number of training molecules."""
    train = problem.split.train
    return Counter(problem.reader(train).num_atoms(np.arange(len(train))).tolist())


def _flops(problem: SeedProblem) -> float:
    """Return the FLOPs of training a model until it may stop early."""
    config, model, train = problem.config, problem.start.model, problem.split.train
    epochs = min(config.train.most_epochs, config.train.patience + 1)
    return mean_flops(lambda atoms: training_flops(model, atoms, Heads()), _sizes(problem)) * len(train) * epochs


def _bytes_of_process(problem: SeedProblem, threads: int) -> float:
    """Return the memory that a process needs, in bytes: of the model, and of a second copy of the starting weights."""
    config, model, histogram = problem.config, problem.start.model, _sizes(problem)
    pairs = pair_budget(config.train.max_pairs, problem.device, max(histogram))
    counts = count_trained(config, model, problem.rows.outputs.num_logits)
    shape = largest_shape(histogram, config.train.batch_size, pairs)
    one = needed_memory(config, model, counts, shape, cuda=False)
    side_by_side = most_concurrent(threads)
    return one.total + 4.0 * counts.backbone + (side_by_side - 1) * (one.activations + one.gradients)
