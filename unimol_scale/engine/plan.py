"""What a run would be, said before it starts: parameters by group, memory by part, steps and FLOPs."""

from functools import partial

import torch

from unimol_scale.data.dataset import open_store_of
from unimol_scale.engine.learning import objective_of
from unimol_scale.engine.run_config import PretrainConfig
from unimol_scale.model.accounting import (
    ParameterCount,
    activation_bytes,
    mean_flops,
    memory_per_rank,
)

GIB = 2.0**30


def build_on_meta(config: PretrainConfig) -> ParameterCount:
    """Build the whole model without memory and return its parameters by group.

    The count must equal the accounting's, group by group summed; anything else is a defect of one of the two.
    """
    objective = objective_of(config)
    with torch.device("meta"):
        model = objective.build_model(config.model)
    total = sum(parameter.numel() for parameter in model.parameters())
    count = objective.count_parameters(config.model)
    assert total == count.total, f"the model has {total} parameters, accounting says {count.total}"
    return count


def describe(config: PretrainConfig, world_size: int) -> str:
    """Return the plan of a run as text.

    Raises:
        StoreError: the store is missing or unfinished.
    """
    count = build_on_meta(config)
    lines = [f"{config.name}: size {config.size}, objective {config.objective.name}, {world_size} ranks", ""]
    lines += _parameter_lines(count)
    histogram = {int(n): rows for n, rows in open_store_of(config.data).manifest.splits["train"].size_histogram.items()}
    lines += ["", *_memory_lines(config, count, world_size, max(histogram))]
    molecules = sum(histogram.values())
    train = config.train
    flops = mean_flops(partial(objective_of(config).training_flops, config.model), histogram)
    mean_atoms = sum(n * rows for n, rows in histogram.items()) / molecules
    seen = train.steps * train.global_batch_size
    lines += [
        "",
        "steps",
        f"  {'store':<24}{config.data.path}: {molecules:,} molecules, {mean_atoms:.1f} atoms on average",
        f"  {'steps':<24}{train.steps:,} of {train.global_batch_size:,} molecules = {seen / molecules:,.1f} epochs",
        f"  {'warm-up':<24}{train.warmup_steps:,} steps to {train.learning_rate:g}, then {train.schedule}",
        f"  {'FLOPs per step':<24}{flops * train.global_batch_size:.3e}",
        f"  {'FLOPs in all':<24}{flops * seen:.3e}",
    ]
    return "\n".join(lines)


def _parameter_lines(count: ParameterCount) -> list[str]:
    return ["parameters", *(f"  {name.replace('_', ' '):<24}{value:>15,}" for name, value in count.as_dict().items())]


def _memory_lines(config: PretrainConfig, count: ParameterCount, world_size: int, largest: int) -> list[str]:
    bf16 = config.train.precision == "bf16"
    molecules = max(1, config.data.max_pairs // (largest + 1) ** 2)
    memory = memory_per_rank(
        count.total,
        world_size=world_size,
        zero_stage=config.zero.stage,
        bf16=bf16,
        activations=activation_bytes(config.model, molecules, largest, 2 if bf16 else 4),
    )
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "activations": memory.activations,
        "total": memory.total,
    }
    title = f"memory per rank, ZeRO stage {config.zero.stage}, {config.train.precision}, estimated"
    note = f"  (activations: {molecules} molecules of {largest} atoms, {config.data.max_pairs:,} padded pairs)"
    return [title, *(f"  {name:<24}{value / GIB:>12.2f} GiB" for name, value in parts.items()), note]
