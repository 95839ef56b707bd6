"""Writes a plan as text: one screen of aligned columns."""

import textwrap
from collections.abc import Iterable
from typing import Any

from unimol_scale.common.units import GIB, SECONDS_A_DAY, byte_size, counted, duration, prefixed
from unimol_scale.config import to_tree
from unimol_scale.data.dataset import open_store_of
from unimol_scale.engine.objective_setup import objective_of
from unimol_scale.engine.planning.accelerators import Target, target_here
from unimol_scale.engine.planning.corruption_check import check_own_objective
from unimol_scale.engine.planning.max_pairs import with_max_pairs_used, with_stage_used
from unimol_scale.engine.planning.plan import Plan, StageOption, plan_run
from unimol_scale.engine.planning.plan_advice import advice_on, assumptions_of, warnings_of
from unimol_scale.engine.planning.rank_memory import MARGIN
from unimol_scale.engine.run.run_config import PretrainConfig
from unimol_scale.engine.run.train_config import TrainConfig

_LABEL, _VALUE, _WIDTH = 22, 16, 116
# Large enough that size statistics equal those of a large library.
_ASSUMED_MOLECULES = 10**9
_BOUNDS = {
    "compute": "matrix products",
    "memory traffic": "memory traffic",
    "host": "the host (kernel launches)",
    "network": "the network",
}
_PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "averages": "averaged weights",
    "teacher": "teacher",
    "buffers": "reduction buffers",
    "process": "context, libraries",
    "copy": "copy while saving",
    "gathered": "gathered weights",
    "activations": "activations",
}


def describe(config: PretrainConfig, world_size: int) -> str:
    """Return the plan of a run on the devices of this machine as text.

    Raises:
        StoreError: the store is missing or unfinished.
        ConfigError: the settings do not fit the store or the number of ranks.
    """
    config = with_max_pairs_used(with_stage_used(config))
    return render(plan_of(config, world_size, target_here(config.train.precision)), config)


NO_STORE = "(none)"  # data.path of a run whose molecules are assumed


def plan_of(config: PretrainConfig, world_size: int, target: Target, atoms: int | None = None) -> Plan:
    """Return the plan of a run on given devices.

    Args:
        config: configuration of the run.
        world_size: number of ranks.
        target: device of each rank.
        atoms: mean size of molecules to assume instead of those of a store.

    Raises:
        StoreError: the store is missing or unfinished.
        ConfigError: the settings do not fit the store or the number of ranks.
    """
    if atoms is not None:
        histogram = assumed_sizes(atoms)
    else:
        entry = open_store_of(config.data).manifest.splits["train"]
        histogram = {int(n): rows for n, rows in entry.size_histogram.items()}
    assumed = atoms is not None
    objective = objective_of(config)
    check_own_objective(objective, config)
    return plan_run(config, objective, histogram, world_size=world_size, target=target, assumed=assumed)


