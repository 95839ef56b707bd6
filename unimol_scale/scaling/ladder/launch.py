"""Starts the runs of a ladder one after the other: finished ones are skipped, unfinished ones go on where they stopped.

Knows the pretraining command by its command line and status, and the run folder by its files only; imports no torch.
"""

import hashlib
import json
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
from unimol_scale.common.output_checks import require_folder
from unimol_scale.common.run_files import CONFIG_NAME, SUMMARY_NAME
from unimol_scale.config import merge, parse_overrides, read_yaml
from unimol_scale.errors import ConfigError, RunError
from unimol_scale.scaling.ladder.ladder import MANIFEST, LadderConfig, Rung, flatten
from unimol_scale.scaling.ladder.process_group import OrderedToStopError, run_group
from unimol_scale.scaling.runs.run_records import RunRecord, read_run_folder

PRETRAIN = ("unimol_scale.cli", "pretrain")  # module and verb


@dataclass(frozen=True, kw_only=True)
class Result:
    """What the ladder did for a rung, and what came of it.

    Attributes:
        rung: the run.
        action: "stopped" when a signal ended it after it had saved; the next climb goes on with it.
        outcome: its record, or why it is no use for a law.
        seconds: of this climb.
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
        port: free on this machine; DeepSpeed's own default collides between runs.
    """
    if config.launcher == "deepspeed":
        # The one beside this interpreter: another environment's would train with other versions.
        launcher = [str(Path(sys.executable).parent / "deepspeed"), "-q", "--num_gpus", str(config.ranks)]
        launcher += ["--master_port", str(port)]
        as_module = "--module"
    else:
        launcher = [sys.executable]
        as_module = "-m"
    program = [as_module, *PRETRAIN] if config.script is None else [str(config.script)]
    return [*launcher, *program, *pretrain_arguments(config, rung)]


def pretrain_arguments(config: LadderConfig, rung: Rung) -> list[str]:
    """Return what the pretraining command is told of one run."""
    return [
        *("--size", rung.size, "--objective", config.objective),
        *("--data", str(config.data), "--output", str(rung.folder)),
        *(f"{key}={_scalar(value)}" for key, value in rung.overrides.items()),
    ]


def pretrain_settings(config: LadderConfig, rung: Rung) -> dict[str, Any]:
    """Return the settings that ``pretrain_arguments`` stand for, as a tree."""
    chosen = {"objective": {"name": config.objective}, "data": {"path": str(config.data)}, "output": str(rung.folder)}
    return merge(chosen, _overrides(rung))


def _scalar(value: object) -> str:
    """Return a setting as the YAML text that an override is read back from."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


def write_command(config: LadderConfig, rung: Rung) -> str:
    """Return the command line of one run as text for a shell, with PORT where a free one will be chosen."""
    return shlex.join(command(config, rung, 0)).replace("--master_port 0", "--master_port PORT")


def environment(config: LadderConfig) -> dict[str, str]:
    """Return the environment of a run: this interpreter's commands first, one rank a slot."""
    environment = dict(os.environ)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', os.defpath)}"
    environment["PYTHONUNBUFFERED"] = "1"
    if config.launcher == "deepspeed":
        environment["LOCAL_SIZE"] = str(config.ranks)  # DeepSpeed's count of slots where there is no GPU
    return environment


def climb(config: LadderConfig, rungs: Sequence[Rung]) -> list[Result]:
    """Run everything that is not finished, one after the other; training resumes where it was stopped.

    Returns:
        One result a rung, in their order; fewer if a signal ended the climb, after which nothing more is started.

    Raises:
        ConfigError: the store or the pretraining command is missing.
        RunError: a folder holds a run with other settings, or a run fails.
    """
    check_inputs(config)
    # All folders are looked at first, so that an hour of training does not end in a complaint about the last one.
    finished = [outcome_of(config, rung) for rung in rungs]
    results = []
    for index, (rung, outcome) in enumerate(zip(rungs, finished, strict=True), start=1):
        if outcome is not None:
            results.append(Result(rung=rung, action="skipped", outcome=outcome, seconds=0.0))
            print(f"ladder: run {index} of {len(rungs)}, {rung.name}: already finished", flush=True)
            continue
        resumed = (rung.folder / CONFIG_NAME).is_file()
        print(f"ladder: run {index} of {len(rungs)}, {rung.name}{': resumed' if resumed else ''}", flush=True)
        started = time.monotonic()
        outcome, told_to_stop = _launch(config, rung)
        seconds = time.monotonic() - started
        if outcome is None:
            results.append(Result(rung=rung, action="stopped", outcome="stopped", seconds=seconds))
        else:
            action: Literal["resumed", "trained"] = "resumed" if resumed else "trained"
            results.append(Result(rung=rung, action=action, outcome=outcome, seconds=seconds))
        if told_to_stop:
            break
    return results


