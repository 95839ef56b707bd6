"""A plan of a fine-tuning in words."""

from unimol_scale.common.units import byte_size, counted, duration, engineering
from unimol_scale.downstream.finetuning.planning.finetune_plan import FinetunePlan
from unimol_scale.engine.planning.rank_memory import MARGIN


def describe_plan(plan: FinetunePlan) -> list[str]:
    """Return the lines that ``finetune --plan`` prints."""
    counts, memory = plan.counts, plan.memory
    train, valid, every = plan.rows
    parts = (
        ("weights", memory.weights),
        ("gradients", memory.gradients),
        ("optimizer", memory.optimizer),
        ("activations", memory.activations),
        ("libraries", memory.process),
    )
    listed = ", ".join(f"{name} {byte_size(size)}" for name, size in parts if size)
    return [
        f"trained: {engineering(counts.all_trained)} of {engineering(counts.backbone + counts.head)} parameters",
        f"memory: {byte_size(memory.total)} ({listed}), by arithmetic",
        f"micro-batches of up to {plan.max_pairs:,} pairs in {plan.precision}; the largest: "
        f"{counted(plan.shape.molecules, 'molecule')} of {plan.shape.num_atoms} atoms",
        _judgement(plan),
        f"rows: {train:,} train, {valid:,} valid, {every:,} used",
        _time(plan),
    ]


def _judgement(plan: FinetunePlan) -> str:
    """Return a line that says whether the fine-tuning fits on the device, and what to do if it does not."""
    if plan.capacity is None:
        return f"{plan.device}: the size of its memory is unknown"
    size = f"{plan.device} ({byte_size(plan.capacity)}, of which {MARGIN:.0%} stay free)"
    if plan.fits:
        return f"it fits on {size}"
    if plan.fitting is not None:
        return f"it does NOT fit on {size}; with train.max_pairs={plan.fitting} it does"
    remedies = "train.precision=bf16, --lora 8, train.trained_layers=2, or --probe linear"
    return f"it does NOT fit on {size}, whatever train.max_pairs is: try {remedies}"


def _time(plan: FinetunePlan) -> str:
    if plan.is_probe:
        return f"time: about {duration(plan.seconds)} for the vectors of all rows, and seconds for each head"
    kept, tried = plan.trainings
    searched = f" and {tried} of the search" if tried else ""
    return (
        f"time: about {duration(plan.epoch_seconds)} per epoch; at most {duration(plan.seconds)} for "
        f"{counted(kept, 'training')}{searched} of {plan.epochs} epochs, less if they stop early; conformers, "
        "baselines and the report take additional time"
    )
