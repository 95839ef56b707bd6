"""A ladder of training runs: planned from one file, launched one after the other, resumed where it stopped.

Knows launch/pretrain.py by its command line and the run folder by its files only; imports no torch.
"""

import math
import os
import shlex
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from rich.table import Table

from unimol_scale.config import build, merge, parse_overrides, read_yaml
from unimol_scale.errors import ConfigError, RunError, nearest
from unimol_scale.scaling.process import run_group
from unimol_scale.scaling.records import RunRecord, read_run_folder

Launcher = Literal["deepspeed", "python"]
RESERVED = ("seed", "train.steps")


@dataclass(frozen=True, kw_only=True)
class LadderConfig:
    """A ladder: every size × every budget × every seed.

    Attributes:
        name: first part of the name of every run.
        data: the conformer store.
        sizes: names of presets, smallest first by habit.
        steps: budgets in optimiser steps; give these or ``molecules``.
        molecules: budgets in molecules seen; rounded up to whole steps of the ``train.global_batch_size`` override.
        seeds: of initialisation and order.
        objective: denoise, blend or distill.
        output: folder that receives one run folder each, and logs/.
        launcher: "deepspeed" starts ``ranks`` processes; "python" a single one.
        ranks: processes of a run, one a GPU or a share of the CPU.
        script: the pretraining command, relative to where the ladder is started.
        overrides: further settings of every run, as pretrain takes them (nested or with dots).
        size_overrides: size → settings of its runs alone, laid over ``overrides``.
    """

    name: str
    data: Path
    sizes: tuple[str, ...]
    steps: tuple[int, ...] = ()
    molecules: tuple[int, ...] = ()
    seeds: tuple[int, ...] = (0,)
    objective: str = "denoise"
    output: Path = Path("runs")
    launcher: Launcher = "deepspeed"
    ranks: int = 1
    script: Path = Path("launch/pretrain.py")
    overrides: Mapping[str, Any] = field(default_factory=dict)
    size_overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that the lists make a ladder."""
        if not self.name or "/" in self.name:
            raise ConfigError(f"name must be a plain word, it names folders; got {self.name!r}")
        for key in ("sizes", "seeds"):
            values = getattr(self, key)
            if not values or len(set(values)) != len(values):
                raise ConfigError(f"{key} must be a list without repeats, got {list(values)}")
        if bool(self.steps) == bool(self.molecules):
            raise ConfigError("give the budgets either as steps or as molecules")
        budgets = self.steps or self.molecules
        if min(budgets) < 1 or len(set(budgets)) != len(budgets):
            raise ConfigError(f"budgets must be positive and without repeats, got {list(budgets)}")
        if self.ranks < 1 or (self.launcher == "python" and self.ranks != 1):
            raise ConfigError(f"ranks must be at least 1, and 1 with the launcher python; got {self.ranks}")
        for size in self.size_overrides:
            if size not in self.sizes:
                raise ConfigError(f"size_overrides: {size!r} is not a size of this ladder; {nearest(size, self.sizes)}")
        for key in RESERVED:
            if any(key in _flatten(tree) for tree in (self.overrides, *self.size_overrides.values())):
                raise ConfigError(f"overrides: {key} is set by the ladder itself, from seeds and budgets")


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One planned run; ``overrides`` are all its settings by dotted path, seed and steps among them."""

    name: str
    size: str
    steps: int
    seed: int
    folder: Path
    overrides: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Result:
    """A rung that is done; ``action`` is what the ladder did for it."""

    rung: Rung
    action: Literal["skipped", "trained", "resumed"]
    outcome: RunRecord | str
    seconds: float


def read_ladder(path: Path) -> LadderConfig:
    """Read and check a ladder file.

    Raises:
        ConfigError: a key or value is wrong.
    """
    tree, origin = read_yaml(path)
    return build(LadderConfig, tree, origin)


