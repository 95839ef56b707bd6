"""Train a large model on this machine as a user would, and record seconds per step and peak memory.

    python -m benchmarks.training.large_model --size 1.1B --steps 6 --data data/sample --output large_model.md

Starts `deepspeed launch/pretrain.py` with configs/pretrain/1.1B-cpu.yaml and reads what the run left: seconds between
log events, which are one step apart, losses and MFU from metrics.jsonl. The first step is not counted: it touches
memory for the first time. Validation and saving are not timed. Memory is sampled from outside, ten times a second for
each rank's resident set and once a second for its proportional set, which counts half of a page that two ranks share.
"""

import argparse
import datetime
import itertools
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch

from benchmarks.common import REPOSITORY, module_parser, processor
from unimol_scale.common.machine.threads import usable_cores
from unimol_scale.common.metrics_file import read_metrics
from unimol_scale.common.run_files import METRICS_NAME, SUMMARY_NAME

COMMAND = "python -m benchmarks.training.large_model"

GIB = 2**30
SAMPLE_SECONDS = 0.1
SAMPLES_A_PSS = 10


@dataclass(kw_only=True)
class Peaks:
    """Peak memory of the ranks: of each, and of all at one moment; bytes."""

    rss: dict[int, int] = field(default_factory=dict)
    all_rss: int = 0
    pss: dict[int, int] = field(default_factory=dict)
    all_pss: int = 0

    def sample(self, ranks: list[psutil.Process], *, with_pss: bool) -> None:
        """Look at every rank once."""
        rss, pss = {}, {}
        for rank in ranks:
            try:
                rss[rank.pid] = rank.memory_info().rss
                if with_pss:
                    pss[rank.pid] = rank.memory_full_info().pss
            except psutil.Error:  # it has just ended
                continue
        for mine, seen in ((self.rss, rss), (self.pss, pss)):
            for pid, value in seen.items():
                mine[pid] = max(mine.get(pid, 0), value)
        self.all_rss = max(self.all_rss, sum(rss.values()))
        self.all_pss = max(self.all_pss, sum(pss.values()))


def command_of(options: argparse.Namespace, output: Path) -> list[str]:
    """Return the command that a user would type, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        str(Path(sys.executable).parent / "deepspeed"), "-q", "--num_gpus", str(options.ranks),
        "--master_port", str(port), str(REPOSITORY / "launch" / "pretrain.py"),
        "--size", options.size, "--config", str(options.config), "--data", str(options.data.resolve()),
        "--output", str(output), f"train.steps={options.steps}", f"train.warmup_steps={min(2, options.steps)}",
        "train.log_every=1", f"train.validate_every={options.steps}", f"train.checkpoint_every={options.steps}",
        *options.settings,
    ]  # fmt: skip


def run_and_watch(command: list[str], ranks: int) -> Peaks:
    """Run a command to its end and return its ranks' peaks.

    Raises:
        SystemExit: it failed.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "LOCAL_SIZE": str(ranks), "PATH": path}
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, start_new_session=True)
    peaks, found = Peaks(), []
    try:
        for turn in itertools.count():
            if process.poll() is not None:
                break
            if len(found) < ranks:
                found = [child for child in psutil.Process(process.pid).children(recursive=True) if is_rank(child)]
            peaks.sample(found, with_pss=turn % SAMPLES_A_PSS == 0)
            time.sleep(SAMPLE_SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise SystemExit(f"the run failed with status {process.returncode}")
    return peaks


def is_rank(process: psutil.Process) -> bool:
    """Return whether a process is a rank, and neither a launcher nor a loader of one."""
    try:
        return any(part.startswith("--local_rank") for part in process.cmdline())
    except psutil.Error:
        return False


def step_seconds(events: Sequence[dict[str, float]]) -> list[float]:
    """Return the seconds of each step but the first, from the log events of training."""
    marks = [event["seconds"] for event in events if "loss" in event]
    return [after - before for before, after in itertools.pairwise(marks)]


def report(options: argparse.Namespace, run: Path, peaks: Peaks) -> str:
    """Return what was measured as Markdown."""
    events = read_metrics(run / METRICS_NAME).events
    training = [event for event in events if "loss" in event]
    summary = json.loads((run / SUMMARY_NAME).read_text())
    seconds = step_seconds(events)
    memory = psutil.virtual_memory().total
    each = sorted(peaks.pss.values(), reverse=True)
    today = datetime.date.today()
    shown = [f"--{key} {getattr(options, key)}" for key in ("size", "ranks", "steps", "data")]
    command = " ".join([COMMAND, *shown, *options.settings])
    rows = [
        ("parameters", f"{summary['parameters']['total']:,}"),
        ("ranks", str(options.ranks)),
        ("steps", f"{len(training)} of {summary['global_batch_size']} molecules"),
        ("seconds per step: median", f"{statistics.median(seconds):.1f}"),
        ("seconds per step: least, most", f"{min(seconds):.1f}, {max(seconds):.1f}"),
        ("molecules/s", f"{summary['global_batch_size'] / statistics.median(seconds):.2f}"),
        ("MFU of the last step", f"{training[-1]['mfu']:.1%}"),
        ("peak of a rank, proportional set", ", ".join(f"{value / GIB:.2f} GiB" for value in each)),
        ("peak of a rank, resident set", ", ".join(f"{value / GIB:.2f} GiB" for value in peaks.rss.values())),
        ("peak of all ranks at one moment", f"{max(peaks.all_pss, sum(each)) / GIB:.2f} GiB"),
        ("loss, first and last step", f"{training[0]['loss']:.4f}, {training[-1]['loss']:.4f}"),
    ]
    return "\n".join(
        [
            f"# {options.size} on one machine without a GPU",
            "",
            f"- {today}, {processor()}, {usable_cores()} cores, {memory / GIB:.1f} GiB, torch {torch.__version__}",
            f"- `{command}`, with {options.config}",
            f"- load of the machine when this ended: {os.getloadavg()[0]:.1f}",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in rows),
            "",
        ]
    )


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("--size", default="1.1B", help="a preset")
    parser.add_argument("--config", type=Path, default=Path("configs/pretrain/1.1B-cpu.yaml"), metavar="FILE")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps, at least 3")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="conformer store")
    parser.add_argument("--output", type=Path, metavar="FILE.md", help="file for the table")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="directory for the run folder and its checkpoint")
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="settings of the run, which override those of the file"
    )
    return parser


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = build_parser()
    options = parser.parse_args()
    if options.steps < 3:
        parser.error("--steps must be at least 3: the first is not counted")
    return options


def main() -> None:
    """Run, print, and write the table if asked to."""
    options = parse()
    scratch = Path(tempfile.mkdtemp(prefix="large-model-", dir=options.scratch))
    try:
        peaks = run_and_watch(command_of(options, scratch / "run"), options.ranks)
        text = report(options, scratch / "run", peaks)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
