"""Stages that start the pretraining command like a user, on the small store of the checkout or on a given one."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import REPOSITORY
from benchmarks.gpu.stage import STORE, Findings, StageSettings
from unimol_scale.common.metrics_file import read_metrics
from unimol_scale.common.run_files import CHECKPOINTS, METRICS_NAME, SUMMARY_NAME

# Losses of the first steps on a CPU in fp32; ``python -m benchmarks.gpu.runs`` writes them.
CURVE = Path(__file__).with_name("cpu_curve.json")
CURVE_STEPS = 8
CURVE_TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}
RESUMED_STEPS, SAVE_EVERY = 40, 10
SETTINGS = (
    "--size", "0.1M", "train.warmup_steps=2", "train.learning_rate=1e-3", "train.global_batch_size=8",
    "train.log_every=1", "train.validate_every=1000", "train.rehearse=false", "data.workers=0", "train.side_by_side=1",
)  # fmt: skip
GRAPHS = ("data.buckets=true", "train.cuda_graphs=true")
POLL_SECONDS = 0.02
LARGE_STEPS = 5


def command(*arguments: object) -> list[str]:
    """Return what starts a run of one rank."""
    return [sys.executable, str(REPOSITORY / "launch" / "pretrain.py"), *map(str, arguments)]


def environment(settings: StageSettings) -> dict[str, str]:
    """Return that of a run: on a CPU, a GPU that happens to be there is not seen."""
    return {**os.environ, **({} if settings.cuda else {"CUDA_VISIBLE_DEVICES": ""})}


def pretrain(settings: StageSettings, output: Path, *arguments: object, store: Path = STORE) -> int:
    """Run to the end and return the exit status; its output goes to the stage's log."""
    full = command(*arguments, "--data", store, "--output", output)
    return subprocess.run(full, env=environment(settings), check=False).returncode


def losses(output: Path) -> dict[int, float]:
    """Return step → loss of a run."""
    return {event["step"]: event["loss"] for event in read_metrics(output / METRICS_NAME).events if "loss" in event}


def engine(settings: StageSettings) -> Findings:
    """Compare ZeRO stages and precisions with the committed curve of a CPU."""
    findings = Findings()
    expected = {int(step): loss for step, loss in json.loads(CURVE.read_text(encoding="utf-8")).items()}
    cases = [(3, "fp32", ())] if settings.quick else [(s, p, ()) for p in CURVE_TOLERANCE for s in range(4)]
    if settings.cuda:
        cases += [(stage, "fp32", GRAPHS) for stage in (0, 1)]
    for zero, precision, more in cases:
        name = f"stage {zero}, {precision}{', CUDA graphs' if more else ''}"
        output = settings.folder / name.replace(", ", "-").replace(" ", "")
        chosen = (f"zero.stage={zero}", f"train.precision={precision}", f"train.steps={CURVE_STEPS}", *more)
        status = pretrain(settings, output, *SETTINGS, *chosen)
        findings.equal(f"{name}: exit status", status, 0)
        found = losses(output) if status == 0 else {}
        error = max((abs(found.get(step, math.nan) / loss - 1) for step, loss in expected.items()), key=_size)
        findings.at_most(f"{name}: losses off the curve of a CPU by", error, CURVE_TOLERANCE[precision])
    return findings


def _size(error: float) -> float:
    return math.inf if math.isnan(error) else error


def resume(settings: StageSettings) -> Findings:
    """Kill a run after a checkpoint and start it again: it must be bit-equal to an undisturbed run."""
    findings = Findings()
    chosen = (
        "train.precision=fp32",
        "zero.stage=1",
        f"train.steps={RESUMED_STEPS}",
        f"train.checkpoint_every={SAVE_EVERY}",
    )
    whole, killed = settings.folder / "whole", settings.folder / "killed"
    findings.equal("exit status of the undisturbed run", pretrain(settings, whole, *SETTINGS, *chosen), 0)
    full = command(*SETTINGS, *chosen, "--data", STORE, "--output", killed)
    process = subprocess.Popen(full, env=environment(settings), start_new_session=True)
    latest = killed / CHECKPOINTS / "latest"
    while not latest.exists() and process.poll() is None:
        time.sleep(POLL_SECONDS)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    findings.equal("the run was killed before its end", (killed / SUMMARY_NAME).exists(), False)
    findings.equal("exit status of the resumed run", pretrain(settings, killed, *SETTINGS, *chosen), 0)
    findings.equal("steps of the resumed run", len(losses(killed)), RESUMED_STEPS)
    different = sum(losses(killed).get(step) != loss for step, loss in losses(whole).items())
    findings.equal("losses that are not the same to the bit", different, 0)
    return findings


def large(settings: StageSettings) -> Findings:
    """Train the whole 1.1B for a few steps at stages 1 and 3, save it and load it again."""
    findings = Findings()
    size: Sequence[str] = ("0.03M",) if settings.quick else ("1.1B",)
    for zero in (1,) if settings.quick else (1, 3):
        output = settings.folder / f"zero{zero}"
        chosen = (
            "--size", *size, f"zero.stage={zero}", f"train.steps={LARGE_STEPS}", "train.warmup_steps=2",
            "train.log_every=1", "train.validate_every=1000", "data.workers=0", "train.global_batch_size=32",
        )  # fmt: skip
        begun = time.monotonic()
        findings.equal(f"stage {zero}: exit status", pretrain(settings, output, *chosen), 0)
        findings.notes.append(f"stage {zero}: {time.monotonic() - begun:.0f} s from start to saved model")
        found = losses(output)
        findings.equal(f"stage {zero}: steps with a finite loss", sum(map(math.isfinite, found.values())), LARGE_STEPS)
        again = pretrain(settings, output.with_name(f"{output.name}-again"), *chosen, f"init={output}")
        findings.equal(f"stage {zero}: exit status of a run from its weights", again, 0)
    return findings


def pretraining(settings: StageSettings) -> Findings:
    """Pretrain the 42M on the store given with --store for the remaining time; the curve stays in its folder."""
    findings = Findings()
    if settings.store is None:
        findings.notes.append("No --store was given.")
        return findings
    output = settings.folder / "42M"
    full = command(
        "--size", "42M", "--data", settings.store, "--output", output, "train.steps=100000", "train.warmup_steps=200",
        "train.learning_rate=2e-4", "train.global_batch_size=512", "train.log_every=10", "train.validate_every=200",
    )  # fmt: skip
    process = subprocess.Popen(full, env=environment(settings), start_new_session=True)
    try:
        process.wait(timeout=0.8 * settings.seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)  # saves
        process.wait(timeout=0.15 * settings.seconds)
    found = losses(output)
    first, last = found[min(found)], found[max(found)]
    findings.tables["Pretraining of 42M"] = [
        ["step", "loss"],
        *([str(step), f"{loss:.4f}"] for step, loss in found.items()),
    ]
    findings.at_most("last loss as a share of the first", last / first, 0.9)
    return findings


def write_curve() -> None:
    """Write the losses of a CPU that other devices are compared with."""
    import tempfile

    import torch

    with tempfile.TemporaryDirectory() as folder:
        cpu = StageSettings(device=torch.device("cpu"), quick=True, folder=Path(folder), store=None, seconds=math.inf)
        output = Path(folder) / "run"
        chosen = ("zero.stage=0", "train.precision=fp32", f"train.steps={CURVE_STEPS}")
        assert pretrain(cpu, output, *SETTINGS, *chosen) == 0
        CURVE.write_text(json.dumps(losses(output), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_curve()
