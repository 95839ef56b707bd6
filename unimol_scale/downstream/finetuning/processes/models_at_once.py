"""Decides how many models of a fine-tuning are trained at the same time."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from unimol_scale.common.machine.memory import available_bytes
from unimol_scale.downstream.compute import pair_budget
from unimol_scale.downstream.finetuning.planning.needed_memory import count_trained, largest_shape, needed_memory
from unimol_scale.downstream.finetuning.problem.seed_problem import SeedProblem
from unimol_scale.errors import ConfigError
from unimol_scale.model.accounting import Heads, mean_flops, training_flops

# A process takes some seconds to start. Two cores take half a minute for so much work [measured].
_WORTH_FLOPS = 2e12
# Of the available memory, the part that the models may need together.
_MEMORY_SHARE = 0.5


def models_at_once(problems: Sequence[SeedProblem], cores: int) -> int:
    """Return how many of some models are to be trained at the same time.

    On a CPU small models are trained faster in processes of their own, with one core or a few each, than one after
    another with all cores. There are as many processes as cores, or up to half as many again if no core is then
    without work at the end, provided that memory suffices and that the work is worth the start of the processes.

    Args:
        problems: what each model is fitted to.
        cores: number of cores to compute with.

    Raises:
        ConfigError: the user asks for several models at a time, and several ranks share the training of each.
    """
    config, ranks, device = problems[0].config, problems[0].ranks, problems[0].device
    if config.models_at_once is not None and config.models_at_once > 1 and ranks is not None:
        raise ConfigError("models_at_once: ranks of torchrun share the training of each model, so leave it out")
    if ranks is not None or len(problems) == 1 or config.train.probe is not None:
        return 1
    if config.models_at_once is not None:
        return min(config.models_at_once, len(problems))
    if device.type != "cpu" or cores == 1:
        return 1
    flops, needed = _needs(problems[0])
    memory = available_bytes()
    if memory is None or flops * len(problems) < _WORTH_FLOPS:
        return 1
    rounds = max(1, len(problems) // cores)
    wanted = min(-(-len(problems) // rounds), cores + cores // 2)
    return max(1, min(wanted, int(memory * _MEMORY_SHARE / needed)))


def _needs(problem: SeedProblem) -> tuple[float, float]:
    """Return the FLOPs of training a model until it may stop early, and the memory that its process needs in bytes."""
    config, model, train = problem.config, problem.start.model, problem.split.train
    histogram = Counter(problem.reader(train).num_atoms(np.arange(len(train))).tolist())
    epochs = min(config.train.epochs, config.train.patience + 1)
    flops = mean_flops(lambda atoms: training_flops(model, atoms, Heads()), histogram) * len(train) * epochs
    shape = largest_shape(
        histogram, config.train.batch_size, pair_budget(config.train.max_pairs, problem.device, max(histogram))
    )
    counts = count_trained(config, model, problem.rows.outputs.num_logits)
    return flops, needed_memory(config, model, counts, shape, cuda=False).total