def plan(config: LadderConfig) -> list[Rung]:
    """Return every run of the ladder, smallest budget first within a size.

    Raises:
        ConfigError: a size is unknown, or a budget in molecules has no batch size to be divided by.
    """
    # Late: the model's presets are arithmetic without torch, and only planning needs them.
    from unimol_scale.model.presets import PRESETS

    rungs = []
    for size in config.sizes:
        if size not in PRESETS:
            raise ConfigError(f"sizes: unknown size {size!r}; {nearest(size, PRESETS)}")
        settings = {**_flatten(config.overrides), **_flatten(config.size_overrides.get(size, {}))}
        for steps in _budgets(config, size, settings):
            for seed in config.seeds:
                name = f"{config.name}-{size}-{steps}steps-seed{seed}"
                overrides = {**settings, "train.steps": steps, "seed": seed}
                folder = config.output / name
                rungs.append(Rung(name=name, size=size, steps=steps, seed=seed, folder=folder, overrides=overrides))
    return rungs


def _budgets(config: LadderConfig, size: str, settings: Mapping[str, Any]) -> list[int]:
    if config.steps:
        return sorted(config.steps)
    batch_size = settings.get("train.global_batch_size")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigError(
            f"molecules: {size} needs a train.global_batch_size in overrides to turn molecules into steps"
        )
    return sorted(math.ceil(molecules / batch_size) for molecules in config.molecules)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as dotted path → value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        flat.update(_flatten(value, f"{path}.") if isinstance(value, Mapping) else {path: value})
    return flat


def command(config: LadderConfig, rung: Rung, port: int) -> list[str]:
    """Return the command line of one run.

    Args:
        config: the ladder.
        rung: the run.
        port: free on this machine; DeepSpeed's own default collides between runs.
    """
    if config.launcher == "deepspeed":
        # The one beside this interpreter: another environment's would train with other versions.
        launcher = [str(Path(sys.executable).parent / "deepspeed"), "-q", "--num_gpus", str(config.ranks)]
        launcher += ["--master_port", str(port)]
    else:
        launcher = [sys.executable]
    settings = [f"{key}={_scalar(value)}" for key, value in rung.overrides.items()]
    return [
        *launcher,
        str(config.script),
        *("--size", rung.size, "--objective", config.objective),
        *("--data", str(config.data), "--output", str(rung.folder)),
        *settings,
    ]


def _scalar(value: object) -> str:
    """Return a setting as the YAML text that an override is read back from."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


def write_command(config: LadderConfig, rung: Rung) -> str:
    """Return the command line of one run as text for a shell, with PORT where a free one will be chosen."""
    return shlex.join(command(config, rung, 0)).replace("--master_port 0", "--master_port PORT")


def environment(config: LadderConfig) -> dict[str, str]:
    """Return the environment of a run: this interpreter's commands first, one rank a slot, no fight for cores."""
    environment = dict(os.environ)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', os.defpath)}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // config.ranks)))
    environment["PYTHONUNBUFFERED"] = "1"
    if config.launcher == "deepspeed":
        environment["LOCAL_SIZE"] = str(config.ranks)  # DeepSpeed's count of slots where there is no GPU
    return environment


def climb(config: LadderConfig, rungs: Sequence[Rung]) -> list[Result]:
    """Run everything that is not finished, one after the other; training resumes where it was stopped.

    Raises:
        ConfigError: the store or the pretraining command is missing.
        RunError: a folder holds a run with other settings, or a run fails.
    """
    if not config.script.is_file():
        raise ConfigError(f"script: {config.script} does not exist; start the ladder from the root of the repository")
    if not config.data.is_dir():
        source = config.data.name if config.data.parent.name == "data" else "sample"
        raise ConfigError(
            f"data: there is no conformer store at {config.data}; "
            f"`python conformer_gen/build.py --source {source} --output {config.data}` makes one"
        )
    # All folders are looked at first, so that an hour of training does not end in a complaint about the last one.
    finished = [_outcome(config, rung) for rung in rungs]
    results = []
    for index, (rung, outcome) in enumerate(zip(rungs, finished, strict=True), start=1):
        if outcome is not None:
            results.append(Result(rung=rung, action="skipped", outcome=outcome, seconds=0.0))
            print(f"ladder: run {index} of {len(rungs)}, {rung.name}: already finished", flush=True)
            continue
        resumed = (rung.folder / "config.yaml").is_file()
        print(f"ladder: run {index} of {len(rungs)}, {rung.name}{': resumed' if resumed else ''}", flush=True)
        started = time.monotonic()
        outcome = _launch(config, rung)
        seconds = time.monotonic() - started
        results.append(Result(rung=rung, action="resumed" if resumed else "trained", outcome=outcome, seconds=seconds))
    return results


