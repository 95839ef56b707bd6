"""Reads the file of a ladder of training runs, and lists its runs. Imports no torch."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from unimol_scale.common.run_files import DECAY_FRACTION, decay_start
from unimol_scale.common.text.json_files import read_json
from unimol_scale.common.trees import flatten
from unimol_scale.config import build, read_yaml
from unimol_scale.errors import ConfigError, nearest
from unimol_scale.scaling.ladder.ladder_rates import DIGITS as RATE_DIGITS
from unimol_scale.scaling.ladder.ladder_rates import LadderRates
from unimol_scale.scaling.ladder.objective_count import ModelCounter, count_model

Launcher = Literal["deepspeed", "python"]
RESERVED = ("seed", "train.steps")
STEPS, SCHEDULE, KEEP_STEPS, BRANCH_FROM = "train.steps", "train.schedule", "train.keep_steps", "branch_from"
RATE, BATCH_SIZE = "train.learning_rate", "train.global_batch_size"
WARMUP = "train.warmup_steps"
DECAY = ("train.decay_fraction", "train.decay_shape")  # settings that a trunk does not have
# Options that make an array task stop, save and be requeued, and that say where it writes.
SLURM_RESERVED = ("array", "chdir", "job-name", "ntasks", "nodes", "open-mode", "output", "requeue", "signal")
BUDGETS = ("steps", "molecules", "flops")
MANIFEST = "manifest.json"  # file of a conformer store; its size histogram converts FLOPs into molecules


@dataclass(frozen=True, kw_only=True)
class LadderConfig:
    """A ladder: every size × every budget × every seed.

    Attributes:
        name: first part of the name of every run.
        data: directory or URL of the conformer store.
        sizes: names of presets, usually smallest first.
        steps: budgets in optimiser steps; give exactly one of ``steps``, ``molecules`` and ``flops``.
        molecules: budgets in molecules seen, rounded up to whole steps of the ``train.global_batch_size`` in
            ``overrides``.
        flops: budgets in training FLOPs, so that a larger model does fewer steps; they are converted to steps with the
            computed FLOPs of the model for the molecules of the store.
        warmup: fraction of a run's steps in which its learning rate rises, for ladders of several budgets; None uses
            ``train.warmup_steps`` of ``overrides``. Trunks warm up only once, so with them it is a fraction of the
            smallest budget.
        schedule: ``wsd`` trains one trunk at a constant learning rate for each size and seed, and every budget is a
            decay that branches off it (``train.decay_fraction`` and ``train.decay_shape`` of ``overrides``). None:
            every run does all its steps itself, with ``train.schedule`` of ``overrides``.
        rate_law: law.json of ``fit-scaling-law --rates``, which sets the ``train.learning_rate`` of every run by size,
            data and batch size; None uses that of ``overrides``.
        trunk_rate: amount of data for which ``rate_law`` sets the one rate of a trunk and its branches: that of the
            ``longest`` branch, or ``middle``, the geometric mean of the shortest and the longest.
        rate_factors: makes a sweep for ``fit-scaling-law --rates``: every run is done once per factor, with its
            ``train.learning_rate`` times the factor. Empty: the rate as it is.
        batch_sizes: makes a sweep over ``train.global_batch_size``. Empty: that of ``overrides``.
        seeds: seeds of initialisation and molecule order.
        objective: denoise, blend, distill, or package.module:Class for one of your own.
        output: folder for all run folders and logs/.
        launcher: "deepspeed" starts ``ranks`` processes; "python" a single one.
        ranks: processes of a run, one for each GPU or part of the CPU.
        runs_at_once: runs that are trained at the same time, and share the cores; a branch waits for its trunk. 0: one
            for each core as far as memory allows, which is fastest for models up to some millions of parameters on a
            CPU, and 1 on a machine with a GPU.
        script: a pretraining command of your own, relative to where the ladder is started; None: ``unimol-scale
            pretrain`` of this installation.
        overrides: further settings of every run, as pretrain takes them (nested or with dots).
        size_overrides: size → settings of its runs, which take precedence over ``overrides``.
        slurm: options of sbatch for ``ladder --slurm``, added to the defaults of slurm.py; an empty value removes one.
    """

    name: str
    data: Path
    sizes: tuple[str, ...]
    steps: tuple[int, ...] = ()
    molecules: tuple[int, ...] = ()
    flops: tuple[float, ...] = ()
    warmup: float | None = None
    schedule: Literal["wsd"] | None = None
    rate_law: Path | None = None
    trunk_rate: Literal["longest", "middle"] = "longest"
    rate_factors: tuple[float, ...] = ()
    batch_sizes: tuple[int, ...] = ()
    seeds: tuple[int, ...] = (0,)
    objective: str = "denoise"
    output: Path = Path("runs")
    launcher: Launcher = "deepspeed"
    ranks: int = 1
    runs_at_once: int = 1
    script: Path | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    size_overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    slurm: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.name or "/" in self.name:
            raise ConfigError(f"name must be a plain word, it names folders; got {self.name!r}")
        for key in ("sizes", "seeds"):
            values = getattr(self, key)
            if not values or len(set(values)) != len(values):
                raise ConfigError(f"{key} must be a list without repeats, got {list(values)}")
        for key in ("rate_factors", "batch_sizes"):
            values = getattr(self, key)
            if len(set(values)) != len(values) or any(not 0 < value < math.inf for value in values):
                raise ConfigError(f"{key} must be positive and without repeats, got {list(values)}")
        if self.trunk_rate != "longest" and (self.rate_law is None or self.schedule != "wsd"):
            raise ConfigError("trunk_rate applies only with rate_law and schedule: wsd; leave it out")
        if self.rate_factors and self.rate_law is not None:
            raise ConfigError(
                "rate_factors searches for the best rates, but rate_law sets them: leave out one of the two"
            )
        self._check_budgets()
        self._check_overrides()
        if self.ranks < 1 or (self.launcher == "python" and self.ranks != 1):
            raise ConfigError(f"ranks must be at least 1, and 1 with the launcher python; got {self.ranks}")
        if self.runs_at_once < 0:
            raise ConfigError(
                f"runs_at_once must be at least 0, which means one for each core; got {self.runs_at_once}"
            )

    def _check_budgets(self) -> None:
        given = [key for key in BUDGETS if getattr(self, key)]
        if len(given) != 1:
            raise ConfigError(f"give the budgets in one of {', '.join(BUDGETS)}; got {' and '.join(given) or 'none'}")
        budgets = getattr(self, given[0])
        if not all(1 <= budget < math.inf for budget in budgets) or len(set(budgets)) != len(budgets):
            raise ConfigError(f"budgets must be positive and without repeats, got {list(budgets)}")
        if self.warmup is not None and not 0.0 <= self.warmup < 1.0:
            raise ConfigError(f"warmup must be a fraction of the steps, at least 0 and below 1; got {self.warmup}")

    def _check_overrides(self) -> None:
        for key in self.slurm:
            if key in SLURM_RESERVED:
                raise ConfigError(f"slurm: {key} is set by the ladder itself")
        for size in self.size_overrides:
            if size not in self.sizes:
                raise ConfigError(f"size_overrides: {size!r} is not a size of this ladder; {nearest(size, self.sizes)}")
        reserved = [*RESERVED, *([WARMUP] if self.warmup is not None else [])]
        reserved += [BATCH_SIZE] if self.batch_sizes else []
        reserved += [SCHEDULE, KEEP_STEPS, BRANCH_FROM] if self.schedule is not None else []
        for key in reserved:
            if any(key in flatten(tree) for tree in (self.overrides, *self.size_overrides.values())):
                raise ConfigError(
                    f"overrides: {key} is set by the ladder itself, from seeds, budgets, batches, warmup and schedule"
                )


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One run of a ladder.

    Attributes:
        name: name of the run.
        size: preset.
        steps: optimiser steps, including those of the trunk for a branch.
        seed: seed of the run.
        folder: folder of the run.
        overrides: all its settings by dotted path, including seed and steps.
        trunk: name of the run that it branches off; None: it does all its steps itself.
        begins: number of steps that the trunk does for it.
        is_trunk: whether branches start from it.
        rate_notes: how far its learning rate is extrapolated, if a law sets it.
    """

    name: str
    size: str
    steps: int
    seed: int
    folder: Path
    overrides: Mapping[str, Any]
    trunk: str | None = None
    begins: int = 0
    is_trunk: bool = False
    rate_notes: tuple[str, ...] = ()


