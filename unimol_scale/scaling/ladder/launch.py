"""Starts the runs of a ladder one after another: skips finished runs, and resumes unfinished ones. Imports no torch.

Runs are started by the command line of pretraining, and judged by exit status and the files in their folders.
"""

import os
import shlex
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from rich.table import Table

from unimol_scale.common.exit_status import EXIT_STOPPED
from unimol_scale.common.files import hash_file
from unimol_scale.common.output_checks import require_folder
from unimol_scale.common.run_files import CONFIG_NAME, SUMMARY_NAME
from unimol_scale.common.summary_file import manifest_hash_of
from unimol_scale.common.text.json_files import NotJsonError, read_json, write_json
from unimol_scale.common.trees import Differences, Flat, as_lines, differences, flatten, merge
from unimol_scale.config import parse_overrides, read_yaml
from unimol_scale.errors import ConfigError, RunError
from unimol_scale.scaling.ladder.ladder import BRANCH_FROM, KEEP_STEPS, MANIFEST, STEPS, LadderConfig, Rung
from unimol_scale.scaling.ladder.process_group import OrderedToStopError, run_group
from unimol_scale.scaling.runs.run_records import RunRecord, read_run_folder

PRETRAIN = ("unimol_scale.cli", "pretrain")  # module and verb


@dataclass(frozen=True, kw_only=True)
class LaunchResult:
    """What a launch of the ladder did for one run.

    Attributes:
        rung: the run.
        action: what was done; "stopped" means that a signal ended the run after it had saved, and the next launch
            resumes it.
        outcome: its record, or why a law cannot use it.
        seconds: time that the launch spent on it.
    """

    rung: Rung
    action: Literal["skipped", "trained", "resumed", "stopped"]
    outcome: RunRecord | str
    seconds: float


def command(config: LadderConfig, rung: Rung, port: int) -> list[str]:
    """Return the command line of one run.

    Args:
        config: the ladder.
        rung: the run.
        port: a free port of this machine; with DeepSpeed's default port, runs would collide.
    """
    if config.launcher == "deepspeed":
        # DeepSpeed of this environment: another environment's would train with other versions.
        launcher = [str(Path(sys.executable).parent / "deepspeed"), "-q", "--num_gpus", str(config.ranks)]
        launcher += ["--master_port", str(port)]
        as_module = "--module"
    else:
        launcher = [sys.executable]
        as_module = "-m"
    program = [as_module, *PRETRAIN] if config.script is None else [str(config.script)]
    return [*launcher, *program, *pretrain_arguments(config, rung)]


def pretrain_arguments(config: LadderConfig, rung: Rung) -> list[str]:
    """Return the arguments of the pretraining command for one run."""
    return [
        *("--size", rung.size, "--objective", config.objective),
        *("--data", str(config.data), "--output", str(rung.folder)),
        *(f"{key}={_scalar(value)}" for key, value in rung.overrides.items()),
    ]


def pretrain_settings(config: LadderConfig, rung: Rung) -> dict[str, Any]:
    """Return the settings that ``pretrain_arguments`` encode, as a tree."""
    chosen = {"objective": {"name": config.objective}, "data": {"path": str(config.data)}, "output": str(rung.folder)}
    return merge(chosen, _overrides(rung))


