"""Writes a ladder as a Slurm job array, one task a run, and hands it to sbatch. Imports no torch.

A task is ``unimol-scale ladder CONFIG --only RUN``, so it skips, resumes and checks runs as the ladder does. Slurm
signals the task five minutes before its time limit. Training then saves, and the task ends with status 75 and goes back
to the queue. launch/slurm.sh has the same directives and shell code for it; a test compares them. The script names its
runs: if the ladder file is changed, a task may fail, but never trains another run.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unimol_scale.common.exit_status import EXIT_STOPPED
from unimol_scale.errors import RunError
from unimol_scale.scaling.ladder.ladder import LadderConfig, Rung
from unimol_scale.scaling.ladder.launch import finished_run

DEFAULTS: dict[str, Any] = {"time": "24:00:00", "cpus-per-task": 8}
SECONDS_TO_SAVE = 300  # between the signal and the time limit; more than process_group.GRACE_SECONDS

SCRIPT = """#!/bin/bash
# The unfinished runs of the ladder {config}, one array task each; written by `unimol-scale ladder {config} --slurm`.
#
#   sbatch {script}
#
# A task whose time runs out saves and goes back to the queue; a failed one stays failed, and the same sbatch, or the
# ladder started by hand, goes on from its last checkpoint.

{options}

RUNS=(
{names}
)
run=${{RUNS[$SLURM_ARRAY_TASK_ID]:?there is no run with this number}}
job=${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}
STOPPED={stopped}

# Slurm signals this shell alone, which passes the order on. A signal ends a wait early: then it waits again.
told=
trap 'told=yes; kill -USR1 "$work"' USR1
{command} --only "$run" &
work=$!
wait "$work"
status=$?
while [ -n "$told" ]; do
    told=
    wait "$work"
    status=$?
done

if [ "$status" -eq "$STOPPED" ]; then
    echo "stopped after saving; job $job goes back to the queue"
    scontrol requeue "$job" || echo "job $job could not be queued again; the same sbatch goes on from here"
fi
exit "$status"
"""


def unfinished_runs(config: LadderConfig, rungs: Sequence[Rung]) -> list[Rung]:
    """Return the runs that are not finished.

    Raises:
        RunError: a folder holds a run with other settings.
    """
    return [rung for rung in rungs if finished_run(config, rung) is None]


def write_script(config: LadderConfig, ladder_file: Path, rungs: Sequence[Rung]) -> Path:
    """Write a job array for some runs beside their folders, and make the folder of their logs.

    Args:
        config: the ladder.
        ladder_file: where it was read from.
        rungs: at least one.

    Returns:
        The path of the script.
    """
    assert rungs
    logs = (config.output / "logs").resolve()
    logs.mkdir(parents=True, exist_ok=True)
    script = config.output / f"{config.name}.slurm.sh"
    command = [sys.executable, "-m", "unimol_scale.cli", "ladder", str(ladder_file.resolve())]
    text = SCRIPT.format(
        config=shlex.quote(str(ladder_file)),
        script=shlex.quote(str(script)),
        options="\n".join(_options(config, len(rungs), logs)),
        names="\n".join(f"    {shlex.quote(rung.name)}" for rung in rungs),
        command=shlex.join(command),
        stopped=EXIT_STOPPED,
    )
    script.write_text(text, encoding="utf-8")
    script.chmod(0o755)
    return script


def _options(config: LadderConfig, count: int, logs: Path) -> list[str]:
    accelerators = {"gpus-per-node": config.ranks} if config.launcher == "deepspeed" else {}
    chosen = {**DEFAULTS, **accelerators, **config.slurm}
    parallel = chosen.pop("parallel", None)
    options = {
        "job-name": config.name,
        "array": f"0-{count - 1}" + (f"%{parallel}" if parallel else ""),
        "nodes": 1,
        "ntasks": 1,
        "chdir": Path.cwd(),  # paths in the ladder file are relative to the current folder
        "output": f"{logs}/slurm-%A_%a.log",
        "open-mode": "append",
        "signal": f"B:USR1@{SECONDS_TO_SAVE}",
        "requeue": True,
        **{key: value for key, value in chosen.items() if value not in (None, False, "")},
    }
    return [f"#SBATCH --{key}" + ("" if value is True else f"={_quoted(value)}") for key, value in options.items()]


def _quoted(value: object) -> str:
    """Return the value of an option, in double quotes if it has spaces, as sbatch needs it."""
    text = str(value)
    return f'"{text}"' if any(character.isspace() for character in text) else text


def submit(script: Path) -> str:
    """Submit a script with sbatch and return its output.

    Raises:
        RunError: there is no sbatch on this machine, or it fails.
    """
    try:
        # sbatch passes the environment on; array variables of a job that this runs in must not reach the new one.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_ARRAY")}
        answer = subprocess.run(["sbatch", str(script)], env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise RunError(f"there is no sbatch on this machine; take {script} to one of the cluster") from error
    if answer.returncode != 0:
        raise RunError(f"sbatch refused {script} (status {answer.returncode}): {answer.stderr.strip()}")
    return answer.stdout.strip()