def check_inputs(config: LadderConfig) -> None:
    """Check that what every run needs is there.

    Raises:
        ConfigError: the store or the pretraining command is missing, or the output cannot be written.
    """
    if config.script is not None and not config.script.is_file():
        raise ConfigError(
            f"script: {config.script} does not exist; start the ladder where it does, or leave the key out: the ladder "
            "then starts `unimol-scale pretrain`, wherever it is"
        )
    require_folder(config.output, "output")
    if not config.data.is_dir():
        source = config.data.name if config.data.parent.name == "data" else "sample"
        raise ConfigError(
            f"data: there is no conformer store at {config.data}; "
            f"`unimol-scale build --source {source} --output {config.data}` makes one"
        )


def _launch(config: LadderConfig, rung: Rung) -> tuple[RunRecord | str | None, bool]:
    """Run one rung; return its outcome, None if it has work left, and whether it was told to stop."""
    log = config.output / "logs" / f"{rung.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        status = run_group(command(config, rung, _free_port()), environment(config), log)
    except OrderedToStopError:
        status = EXIT_STOPPED
    if status == EXIT_STOPPED:
        return outcome_of(config, rung), True  # the order may have come with the last step
    if status != 0:
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        raise RunError(
            f"the run {rung.name} failed ({how}); its output is in {log}; start the ladder again to resume it"
        )
    _asked_path(config, rung).write_text(json.dumps(_asked(rung), indent=1) + "\n", encoding="utf-8")
    outcome = outcome_of(config, rung)
    if outcome is None:
        raise RunError(f"the run {rung.name} ended without finishing; its output is in {log}")
    return outcome, False


def outcome_of(config: LadderConfig, rung: Rung) -> RunRecord | str | None:
    """Return what a finished run left behind (a record, or why it is no use), None if pretraining is to be started.

    That is so if there is work left, or if the run was trained with a setting that the ladder no longer gives: whether
    the default is the same, only the pretraining command knows, and it refuses a folder of other settings.

    Raises:
        RunError: the folder holds a run with other settings.
    """
    resolved = rung.folder / CONFIG_NAME
    if resolved.is_file():
        _check_same(config, rung, resolved)
    if not (rung.folder / SUMMARY_NAME).is_file() or _gave_more(config, rung):
        return None
    _check_data(config, rung)
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
    found, asked = flatten(tree), _asked(rung)
    for key, value in {"size": rung.size, "objective.name": config.objective, **asked}.items():
        if key in found and not _equal(found[key], value):
            raise _other_settings(rung, key, found[key], value)
    store = found.get("data.path")
    if store is not None and Path(str(store)).resolve() != config.data.resolve():
        raise _other_settings(rung, "data", store, config.data)


def _asked(rung: Rung) -> dict[str, Any]:
    return flatten(_overrides(rung))


def _overrides(rung: Rung) -> dict[str, Any]:
    """Return the overrides of a run, read back as pretrain reads them, so that 1e-3 and 0.001 are one value."""
    return parse_overrides([f"{key}={_scalar(value)}" for key, value in rung.overrides.items()])


def _asked_path(config: LadderConfig, rung: Rung) -> Path:
    """Return where the settings are kept that a run ended with; its config.yaml does not tell them from defaults."""
    return config.output / "logs" / f"{rung.name}.settings.json"


def _gave_more(config: LadderConfig, rung: Rung) -> bool:
    """Return whether the ladder gave a finished run a setting that it does not give today; False if that is unknown."""
    try:
        before = json.loads(_asked_path(config, rung).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(before.keys() - _asked(rung).keys())


def _check_data(config: LadderConfig, rung: Rung) -> None:
    """Compare the content of the store with what a finished run has learnt from."""
    try:
        summary = json.loads((rung.folder / SUMMARY_NAME).read_text(encoding="utf-8"))
        now = hashlib.sha256((config.data / MANIFEST).read_bytes()).hexdigest()
    except (OSError, ValueError):  # one that is missing or damaged is told by whoever needs it
        return
    then = summary.get("data_manifest_sha256") if isinstance(summary, dict) else None
    if then is not None and then != now:
        raise _other_settings(rung, "content of the store", f"SHA-256 {then[:12]}…", f"{now[:12]}…")


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


def result_table(results: Sequence[Result]) -> Table:
    """Return what the ladder did as a table."""
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