def _launch(config: LadderConfig, rung: Rung) -> RunRecord | str:
    log = config.output / "logs" / f"{rung.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    status = run_group(command(config, rung, _free_port()), environment(config), log)
    if status != 0:
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        raise RunError(
            f"the run {rung.name} failed ({how}); its output is in {log}; start the ladder again to resume it"
        )
    outcome = _outcome(config, rung)
    if outcome is None:
        raise RunError(f"the run {rung.name} ended without finishing; its output is in {log}")
    return outcome


def _outcome(config: LadderConfig, rung: Rung) -> RunRecord | str | None:
    """Return what a finished run left behind (a record, or why it is no use), None if there is work left.

    Raises:
        RunError: the folder holds a run with other settings.
    """
    resolved = rung.folder / "config.yaml"
    if resolved.is_file():
        _check_same(config, rung, resolved)
    if not (rung.folder / "summary.json").is_file():
        return None
    outcome = read_run_folder(rung.folder)
    if isinstance(outcome, RunRecord):
        found = {"size": outcome.size, "objective": outcome.comparable["objective"], "steps": outcome.steps}
        wanted = {"size": rung.size, "objective": config.objective, "steps": rung.steps}
        for key, value in wanted.items():
            if found[key] != value:
                raise _other_settings(rung, key, found[key], value)
        return outcome
    return outcome if outcome.endswith("diverged") else None


def _check_same(config: LadderConfig, rung: Rung, resolved: Path) -> None:
    """Compare every setting that the ladder asks for with the configuration that the run resolved."""
    tree, _ = read_yaml(resolved)
    found = _flatten(tree)
    # Read back the way pretrain reads them, so that 1e-3 and 0.001 are one value.
    asked = merge({}, parse_overrides([f"{key}={_scalar(value)}" for key, value in rung.overrides.items()]))
    for key, value in _flatten(asked).items():
        if key in found and not _equal(found[key], value):
            raise _other_settings(rung, key, found[key], value)
    store = found.get("data.path")
    if store is not None and Path(str(store)).resolve() != config.data.resolve():
        raise _other_settings(rung, "data", store, config.data)


def _equal(one: object, two: object) -> bool:
    try:
        return float(one) == float(two)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(one) == str(two)


def _other_settings(rung: Rung, key: str, found: object, wanted: object) -> RunError:
    return RunError(
        f"{rung.folder} holds a run with another {key}: {found}, this ladder wants {wanted}; "
        "give the ladder another name or output, or delete the folder"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def plan_table(config: LadderConfig, rungs: Sequence[Rung]) -> Table:
    """Return the plan as a table: what would be started, what is there already."""
    table = Table("run", "size", "steps", "seed", "state", title=f"Ladder {config.name}: {len(rungs)} runs")
    for rung in rungs:
        outcome = _outcome(config, rung)
        begun = (rung.folder / "config.yaml").is_file()
        state = "to be resumed" if begun else "to be trained"
        table.add_row(rung.name, rung.size, str(rung.steps), str(rung.seed), "finished" if outcome else state)
    return table


def result_table(results: Sequence[Result]) -> Table:
    """Return what the ladder did as a table."""
    table = Table(title="Ladder", title_justify="left")
    for name in ("run", "parameters", "molecules", "validation loss", "this time"):
        table.add_column(name, overflow="fold")
    for result in results:
        action = result.action if result.action == "skipped" else f"{result.action}, {result.seconds:.0f} s"
        if isinstance(result.outcome, str):
            table.add_row(result.rung.name, "", "", "diverged", action)
            continue
        record = result.outcome
        table.add_row(
            record.name, f"{record.parameters:,.0f}", f"{record.molecules:,.0f}", f"{record.loss:.4f}", action
        )
    return table