def _scalar(value: object) -> str:
    """Return the value of a setting as YAML, which is how an override is written."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


def shell_command(config: LadderConfig, rung: Rung) -> str:
    """Return the command line of one run as a shell command, with PORT in place of a free port."""
    return shlex.join(command(config, rung, 0)).replace("--master_port 0", "--master_port PORT")


def environment(config: LadderConfig) -> dict[str, str]:
    """Return the environment of a run: with the commands of this environment first in PATH."""
    environment = dict(os.environ)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', os.defpath)}"
    environment["PYTHONUNBUFFERED"] = "1"
    if config.launcher == "deepspeed":
        environment["LOCAL_SIZE"] = str(config.ranks)  # DeepSpeed takes this as the number of slots if there is no GPU
    return environment


def launch_ladder(config: LadderConfig, rungs: Sequence[Rung]) -> list[LaunchResult]:
    """Run everything that is not finished, one run after another; interrupted runs are resumed.

    Returns:
        One result for each run, in their order; fewer if a signal stopped the launch.

    Raises:
        ConfigError: the store or the pretraining command is missing.
        RunError: a folder holds a run with other settings, or a run fails.
    """
    check_inputs(config)
    # All folders are checked first, so that an error in the last one does not come after hours of training.
    finished = [finished_run(config, rung) for rung in rungs]
    results = []
    for index, (rung, outcome) in enumerate(zip(rungs, finished, strict=True), start=1):
        if outcome is not None:
            results.append(LaunchResult(rung=rung, action="skipped", outcome=outcome, seconds=0.0))
            print(f"ladder: run {index} of {len(rungs)}, {rung.name}: already finished", flush=True)
            continue
        resumed = (rung.folder / CONFIG_NAME).is_file()
        print(f"ladder: run {index} of {len(rungs)}, {rung.name}{': resumed' if resumed else ''}", flush=True)
        started = time.monotonic()
        outcome, told_to_stop = _launch(config, rung)
        seconds = time.monotonic() - started
        if outcome is None:
            results.append(LaunchResult(rung=rung, action="stopped", outcome="stopped", seconds=seconds))
        else:
            action: Literal["resumed", "trained"] = "resumed" if resumed else "trained"
            results.append(LaunchResult(rung=rung, action=action, outcome=outcome, seconds=seconds))
        if told_to_stop:
            break
    return results


def check_inputs(config: LadderConfig) -> None:
    """Check that the inputs of all runs exist.

    Raises:
        ConfigError: the store or the pretraining command is missing, or the output cannot be written.
    """
    if config.script is not None and not config.script.is_file():
        raise ConfigError(
            f"script: {config.script} does not exist; start the ladder in the folder where it does, or leave out the "
            "key to use `unimol-scale pretrain`"
        )
    require_folder(config.output, "output")
    if not config.data.is_dir():
        source = config.data.name if config.data.parent.name == "data" else "sample"
        raise ConfigError(
            f"data: there is no conformer store at {config.data}; "
            f"`unimol-scale build --source {source} --output {config.data}` makes one"
        )


def _launch(config: LadderConfig, rung: Rung) -> tuple[RunRecord | str | None, bool]:
    """Start one run and wait for it; return its result (None if it is not finished) and whether a signal arrived."""
    log = config.output / "logs" / f"{rung.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        status = run_group(command(config, rung, _free_port()), environment(config), log)
    except OrderedToStopError:
        status = EXIT_STOPPED
    if status == EXIT_STOPPED:
        return finished_run(config, rung), True  # it may have finished before it saw the signal
    if status != 0:
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        raise RunError(
            f"the run {rung.name} failed ({how}); its output is in {log}; start the ladder again to resume it"
        )
    write_json(_asked_path(config, rung), _asked(rung))
    outcome = finished_run(config, rung)
    if outcome is None:
        raise RunError(f"the run {rung.name} ended without finishing; its output is in {log}")
    return outcome, False


def finished_run(config: LadderConfig, rung: Rung) -> RunRecord | str | None:
    """Return the record of a finished run, or why a law cannot use it; None if pretraining has to be started.

    Pretraining has to be started if the run is not finished, or if only the pretraining command can tell whether the
    run has the ladder's settings: that command knows the defaults, and refuses a folder with other settings.

    Raises:
        RunError: the folder holds a run with other settings.
    """
    resolved = rung.folder / CONFIG_NAME
    found = flatten(read_yaml(resolved)[0]) if resolved.is_file() else {}
    _check_same(config, rung, found)
    if not (rung.folder / SUMMARY_NAME).is_file() or _needs_defaults(config, rung, found):
        return None
    _check_data(config, rung)
    outcome = read_run_folder(rung.folder)
    if isinstance(outcome, RunRecord):
        done = {"size": outcome.size, "objective": outcome.comparable["objective"], "steps": outcome.steps}
        wanted = {"size": rung.size, "objective": config.objective, "steps": rung.steps}
        if rung.is_trunk:
            if (outcome.steps or 0) < rung.steps:  # a larger budget was added to the ladder
                return None
            wanted["steps"] = outcome.steps
        _refuse(rung, differences(done, wanted))
        return outcome
    return outcome if outcome.endswith("diverged") else None


def _check_same(config: LadderConfig, rung: Rung, found: Flat) -> None:
    """Compare the ladder's settings with those that the run resolved, as far as the ladder sets them."""
    asked = {"size": rung.size, "objective.name": config.objective, **_asked(rung)}
    # A trunk may have gone further, or may be continued for a new budget. The path of a trunk makes no difference.
    free = {BRANCH_FROM, *((STEPS, KEEP_STEPS) if rung.is_trunk else ())}
    there = {key: value for key, value in asked.items() if key in found and key not in free}
    changed = differences({key: found[key] for key in there}, there)
    changed = {key: pair for key, pair in changed.items() if not _equal(*pair)}
    store = found.get("data.path")
    if store is not None and Path(str(store)).resolve() != config.data.resolve():
        changed["data.path"] = (store, str(config.data))
    _refuse(rung, changed)


