"""Test a GPU in one call: what it computes, whether that is correct, and how fast; in at most ten minutes.

    python -m benchmarks.gpu --output results/gpu
    python -m benchmarks.gpu --output results/cpu --device cpu --quick

Needs only this checkout and the packages that the trainer imports. Every stage runs in its own process with its own
time limit, so a stage that fails or hangs does not stop the others. Writes NAME.json and NAME.log for every stage,
report.md and results.json; the exit status is 0 only if all checks of all stages passed. On a CPU everything is small,
and checks that need a GPU are left out.
"""

import argparse
import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# As in every command, this comes before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks.common import again, as_started, module_parser, processor

COMMAND = "python -m benchmarks.gpu"
ALL_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the acceptance run.

    Attributes:
        name: name of its files, and of the function that runs it.
        module: module of this package that contains the function.
        seconds: time limit on a GPU.
        quick_seconds: time limit on a CPU, where everything is small and the machine may be busy.
        needs_gpu: whether it is left out on a CPU.
    """

    name: str
    module: str
    seconds: float
    quick_seconds: float = 300.0
    needs_gpu: bool = False


STAGES = (
    Stage(name="peak", module="device_speed", seconds=40),
    Stage(name="parity", module="numerics", seconds=60),
    Stage(name="kernels", module="numerics", seconds=120),
    Stage(name="syncs", module="device_speed", seconds=40),
    Stage(name="speed", module="device_speed", seconds=150),
    Stage(name="graphs", module="graphs", seconds=90, needs_gpu=True),
    Stage(name="memory", module="device_speed", seconds=40),
    Stage(name="engine", module="runs", seconds=180),
    Stage(name="resume", module="runs", seconds=60),
    Stage(name="large", module="runs", seconds=150),
    Stage(name="downstream", module="downstream_use", seconds=60),
    Stage(name="compiled", module="graphs", seconds=120, needs_gpu=True),
    Stage(name="pretraining", module="runs", seconds=300),
)


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """How a stage ended.

    Attributes:
        name: name of the stage.
        status: passed, failed, ended with a status, too slow, or not started for lack of time.
        seconds: its duration.
        findings: the content of its file; None: it wrote none.
    """

    name: str
    status: str
    seconds: float
    findings: dict[str, object] | None


def run_stage(stage: Stage, options: argparse.Namespace, seconds: float) -> StageResult:
    """Run a stage in a process group of its own and end it at its time limit."""
    told = options.output / f"{stage.name}.json"
    told.unlink(missing_ok=True)
    arguments = ["--stage", stage.name, "--seconds", f"{seconds:.0f}", "--output", str(options.output)]
    arguments += ["--device", options.device, *(["--quick"] if options.quick else [])]
    arguments += ["--store", str(options.store)] if options.store else []
    command, environment = again(COMMAND, arguments)
    if options.device == "cpu":
        environment["TRITON_INTERPRET"] = "1"
    begun = time.monotonic()
    with (options.output / f"{stage.name}.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            status = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = None
    findings = json.loads(told.read_text(encoding="utf-8")) if told.is_file() else None
    return StageResult(
        name=stage.name, status=_said(status, findings, seconds), seconds=time.monotonic() - begun, findings=findings
    )


def _said(status: int | None, findings: dict[str, object] | None, seconds: float) -> str:
    if status is None:
        return f"took longer than {seconds:.0f} s"
    if status or findings is None:
        return f"ended with status {status}; see its log"
    checks: list[dict[str, object]] = findings["checks"]  # type: ignore[assignment]
    failed = [check for check in checks if not check["passed"]]
    return f"{len(failed)} of {len(checks)} checks failed" if failed else "passed"


def report(results: Sequence[StageResult], options: argparse.Namespace) -> str:
    """Return the results as Markdown."""
    lines = ["# Acceptance run", "", f"- `{as_started(COMMAND)}`", f"- host: {processor()}", ""]
    lines += _table([["stage", "status", "s"], *([r.name, r.status, f"{r.seconds:.0f}"] for r in results)])
    for result in results:
        findings: dict[str, list] = result.findings or {}  # type: ignore[assignment]
        lines += ["", f"## {result.name}", "", *(f"- {note}" for note in findings.get("notes", []))]
        if checks := findings.get("checks"):
            rows = [[c["name"], c["found"], c["wanted"], "yes" if c["passed"] else "**no**"] for c in checks]
            lines += ["", *_table([["check", "found", "wanted", "passed"], *rows])]
        for title, rows in (findings.get("tables") or {}).items():  # type: ignore[union-attr]
            lines += ["", f"### {title}", "", *_table(rows)]
    return "\n".join([*lines, ""])


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:])]


def do_stage(options: argparse.Namespace) -> None:
    """Run one stage in this process."""
    import torch

    from benchmarks.gpu.stage import StageSettings

    stage = next(stage for stage in STAGES if stage.name == options.stage)
    folder = options.output / stage.name
    folder.mkdir(parents=True, exist_ok=True)
    function = getattr(importlib.import_module(f"benchmarks.gpu.{stage.module}"), stage.name)
    settings = StageSettings(
        device=torch.device(options.device), quick=options.quick, folder=folder, store=options.store,
        seconds=options.seconds,
    )  # fmt: skip
    function(settings).write(options.output / f"{stage.name}.json")


def accept(options: argparse.Namespace) -> bool:
    """Run the stages, write the report, and return whether all passed."""
    options.output.mkdir(parents=True, exist_ok=True)
    chosen = [stage for stage in STAGES if options.only is None or stage.name in options.only]
    if options.device == "cpu":
        chosen = [stage for stage in chosen if not stage.needs_gpu]
    begun, results = time.monotonic(), []
    for stage in chosen:
        left = options.seconds - (time.monotonic() - begun)
        limit = min(stage.quick_seconds if options.quick else stage.seconds, left)
        if limit < 1:
            results.append(StageResult(name=stage.name, status="not started: no time left", seconds=0, findings=None))
        else:
            results.append(run_stage(stage, options, limit))
        print(f"{stage.name}: {results[-1].status} ({results[-1].seconds:.0f} s)", flush=True)
        told = [dataclasses.asdict(result) for result in results]
        (options.output / "results.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
        (options.output / "report.md").write_text(report(results, options), encoding="utf-8")
    return all(result.status == "passed" for result in results)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="make everything small; always done on a CPU")
    parser.add_argument("--store", type=Path, help="conformer store for a real pretraining in the remaining time")
    parser.add_argument("--seconds", type=float, default=ALL_SECONDS, help="for everything")
    parser.add_argument(
        "--only", nargs="+", choices=[stage.name for stage in STAGES], help="run only these stages (default: all)"
    )
    parser.add_argument("--stage", choices=[stage.name for stage in STAGES], help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    options = build_parser().parse_args(arguments)
    options.quick |= options.device == "cpu"
    options.output = options.output.absolute()
    if options.stage:
        do_stage(options)
        return 0
    return 0 if accept(options) else 1


if __name__ == "__main__":
    sys.exit(main())
