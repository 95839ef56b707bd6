"""The command line, the settings and the environment of one run of a ladder. Imports no torch."""

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import yaml

from unimol_scale.common.machine.memory import available_bytes
from unimol_scale.common.machine.threads import NUM_THREADS, given_threads, usable_cores
from unimol_scale.common.trees import merge
from unimol_scale.config import parse_overrides
from unimol_scale.scaling.ladder.ladder import LadderConfig, Rung

PRETRAIN = ("unimol_scale.cli", "pretrain")  # module and verb
# Files of the drivers of NVIDIA and AMD.
_GPU_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/kfd"))
# Memory that a run of a small model takes: 0.8 GiB [measured at 2M], and some room.
_RUN_BYTES = 1.5 * 2**30


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
    return merge(chosen, overrides_of(rung))


def _scalar(value: object) -> str:
    """Return the value of a setting as YAML, which is how an override is written."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


def shell_command(config: LadderConfig, rung: Rung) -> str:
    """Return the command line of one run as a shell command, with PORT in place of a free port."""
    return shlex.join(command(config, rung, 0)).replace("--master_port 0", "--master_port PORT")


def environment(config: LadderConfig, at_once: int = 1) -> dict[str, str]:
    """Return the environment of a run, with the commands of this environment first in PATH.

    Args:
        config: the ladder.
        at_once: number of runs that share the cores of this machine.
    """
    environment = dict(os.environ)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', os.defpath)}"
    environment["PYTHONUNBUFFERED"] = "1"
    if at_once > 1 and given_threads() is None:
        environment[NUM_THREADS] = str(max(1, usable_cores() // (at_once * config.ranks)))
    if config.launcher == "deepspeed":
        environment["LOCAL_SIZE"] = str(config.ranks)  # DeepSpeed takes this as the number of slots if there is no GPU
    return environment


def overrides_of(rung: Rung) -> dict[str, Any]:
    """Return the overrides of a run as pretrain reads them, so that 1e-3 and 0.001 are equal."""
    return parse_overrides([f"{key}={_scalar(value)}" for key, value in rung.overrides.items()])


def runs_at_once(config: LadderConfig) -> int:
    """Return the number of runs that are trained at the same time."""
    if config.runs_at_once:
        return config.runs_at_once
    if _has_gpu():
        return 1
    memory = available_bytes()
    return usable_cores() if memory is None else max(1, min(usable_cores(), int(memory / _RUN_BYTES)))


def _has_gpu() -> bool:
    """Return whether this machine has a GPU that runs would share, as far as can be told without torch."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") != "" and any(path.exists() for path in _GPU_DEVICES)