def assumed_sizes(atoms: int) -> dict[int, int]:
    """Return atoms → molecules for a library of a given mean size: from half to one and a half times it, peaked at it.

    The spread is about a fifth of the mean, as for drug-like molecules.
    """
    reach = atoms // 2
    return {atoms + k: _ASSUMED_MOLECULES * (reach + 1 - abs(k)) // (reach + 1) ** 2 for k in range(-reach, reach + 1)}


def as_json(plan: Plan) -> dict[str, Any]:
    """Return everything in a plan as one tree."""
    tree: dict[str, Any] = to_tree(plan)
    tree["memory"]["total"] = plan.memory.total
    tree["assumptions"], tree["warnings"], tree["advice"] = assumptions_of(plan), warnings_of(plan), advice_on(plan)
    return tree


def render(plan: Plan, config: PretrainConfig) -> str:
    """Return a plan as text.

    Args:
        plan: the plan.
        config: the configuration that it was made from.
    """
    title = f"{plan.name}: size {plan.size}, objective {plan.objective}, {counted(plan.world_size, 'rank')}"
    optimizer = f", {plan.optimizer}" if plan.muon_share else ""
    chosen = " (chosen)" if plan.zero_stage_chosen else ""
    sections = [
        [f"{title}, {plan.precision}, ZeRO stage {plan.zero_stage}{chosen}{optimizer}", _summary(plan)],
        _memory(plan),
        _steps(plan, config),
        _time(plan, config),
        _stages(plan),
        [*_cost(plan), *_parameters(plan)],
        [_wrapped(text) for text in assumptions_of(plan)]
        + [_wrapped(f"WARNING: {text}") for text in warnings_of(plan)]
        + [_wrapped(text) for text in advice_on(plan)],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _summary(plan: Plan) -> str:
    device = counted(plan.world_size, "GPU" if plan.target.is_gpu else "CPU rank")
    days = duration(plan.compute.days * SECONDS_A_DAY)
    lead = "does not fit in memory; otherwise: " if plan.fit.fits is False else ""
    return f"  {lead}{days} on {device}, limited by {_BOUNDS[plan.time.bound]}; up to {_bytes(plan.disk_bytes)} of disk"


def _parameters(plan: Plan) -> list[str]:
    total = plan.parameters["total"]
    groups = [f"{name.replace('_', ' ')} {count / total:.1%}" for name, count in plan.parameters.items()]
    return _table([("parameters", f"{total:,}", ", ".join(groups[:-1]))])


def _memory(plan: Plan) -> list[str]:
    memory, shape, capacity = plan.memory, plan.shape, plan.target.memory
    share = f"with one state instead of two for the {plan.muon_share:.0%} of the parameters that Muon updates"
    notes = {
        "optimizer": share if plan.muon_share else "",
        "activations": f"{shape.molecules} × {shape.num_atoms} atoms = {shape.pairs:,} padded pairs",
    }
    rows = [
        (label, _bytes(getattr(memory, part)), notes.get(part, ""))
        for part, label in _PARTS.items()
        if getattr(memory, part) or part in ("weights", "gradients", "optimizer", "activations")
    ]
    if memory.step > memory.gathered + memory.activations:
        rows.append(("optimizer's step", _bytes(memory.step), "after the activations are freed; the larger counts"))
    rows.append(("total at the peak", _bytes(memory.total), _judgement(plan)))
    if memory.host:
        rows.append(("on the host", _bytes(memory.host), "per rank: offloaded state, and the copy while saving"))
    lines = [f"memory of a rank ({plan.target.name}), estimated", *_table(rows)]
    if capacity is None:
        return lines
    if plan.fit.max_pairs is not None:
        chosen = plan.max_pairs_chosen and plan.target.is_gpu
        how = "chosen to fit the memory" if chosen else "as set" if not plan.max_pairs_chosen else "the default"
        largest = f"{how}; the largest that fits is {plan.fit.max_pairs}"
        lines += _table([("micro-batch, at most", f"data.max_pairs={plan.max_pairs}", largest)])
    elif plan.fit.remedies:
        lines += [f"  does not fit as it is; any of these changes helps: {', or '.join(plan.fit.remedies)}"]
    else:
        lines += ["  does not fit at any stage or number of ranks: use larger devices or a smaller --size"]
    return lines


def _judgement(plan: Plan) -> str:
    capacity, total = plan.target.memory, plan.memory.total
    if capacity is None:
        return "the device's memory is unknown"
    free = capacity - total
    if plan.fit.fits:
        return f"of {capacity / GIB:.1f} GiB: {free / capacity:.0%} free"
    if free >= 0:
        return f"of {capacity / GIB:.1f} GiB: {free / capacity:.0%} free, less than the margin of {MARGIN:.0%}"
    return f"of {capacity / GIB:.1f} GiB: TOO MUCH by {-free / GIB:.1f} GiB"


def _steps(plan: Plan, config: PretrainConfig) -> list[str]:
    data, steps, train = plan.data, plan.steps, config.train
    sizes = f"molecules of {data.mean_atoms:.1f} atoms, at most {data.largest}"
    if data.path is None or data.molecules is None or steps.epochs is None:
        source, passes = ("molecules", "assumed", sizes), ""
    else:
        source, passes = ("store", f"{data.molecules:,}", f"{sizes}, in {data.path}"), f" = {steps.epochs:,.1f} epochs"
    rows = [
        source,
        ("steps", f"{steps.steps:,}", f"of {steps.batch:,} molecules{passes}{_with_trunk(config)}"),
        ("warm-up", f"{train.warmup_steps:,}", f"steps up to {train.learning_rate:g}, then {_schedule(train)}"),
        (
            "micro-batches",
            f"{steps.micro_batches:.1f}",
            f"per rank and step; {steps.padding:.1%} of their pairs are padding, {steps.waiting:.1%} of time is "
            "waiting",
        ),
    ]  # fmt: skip
    return ["steps", *_table(rows, gap=1)]


def _with_trunk(config: PretrainConfig) -> str:
    return "" if config.branch_from is None else f", including the {config.train.decay_start:,} of {config.branch_from}"


def _schedule(train: TrainConfig) -> str:
    return f"wsd, decaying after step {train.decay_start:,}" if train.schedule == "wsd" else train.schedule


def _time(plan: Plan, config: PretrainConfig) -> list[str]:
    time, target, steps = plan.time, plan.target, plan.steps
    kernels = "one CUDA graph" if config.train.cuda_graphs else f"{time.kernels:,.0f} kernels"
    products = f"matrix products at {prefixed(target.matmul_flops)}FLOP/s"
    notes = {
        "compute": products if target.mfu is None else f"at {target.mfu:.0%} of {prefixed(target.peak_flops)}FLOP/s",
        "memory traffic": f"all other kernels, at {prefixed(target.bandwidth)}B/s" if target.bandwidth else "",
        "host": f"{steps.micro_batches:.1f} micro-batches of {kernels}, "
        f"{time.host / steps.micro_batches * 1e3:.3g} ms each at stage {plan.zero_stage}",
        "network": "collectives, assumed to overlap with the rest",
    }
    seconds = {
        "compute": time.compute,
        "memory traffic": time.memory_traffic,
        "host": time.host,
        "network": time.network,
    }
    rows = [
        (part, duration(seconds[part]), note + ("  <- limits the step" if part == time.bound else ""))
        for part, note in notes.items()
        if seconds[part]
    ]
    whole = "the longest of device (the first two), host and network" if target.is_gpu else "all of these"
    return [f"time of a step ({target.name}), estimated", *_table([*rows, ("step", duration(time.seconds), whole)])]


def _stages(plan: Plan) -> list[str]:
    if plan.world_size == 1 or plan.target.memory is None:
        return []

    def told(option: StageOption) -> tuple[str, str, str]:
        days = duration(option.seconds_per_step * plan.steps.steps)
        name = f"stage {option.stage}" + (" (this run)" if option.stage == plan.zero_stage else "")
        need = f"{_bytes(option.memory)} per rank with data.max_pairs={option.max_pairs}"
        return name, days if option.fits else "does not fit", need

    return ["the run at each ZeRO stage", *_table(map(told, plan.stages))]


def _cost(plan: Plan) -> list[str]:
    compute = plan.compute
    each = "GPU" if plan.target.is_gpu else "rank"
    share = f"{compute.device_hours:,.1f} {each}-hours, {compute.mfu:.1%} of the peak"
    kept = f"{counted(plan.checkpoints_kept, 'checkpoint')} of {_bytes(plan.checkpoint_bytes)} and the exported model"
    rows = [
        ("FLOPs", f"{compute.flops:.3e}", f"{prefixed(compute.flops_per_step)}FLOP per step"),
        ("time", duration(compute.days * SECONDS_A_DAY), f"{share}, without validation and saving"),
        ("disk", _bytes(plan.disk_bytes), f"at most: {kept}"),
    ]
    return ["cost", *_table(rows)]


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="    "))


def _table(rows: Iterable[tuple[str, str, str]], gap: int = 2) -> list[str]:
    return [f"  {label:<{_LABEL}}{value:>{_VALUE}}{' ' * gap}{note}".rstrip() for label, value, note in rows]


def _bytes(count: float) -> str:
    """Format bytes for a column whose values are mostly in GiB."""
    return byte_size(count, digits=2, gib_from=0.01)