def read_ladder(path: Path) -> LadderConfig:
    """Read and check a ladder file.

    Raises:
        ConfigError: a key or value is wrong.
    """
    tree, origin = read_yaml(path)
    return build(LadderConfig, tree, origin)


def plan(config: LadderConfig, counter: ModelCounter | None = None) -> list[Rung]:
    """Return every run of the ladder, smallest budget first within a size, and a trunk before its branches.

    Args:
        config: the ladder.
        counter: counts for objectives other than denoise; needed only for ``flops`` and ``rate_law``.

    Raises:
        ConfigError: a size is unknown, a budget in molecules or FLOPs cannot be converted into steps, two budgets give
            the same number of steps, or the file of ``rate_law`` contains no law.
    """
    # Imported here, since only planning needs the presets.
    from unimol_scale.model.presets import PRESETS

    rungs = []
    for size in config.sizes:
        if size not in PRESETS:
            raise ConfigError(f"sizes: unknown size {size!r}; {nearest(size, PRESETS)}")
        settings = {**flatten(config.overrides), **flatten(config.size_overrides.get(size, {}))}
        for variant, swept in _variants(config, size, settings):
            budgets = _budgets(config, size, swept, counter)
            if config.schedule == "wsd":
                for seed in config.seeds:
                    rungs += _trunk_and_branches(config, size, swept, budgets, seed, variant)
                continue
            for steps in budgets:
                rungs += [_whole_run(config, size, swept, steps, seed, variant) for seed in config.seeds]
    twice = [name for name, times in Counter(rung.name for rung in rungs).items() if times > 1]
    if twice:
        raise ConfigError(f"two runs of the sweep would be called {twice[0]}; use factors that lie further apart")
    return rungs if config.rate_law is None else _with_rates(config, config.rate_law, rungs, counter)


