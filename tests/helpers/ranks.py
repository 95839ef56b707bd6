"""Start pretraining as a user does, on CPU ranks, and read what it left behind."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
START_RANKS = Path(__file__).with_name("start_ranks.py")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def pretrain_command(*arguments: object, ranks: int = 1, module: bool = False, by_deepspeed: bool = False) -> list[str]:
    """Return what starts pretraining: the script of a checkout, or the module that an installation has.

    Several ranks are started by ``deepspeed``, or faster by ``start_ranks.py``.
    """
    launcher = [sys.executable]
    if by_deepspeed:
        launcher = [str(BIN / "deepspeed"), "-q", "--num_gpus", str(ranks), "--master_port", str(free_port())]
    elif ranks > 1:
        launcher += [str(START_RANKS), str(ranks), str(free_port())]
    program = [str(REPOSITORY / "launch" / "pretrain.py")]
    if module:
        program = ["--module" if by_deepspeed else "-m", "unimol_scale.cli", "pretrain"]
    return [*launcher, *program, *map(str, arguments)]


def environment(ranks: int = 1) -> dict[str, str]:
    return {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "LOCAL_SIZE": str(ranks)}


def pretrain(
    *arguments: object, ranks: int = 1, cwd: Path | None = None, module: bool = False, by_deepspeed: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run pretraining to its end and return its status and output."""
    return subprocess.run(
        pretrain_command(*arguments, ranks=ranks, module=module, by_deepspeed=by_deepspeed),
        env=environment(ranks),
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=240,
        check=False,
    )


def start(*arguments: object, ranks: int = 1) -> subprocess.Popen[str]:
    """Start pretraining in a process group of its own, several ranks by ``deepspeed``."""
    return subprocess.Popen(
        pretrain_command(*arguments, ranks=ranks, by_deepspeed=ranks > 1),
        env=environment(ranks),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def losses(run: Path, key: str) -> dict[int, float]:
    """Return step → value of one key of a run's metrics."""
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {event["step"]: event[key] for event in events if key in event}
