"""What a run would be, said before it starts: one screen of aligned columns."""

from collections.abc import Iterable

from unimol_scale.data.dataset import open_store_of
from unimol_scale.engine.devices import Target, target_here
from unimol_scale.engine.learning import objective_of
from unimol_scale.engine.memory import MARGIN
from unimol_scale.engine.planning import Plan, plan_run
from unimol_scale.engine.run_config import PretrainConfig

GIB = 2.0**30
_LABEL, _VALUE = 22, 16
_PREFIXES = ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
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
    return render(plan_of(config, world_size, target_here(config.train.precision)), config)


def plan_of(config: PretrainConfig, world_size: int, target: Target) -> Plan:
    """Return the plan of a run on given devices.

    Raises:
        StoreError: the store is missing or unfinished.
        ConfigError: the settings do not fit the store or the number of ranks.
    """
    entry = open_store_of(config.data).manifest.splits["train"]
    histogram = {int(n): rows for n, rows in entry.size_histogram.items()}
    return plan_run(config, objective_of(config), histogram, world_size=world_size, target=target)


def render(plan: Plan, config: PretrainConfig) -> str:
    """Return a plan as text.

    Args:
        plan: what is said.
        config: that it was made from.
    """
    title = f"{plan.name}: size {plan.size}, objective {plan.objective}, {_counted(plan.world_size, 'rank')}"
    sections = [
        [f"{title}, {plan.precision}, ZeRO stage {plan.zero_stage}"],
        _parameters(plan),
        _memory(plan, config),
        _steps(plan, config),
        _cost(plan),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections)


def _parameters(plan: Plan) -> list[str]:
    total = plan.parameters["total"]
    rows = [(name.replace("_", " "), f"{count:,}", f"{count / total:6.1%}") for name, count in plan.parameters.items()]
    return ["parameters", *_table(rows)]


def _memory(plan: Plan, config: PretrainConfig) -> list[str]:
    memory, shape, capacity = plan.memory, plan.shape, plan.target.memory
    notes = {"activations": f"{shape.molecules} × {shape.num_atoms} atoms = {shape.pairs:,} padded pairs"}
    rows = [
        (label, _gib(getattr(memory, part)), notes.get(part, ""))
        for part, label in _PARTS.items()
        if getattr(memory, part) or part in ("weights", "gradients", "optimizer", "activations")
    ]
    if memory.step > memory.gathered + memory.activations:
        rows.append(("optimizer's step", _gib(memory.step), "after the activations are gone; the larger counts"))
    rows.append(("total at the peak", _gib(memory.total), _judgement(plan)))
    if memory.host:
        rows.append(("on the host", _gib(memory.host), "a rank: what is offloaded, and the copy while saving"))
    lines = [f"memory of a rank ({plan.target.name}), estimated", *_table(rows)]
    if capacity is None:
        return lines
    if plan.fit.max_pairs is not None:
        current = f"it is {config.data.max_pairs:,}"
        lines += _table([("largest that fits", f"data.max_pairs={plan.fit.max_pairs}", current)])
    elif plan.fit.remedies:
        lines += [f"  nothing fits as it is; what would: {', or '.join(plan.fit.remedies)}"]
    else:
        lines += ["  nothing fits, whatever the stage and the number of ranks: take larger devices or a smaller --size"]
    return lines


def _judgement(plan: Plan) -> str:
    capacity, total = plan.target.memory, plan.memory.total
    if capacity is None:
        return "how much there is is not known"
    free = capacity - total
    if plan.fit.fits:
        return f"of {capacity / GIB:.1f} GiB: {free / capacity:.0%} free"
    if free >= 0:
        return f"of {capacity / GIB:.1f} GiB: {free / capacity:.0%} free, less than a margin of {MARGIN:.0%}"
    return f"of {capacity / GIB:.1f} GiB: TOO MUCH by {-free / GIB:.1f} GiB"


def _steps(plan: Plan, config: PretrainConfig) -> list[str]:
    data, steps, train = plan.data, plan.steps, config.train
    store = f"molecules of {data.mean_atoms:.1f} atoms, at most {data.largest}, in {data.path}"
    rows = [
        ("store", f"{data.molecules:,}", store),
        ("steps", f"{steps.steps:,}", f"of {steps.batch:,} molecules = {steps.epochs:,.1f} epochs"),
        ("warm-up", f"{train.warmup_steps:,}", f"steps to {train.learning_rate:g}, then {train.schedule}"),
        (
            "micro-batches",
            f"{steps.micro_batches:.1f}",
            f"a rank and step; {steps.padding:.1%} of their pairs are padding, {steps.waiting:.1%} of time is waiting",
        ),
    ]  # fmt: skip
    return ["steps", *_table(rows, gap=1)]


def _cost(plan: Plan) -> list[str]:
    compute, target = plan.compute, plan.target
    peak = f"at {target.mfu:.0%} of {_short(target.peak_flops)}FLOP/s a rank"
    each = "GPU" if target.is_gpu else "rank"
    kept = plan.checkpoints_kept
    rows = [
        ("FLOPs per step", _short(compute.flops_per_step) + "FLOP", f"{_duration(compute.seconds_per_step)} {peak}"),
        ("FLOPs in all", _short(compute.flops) + "FLOP", f"{compute.flops:.3e}"),
        ("time", _duration(compute.days * 86_400), f"{compute.device_hours:,.1f} {each}-hours"),
        (
            "checkpoint",
            _gib(plan.checkpoint_bytes),
            f"at most {kept} at a time: {plan.checkpoint_bytes * kept / GIB:.2f} GiB of disk",
        ),
    ]
    return ["cost", *_table(rows)]


def _table(rows: Iterable[tuple[str, str, str]], gap: int = 2) -> list[str]:
    return [f"  {label:<{_LABEL}}{value:>{_VALUE}}{' ' * gap}{note}".rstrip() for label, value, note in rows]


def _gib(value: float) -> str:
    return f"{value / GIB:.2f} GiB"


def _short(value: float) -> str:
    """Return a number with three digits and the prefix of its unit."""
    scale, prefix = next(((s, p) for s, p in _PREFIXES if value >= s), (1.0, ""))
    return f"{value / scale:.3g} {prefix}"


def _duration(seconds: float) -> str:
    for size, unit in ((86_400.0, "days"), (3600.0, "h"), (60.0, "min"), (1.0, "s")):
        if seconds >= 2 * size or unit == "s":
            return f"{seconds / size:,.1f} {unit}" if seconds >= 0.1 else f"{seconds * 1e3:.2g} ms"
    raise AssertionError("seconds are the last resort")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