def _variants(config: LadderConfig, size: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and settings of each variant of the sweeps; without sweeps, one variant whose name is empty."""
    rates: list[dict[str, float]] = [{}]
    if config.rate_factors:
        rate = settings.get(RATE)
        if not isinstance(rate, int | float):
            raise ConfigError(f"rate_factors: {size} needs a {RATE} in overrides, which the factors multiply")
        rates = [{RATE: float(f"{factor * rate:.{RATE_DIGITS}g}")} for factor in config.rate_factors]
    for swept_rate in rates:
        for batch in config.batch_sizes or (None,):
            swept = {**swept_rate, **({} if batch is None else {BATCH_SIZE: batch})}
            name = "".join((f"-lr{swept[RATE]:g}" if RATE in swept else "", "" if batch is None else f"-batch{batch}"))
            yield name, {**settings, **swept}


def _with_rates(config: LadderConfig, law: Path, rungs: Sequence[Rung], counter: ModelCounter | None) -> list[Rung]:
    """Return the runs with the learning rates of a law; branches get that of their trunk."""
    rates = LadderRates(law)
    of_trunk = {size: _trunk_steps(config, rungs, size) for size in config.sizes if config.schedule == "wsd"}
    found = []
    for rung in rungs:
        count = count_model(rung.size, rung.overrides, config.objective, counter, "rate_law")
        steps = of_trunk.get(rung.size, rung.steps)
        rate, beyond = rates.setting(rung.size, rung.overrides, steps, count)
        found.append(replace(rung, overrides={**rung.overrides, **rate}, rate_notes=beyond))
    return found


def _trunk_steps(config: LadderConfig, rungs: Sequence[Rung], size: str) -> int:
    """Return the number of steps for which the rate of a size's trunk is set."""
    branches = [rung.steps for rung in rungs if rung.size == size and not rung.is_trunk]
    longest = max(branches)
    return longest if config.trunk_rate == "longest" else round(math.sqrt(min(branches) * longest))


def _whole_run(
    config: LadderConfig, size: str, settings: Mapping[str, Any], steps: int, seed: int, variant: str
) -> Rung:
    name = f"{config.name}-{size}-{steps}steps{variant}-seed{seed}"
    overrides = {**settings, STEPS: steps, "seed": seed, **_warmup(config, steps)}
    return Rung(name=name, size=size, steps=steps, seed=seed, folder=config.output / name, overrides=overrides)


def _warmup(config: LadderConfig, steps: int) -> dict[str, int]:
    return {} if config.warmup is None else {WARMUP: round(config.warmup * steps)}


def _trunk_and_branches(
    config: LadderConfig, size: str, settings: Mapping[str, Any], budgets: Sequence[int], seed: int, variant: str
) -> list[Rung]:
    """Return the trunk of a size and seed, which ends where its longest branch begins, and a branch for each budget."""
    fraction = settings.get("train.decay_fraction", DECAY_FRACTION)
    if not isinstance(fraction, int | float) or not 0.0 < fraction < 1.0:
        raise ConfigError(f"overrides: train.decay_fraction of {size} must be between 0 and 1, got {fraction!r}")
    begins = [decay_start(steps, fraction) for steps in budgets]
    shared = {**_warmup(config, min(budgets)), "seed": seed}
    warmup = {**settings, **shared}.get(WARMUP, 1)
    if begins[0] < max(warmup, 1):
        raise ConfigError(
            f"the smallest budget of {size}, {budgets[0]} steps, starts to decay after step {begins[0]}, before its "
            f"warm-up of {warmup} steps is over; lower {WARMUP} or train.decay_fraction, or leave out that budget"
        )
    name = f"{config.name}-{size}-trunk{variant}-seed{seed}"
    trunk = Rung(
        name=name, size=size, steps=begins[-1], seed=seed, folder=config.output / name, is_trunk=True,
        overrides={
            **{key: value for key, value in settings.items() if key not in DECAY}, **shared,
            STEPS: begins[-1], SCHEDULE: "constant", KEEP_STEPS: sorted(set(begins)),
        },
    )  # fmt: skip
    branches = [_whole_run(config, size, settings, steps, seed, variant) for steps in budgets]
    off = {SCHEDULE: "wsd", BRANCH_FROM: str(trunk.folder)}
    return [
        trunk,
        *(
            replace(branch, trunk=name, begins=begin, overrides={**branch.overrides, **shared, **off})
            for branch, begin in zip(branches, begins, strict=True)
        ),
    ]


def _budgets(config: LadderConfig, size: str, settings: Mapping[str, Any], counter: ModelCounter | None) -> list[int]:
    if config.steps:
        return sorted(config.steps)
    batch_size = settings.get(BATCH_SIZE)
    if not isinstance(batch_size, int) or batch_size < 1:
        unit = "molecules" if config.molecules else "flops"
        raise ConfigError(f"{unit}: {size} needs a {BATCH_SIZE} in overrides to turn them into steps")
    molecules: list[float] = list(config.molecules)
    if config.flops:
        from unimol_scale.model.accounting import mean_flops

        count = count_model(size, settings, config.objective, counter, "flops")
        per_molecule = mean_flops(count.training_flops, _histogram(config.data))
        molecules = [flops / per_molecule for flops in config.flops]
    steps = sorted(math.ceil(count / batch_size) for count in molecules)
    twice = [count for count, times in Counter(steps).items() if times > 1]
    if twice:
        raise ConfigError(f"two budgets are the same number of steps of {size}: {twice[0]}; remove one of them")
    return steps


def _histogram(store: Path) -> dict[int, int]:
    """Return atoms → molecules of a store's training split."""
    path = store / MANIFEST
    try:
        tree = read_json(path)
        return {int(atoms): int(count) for atoms, count in tree["splits"]["train"]["size_histogram"].items()}
    except OSError as error:
        raise ConfigError(
            f"flops: budgets in FLOPs need the sizes of the molecules, and {path} cannot be read: {error.strerror}"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"flops: {path} holds no size histogram of a training split") from error
