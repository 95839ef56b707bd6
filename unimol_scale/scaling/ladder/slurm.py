"""Writes a ladder as a Slurm job array, one task per run, and submits it with sbatch. Imports no torch.

A task is ``unimol-scale ladder CONFIG --only RUN``, so it skips, resumes and checks runs as the ladder does. Slurm
signals the task five minutes before its time limit. Training then saves, and the task ends with status 75 and goes back
to the queue. launch/slurm.sh has the same directives and shell code; a test compares the two. The script names its
runs:
if the ladder file is changed, a task may fail, but it never trains another run. Branches form an array of their own,
which waits until the array of their trunks has succeeded.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unimol_scale.common.exit_status import EXIT_STOPPED
from unimol_scale.errors import RunError
from unimol_scale.scaling.ladder.finished_run import finished_run
from unimol_scale.scaling.ladder.ladder import LadderConfig, Rung

DEFAULTS: dict[str, Any] = {"time": "24:00:00", "cpus-per-task": 8}
SECONDS_TO_SAVE = 300  # between the signal and the time limit; more than process_group.GRACE_SECONDS

SCRIPT = """#!/bin/bash
# The unfinished {kind} of the ladder {config}, one array task each; written by `unimol-scale ladder {config} --slurm`.
#
#   {how}
#
# A task whose time runs out saves and goes back to the queue; a failed one stays failed. To resume it from its last
# checkpoint, submit the same script again, or start the ladder by hand.

{options}

RUNS=(
{names}
)
run=${{RUNS[$SLURM_ARRAY_TASK_ID]:?there is no run with this number}}
job=${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}
STOPPED={stopped}

# Slurm signals only this shell, which passes the signal on. A signal ends a wait early, so the shell waits again.
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
    scontrol requeue "$job" || echo "job $job could not be requeued; submit the same script again to resume"
fi
exit "$status"
"""


def unfinished_runs(config: LadderConfig, rungs: Sequence[Rung]) -> list[Rung]:
    """Return the runs that are not finished.

    Raises:
        RunError: a folder holds a run with other settings.
    """
    return [rung for rung in rungs if finished_run(config, rung) is None]


@dataclass(frozen=True, kw_only=True)
class JobArray:
    """The script of a job array.

    Attributes:
        script: path of the script.
        runs: number of its tasks.
        waits: whether it must wait until the previous array has succeeded.
    """

    script: Path
    runs: int
    waits: bool


def write_scripts(config: LadderConfig, ladder_file: Path, rungs: Sequence[Rung]) -> list[JobArray]:
    """Write job arrays for some runs beside their folders, and make the folder of their logs.

    Args:
        config: the ladder.
        ladder_file: path of the ladder file.
        rungs: runs; at least one.

    Returns:
        One array; or the array of the trunks and that of the branches, which waits for it.
    """
    assert rungs
    (config.output / "logs").mkdir(parents=True, exist_ok=True)
    trunks, others = [rung for rung in rungs if rung.is_trunk], [rung for rung in rungs if not rung.is_trunk]
    arrays = []
    if trunks:
        arrays.append(_write_script(config, ladder_file, trunks, "trunks", waits=False))
    if others:
        kind = "branches" if others[0].trunk else "runs"
        arrays.append(_write_script(config, ladder_file, others, kind, waits=bool(trunks)))
    return arrays


def by_hand(array: JobArray) -> str:
    """Return the command that submits an array; a shell variable stands for the number of the one before it."""
    if not array.waits:
        return f"sbatch {shlex.quote(str(array.script))}"
    return f"sbatch {' '.join(after('TRUNKS'))} {shlex.quote(str(array.script))}, with the job number of the trunks"


def after(job: str) -> list[str]:
    """Return the options of sbatch for an array that waits for another one and is cancelled if that fails."""
    return [f"--dependency=afterok:{job}", "--kill-on-invalid-dep=yes"]


def _write_script(
    config: LadderConfig, ladder_file: Path, rungs: Sequence[Rung], kind: str, *, waits: bool
) -> JobArray:
    logs = (config.output / "logs").resolve()
    # NAME-* names the runs alone, as in `fit-scaling-law runs/NAME-*`, so a script's name has a dot after NAME.
    name, stem = (f"{config.name}{mark}trunks" if kind == "trunks" else config.name for mark in "-.")
    array = JobArray(script=config.output / f"{stem}.slurm.sh", runs=len(rungs), waits=waits)
    command = [sys.executable, "-m", "unimol_scale.cli", "ladder", str(ladder_file.resolve())]
    text = SCRIPT.format(
        config=shlex.quote(str(ladder_file)),
        kind=kind,
        how=by_hand(array),
        options="\n".join(_options(config, name, len(rungs), logs)),
        names="\n".join(f"    {shlex.quote(rung.name)}" for rung in rungs),
        command=shlex.join(command),
        stopped=EXIT_STOPPED,
    )
    array.script.write_text(text, encoding="utf-8")
    array.script.chmod(0o755)
    return array


def _options(config: LadderConfig, name: str, count: int, logs: Path) -> list[str]:
    accelerators = {"gpus-per-node": config.ranks} if config.launcher == "deepspeed" else {}
    chosen = {**DEFAULTS, **accelerators, **config.slurm}
    parallel = chosen.pop("parallel", None)
    options = {
        "job-name": name,
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
    """Return the value of an option, in double quotes if it has spaces, as sbatch requires."""
    text = str(value)
    return f'"{text}"' if any(character.isspace() for character in text) else text


def submit(arrays: Sequence[JobArray]) -> list[str]:
    """Submit job arrays with sbatch, each after the one that it waits for; return sbatch's answers.

    Raises:
        RunError: there is no sbatch on this machine, it fails, or it does not report the job number to wait for.
    """
    answers: list[str] = []
    for array in arrays:
        options = after(_job_number(answers[-1])) if array.waits else []
        answers.append(_submit(array.script, options))
    return answers


def _job_number(answer: str) -> str:
    found = re.search(r"Submitted batch job (\d+)", answer)
    if found is None:
        raise RunError(
            f"sbatch did not report the job number of the trunks, so the branches cannot wait for it: {answer}"
        )
    return found.group(1)


def _submit(script: Path, options: Sequence[str]) -> str:
    try:
        # sbatch passes the environment on, but array variables of a surrounding job must not reach the new one.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_ARRAY")}
        answer = subprocess.run(
            ["sbatch", *options, str(script)], env=environment, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise RunError(
            f"there is no sbatch on this machine; run sbatch {script} on a machine of the cluster"
        ) from error
    if answer.returncode != 0:
        raise RunError(f"sbatch refused {script} (status {answer.returncode}): {answer.stderr.strip()}")
    return answer.stdout.strip()
