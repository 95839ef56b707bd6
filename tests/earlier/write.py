"""Write a generation of artefacts with the commands of this checkout: ``python tests/earlier/write.py 2026-11-28``.

Runs and builds are small, and most are interrupted on purpose. README.md beside this file says what they are for.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
BIN = Path(sys.executable).parent
PROGRAMS = {
    "build": [sys.executable, str(REPOSITORY / "conformer_gen" / "build.py")],
    "pretrain": [sys.executable, str(REPOSITORY / "launch" / "pretrain.py")],
    "unimol-scale": [str(BIN / "unimol-scale")],
}
# How a command ends: by itself, by SIGTERM after some steps, or by SIGKILL among the conformers.
FINISHED, STOPPED, KILLED = "finished", "stopped", "killed"
STATUS = {FINISHED: 0, STOPPED: 75, KILLED: -signal.SIGKILL}
STOP_AT = 13  # steps; a checkpoint of step 10 is there already
PATIENCE_S = 180.0
# Pictures and TensorBoard files (which bear the machine's name) are for people, and nothing reads them again.
LEFT_OUT = ("*.png", "tensorboard", "*.tmp", ".lock", "lock", "hints", "cache", "launch")


@dataclass(frozen=True)
class Command:
    """A command line: its program, how it ends, and on how many ranks."""

    program: str
    arguments: tuple[str, ...]
    ended: str = FINISHED
    ranks: int = 1


def build(*arguments: str, ended: str = FINISHED) -> Command:
    source = ("--source", "csv", "--input", "inputs/table.csv", "--seed", "0", "--workers", "1")
    settings = ("source.labels={logP: ''}", "curate.valid_fraction=0.2", "task_size=8")
    return Command("build", (*source, *arguments, *settings), ended)


def pretrain(output: str, *arguments: str, ended: str = FINISHED, ranks: int = 1, width: int = 6) -> Command:
    model = f"layers=1 atom_width={width} heads=1 ffn_width={width} pair_width=4 pair_hidden=2 gaussians=8"
    train = (
        "steps=40 warmup_steps=4 global_batch_size=8 learning_rate=1e-3 log_every=1 checkpoint_every=10 "
        "keep_checkpoints=1 validate_every=20"
    )
    settings = [f"model.{word}" for word in model.split()] + [f"train.{word}" for word in train.split()]
    where = ("--size", "0.03M", "--data", "stores/arrow", "--output", output)
    return Command("pretrain", (*where, *settings, "data.workers=0", *arguments), ended, ranks)


def verb(line: str) -> Command:
    return Command("unimol-scale", tuple(line.split()))


FP32 = "train.precision=fp32"
# Its checkpoint of step 10 is the best one, and is kept beside the last.
AVERAGED = ("train.ema_decay=0.9", "train.validate_every=10")
# The head of the edges alone would take 1.5 MB of each checkpoint.
BLEND = ("--objective", "blend", "objective.blend.edge_weight=0")
MIXED = ("--objective", "mixture", "objective.mixture.denoise=0.5", "objective.mixture.blend=0.5", BLEND[-1])
TAUGHT = ("--objective", "distill", "objective.distill.teacher=runs/denoise")
COMMANDS = (
    build("--output", "stores/arrow"),
    build("--output", "stores/lmdb", "--backend", "lmdb"),
    build("--output", "stores/killed", ended=KILLED),
    pretrain("runs/denoise", FP32),
    pretrain("runs/denoise-stopped", FP32, "zero.stage=2", *AVERAGED, ended=STOPPED),
    pretrain("runs/blend-stopped", FP32, "zero.stage=1", *BLEND, ended=STOPPED),
    pretrain("runs/distill-stopped", FP32, "zero.stage=0", *TAUGHT, ended=STOPPED),
    pretrain("runs/mixture-stopped", FP32, "--init", "runs/denoise", *MIXED, ended=STOPPED),
    pretrain("runs/two-ranks-stopped", "train.precision=bf16", "zero.stage=3", ended=STOPPED, ranks=2),
    # What a file in the released format can express.
    pretrain(
        "runs/released", FP32, "train.keep_finished=none",
        "model.gaussians=128", "model.normalize_by=padded", "model.pair_type=chirality", width=4,
    ),
    verb("checkpoint export runs/denoise-stopped --format safetensors --output models/exported"),
    verb("checkpoint export runs/released --format official --output models/released.pt"),
    verb("checkpoint import models/released.pt --output models/imported"),
    verb(
        "finetune --from runs/denoise --data inputs/table.csv --target logP --split random --seeds 1 --device cpu "
        "--cache cache --output finetuned train.epochs=2 train.batch_size=8 train.learning_rate=1e-2"
    ),
    verb("predict inputs/asked.csv --from finetuned --cache cache --output expected/predicted.csv"),
    *(
        verb(f"embed inputs/asked.csv --from {model} --cache cache --output expected/embedded/{name}.parquet")
        for model, name in (
            ("runs/denoise", "denoise"),
            ("runs/denoise-stopped", "denoise-stopped"),
            ("runs/distill-stopped", "distill-stopped"),
            ("runs/two-ranks-stopped", "two-ranks-stopped"),
            ("models/exported", "exported"),
        )
    ),
    # These normalise by the padded size of a batch, so one molecule at a time.
    verb("embed inputs/one.smi --from models/released.pt --cache cache --output expected/embedded/released.parquet"),
    verb("embed inputs/one.smi --from models/imported --cache cache --output expected/embedded/imported.parquet"),
    verb("ladder inputs/ladder.yaml"),
    verb("fit-scaling-law inputs/losses.csv --law chinchilla --bootstrap 20 --predict 42M@1M --output law"),
)  # fmt: skip


def start(command: Command, folder: Path) -> subprocess.Popen[str]:
    program = PROGRAMS[command.program]
    if command.ranks > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        launcher = [str(BIN / "deepspeed"), "-q", "--num_gpus", str(command.ranks), "--master_port", port]
        program = [*launcher, *program[1:]]
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "LOCAL_SIZE": str(command.ranks),
    }
    return subprocess.Popen(
        [*program, *command.arguments],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def wait(process: subprocess.Popen[str], far_enough: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline and not far_enough():
        time.sleep(0.002)


def carry_out(command: Command, folder: Path) -> None:
    """Run a command and end it as it is to end.

    Raises:
        RuntimeError: it ended in another way.
    """
    output = (
        folder / command.arguments[command.arguments.index("--output") + 1] if command.ended != FINISHED else folder
    )
    process = start(command, folder)
    if command.ended == STOPPED:
        wait(process, lambda: _num_lines(output / "metrics.jsonl") > STOP_AT)
        os.killpg(process.pid, signal.SIGTERM)
    elif command.ended == KILLED:
        wait(process, lambda: _num_files(output / ".build" / "embedded") > 1)
        os.killpg(process.pid, signal.SIGKILL)
    said, _ = process.communicate(timeout=PATIENCE_S)
    status = process.returncode
    # A launcher has a status of its own.
    if command.ranks == 1 and status != STATUS[command.ended]:
        raise RuntimeError(f"{command} ended with status {status}:\n{said}")
    if (output / "summary.json").exists() and command.ended == STOPPED:
        raise RuntimeError(f"{command} was finished before it could be stopped")
    print(f"{command.ended}: {command.program} {' '.join(command.arguments)}", flush=True)


def _num_lines(path: Path) -> int:
    return path.read_text().count("\n") if path.is_file() else 0


def _num_files(path: Path) -> int:
    return sum(1 for file in path.rglob("*") if file.is_file())


def go_on(command: Command, folder: Path) -> dict[int, float]:
    """Finish a stopped run on one rank; return step → loss."""
    carry_out(replace(command, ended=FINISHED, ranks=1), folder)
    run = folder / command.arguments[command.arguments.index("--output") + 1]
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {event["step"]: event["loss"] for event in events if "loss" in event}


def check_free_of_places(folder: Path) -> None:
    """Raise ValueError where a file names a place of this machine."""
    for path in folder.rglob("*"):
        for place in (REPOSITORY, Path.home(), Path(sys.prefix)):
            if path.is_file() and str(place).encode() + b"/" in path.read_bytes():
                raise ValueError(f"{path} contains {place}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("generation", help="name of the new folder: today's date")
    parser.add_argument(
        "--folder", type=Path, default=Path("/earlier"), help="to work in: absent, and of a name that tells nothing"
    )
    arguments = parser.parse_args()
    folder, kept = arguments.folder, HERE / arguments.generation
    if folder.exists() or kept.exists():
        parser.error(f"{folder} or {kept} exists already")
    shutil.copytree(HERE / "inputs", folder / "inputs")
    for name in ("models", "expected/embedded"):
        (folder / name).mkdir(parents=True)
    (folder / "launch").symlink_to(REPOSITORY / "launch")  # the ladder looks for it where it is started
    for command in COMMANDS:
        carry_out(command, folder)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    written = {
        "commit": commit.stdout.strip(),
        "folder": str(folder),
        "versions": {name: version(name) for name in ("rdkit", "torch", "deepspeed", "numpy")},
        "commands": [asdict(command) for command in COMMANDS],
    }
    (folder / "written.json").write_text(json.dumps(written, indent=1) + "\n")
    shutil.copytree(folder, kept, ignore=shutil.ignore_patterns(*LEFT_OUT))
    losses = {
        command.arguments[command.arguments.index("--output") + 1]: go_on(command, folder)
        for command in COMMANDS
        if command.ended == STOPPED
    }
    (kept / "expected" / "losses.json").write_text(json.dumps(losses, indent=1) + "\n")
    check_free_of_places(kept)


if __name__ == "__main__":
    main()