def _asked(rung: Rung) -> dict[str, Any]:
    return flatten(_overrides(rung))


def _overrides(rung: Rung) -> dict[str, Any]:
    """Return the overrides of a run as pretrain reads them, so that 1e-3 and 0.001 are equal."""
    return parse_overrides([f"{key}={_scalar(value)}" for key, value in rung.overrides.items()])


def _asked_path(config: LadderConfig, rung: Rung) -> Path:
    """Return the file with the settings that the ladder gave a run; its config.yaml has the defaults as well."""
    return config.output / "logs" / f"{rung.name}.settings.json"


def _needs_defaults(config: LadderConfig, rung: Rung, found: Flat) -> bool:
    """Return whether the defaults are needed to tell if a finished run has the ladder's settings.

    That is so if the ladder gave the run a setting that it no longer gives, or gives one that the run does not record
    because its version had no such setting. What the pretraining command decides is recorded and not asked again.
    """
    asked = _asked(rung)
    try:
        before: Flat = read_json(_asked_path(config, rung))
    except (OSError, NotJsonError):
        before = {}
    judged = {key for key in before.keys() & asked.keys() if _equal(before[key], asked[key])}
    absent = asked.keys() - found.keys() - judged if found else set()
    return bool(before.keys() - asked.keys() or absent)


def _check_data(config: LadderConfig, rung: Rung) -> None:
    """Check that the store has not changed since a finished run was trained on it."""
    then = manifest_hash_of(rung.folder)
    try:
        now = hash_file(config.data / MANIFEST)
    except OSError:  # a missing file is reported where it is needed
        return
    if then is not None and then != now:
        _refuse(rung, {"content of the store": (f"SHA-256 {then[:12]}…", f"SHA-256 {now[:12]}…")})


def _equal(one: object, two: object) -> bool:
    try:
        return float(one) == float(two)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(one) == str(two)


def _refuse(rung: Rung, changed: Differences) -> None:
    if changed:
        raise RunError(
            f"{rung.folder} holds a run with other settings (its → this ladder's):{as_lines(changed)}\n"
            "Give the ladder another name or output, or delete the folder"
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def result_table(results: Sequence[LaunchResult]) -> Table:
    """Return a table of what the ladder did."""
    table = Table(title="Ladder", title_justify="left")
    for name in ("run", "parameters", "molecules", "validation loss", "this time"):
        table.add_column(name, overflow="fold")
    for result in results:
        action = result.action if result.action == "skipped" else f"{result.action}, {result.seconds:.0f} s"
        if isinstance(result.outcome, str):
            stopped = result.action == "stopped"
            table.add_row(result.rung.name, "", "", "to be resumed" if stopped else "diverged", action)
            continue
        record = result.outcome
        table.add_row(
            record.name, f"{record.parameters:,.0f}", f"{record.molecules:,.0f}", f"{record.loss:.4f}", action
        )
    return table
