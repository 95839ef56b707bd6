"""Time whole training steps on a CPU: micro-batches side by side, beside one after another on all threads.

    python -m benchmarks.training.cpu_training data/sample

A turn is one optimizer step on micro-batches prepared before it: losses, gradients, norm, clipping and AdamW,
by the engine's own ``OptimizerStep`` under DeepSpeed's stage 0. All sides train on the same molecules, in turns, and a
ratio compares neighbouring turns, so that it is valid although the machine's speed drifts. The former way is
``train.side_by_side=1``; with ``--former-kernels`` it also uses the matrix libraries of that time. With
``--neighbour`` the sides are also measured while another process keeps one of the cores busy.
"""

import argparse
import datetime
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# As every command has it, and before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from benchmarks.common import RESULTS, as_started, deliver, module_parser, processor
from unimol_scale.common.machine import threads
from unimol_scale.common.report.markdown import markdown_table
from unimol_scale.config import read_settings
from unimol_scale.data.dataset import training_loader
from unimol_scale.engine.log.throughput import matmul_peak
from unimol_scale.engine.objective_setup import objective_of
from unimol_scale.engine.optimizer_step import OptimizerStep, sample_completer
from unimol_scale.engine.parallel.deepspeed_model import DeepSpeedModel
from unimol_scale.engine.parallel.ranks import Ranks, leave_ranks, share_cores, start_ranks
from unimol_scale.engine.run.run_config import PretrainConfig, resolve
from unimol_scale.model import kernels
from unimol_scale.model.native.library import torch_only
from unimol_scale.objectives.base import Sample, corruption_of

COMMAND = "python -m benchmarks.training.cpu_training"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_BUSY = "while True: pass"


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to compute steps.

    Attributes:
        precision: fp32 or bf16.
        at_once: micro-batches side by side; 1: one after another.
    """

    precision: str
    at_once: int

    @property
    def name(self) -> str:
        """What the table calls it."""
        return "one after another" if self.at_once == 1 else f"{self.at_once} side by side"


class Side:
    """A model that is trained in one of the ways, with its batches in memory.

    Args:
        way: how it computes.
        size: named size of the model.
        arguments: of the command line.
        ranks: this process.
    """

    def __init__(self, way: Way, size: str, arguments: argparse.Namespace, ranks: Ranks) -> None:
        self.way = way
        config = configure(way, size, arguments)
        objective = objective_of(config)
        self.threads = share_cores(ranks, objective.count_parameters(config.model).total)
        self._former = arguments.former_kernels and way.at_once == 1
        self.model = DeepSpeedModel(lambda: objective.build_model(config.model), config, ranks)
        complete = sample_completer(ranks.device, None)
        self._step = OptimizerStep(self.model, objective, complete, ranks, config.seed, way.at_once)
        loader = training_loader(
            config.data, corruption_of(objective, config.model), batch_size=arguments.batch, seed=0, rank=0,
            world_size=1, at_once=way.at_once,
        )  # fmt: skip
        # Every turn has new molecules, and so micro-batches of new shapes: libraries make code for some of them.
        count = (arguments.rounds + 1) * (2 if arguments.neighbour else 1)
        self._batches: list[list[Sample]] = list(loader.steps(0, count))
        self._flops = sum(
            objective.training_flops(config.model, int(atoms))
            for number in range(count)
            for atoms in loader.planner.num_atoms_of(number)
        ) / (count * arguments.batch)
        self.losses: list[float] = []
        self._done = 0

    @property
    def flops_a_molecule(self) -> float:
        """FLOPs of training on one molecule, the mean of the batches."""
        return self._flops

    def turn(self) -> float:
        """Do a step and return its seconds."""
        torch.set_num_threads(self.threads)
        samples = self._batches[self._done]
        with former_kernels() if self._former else matching_kernels():
            started = time.perf_counter()
            result = self._step(samples, self._done, 1e-4, {})
            seconds = time.perf_counter() - started
        self.losses.append(result.loss)
        self._done += 1
        return seconds


@contextmanager
def former_kernels() -> Iterator[None]:
    """Compute with the former libraries: no C kernels, oneDNN for everything wide, transposed operands copied."""
    now = kernels._is_intel, kernels.weight_gradient
    kernels._is_intel = lambda: False  # type: ignore[assignment]
    kernels.weight_gradient = lambda grad_RC, x_RK: kernels.product(grad_RC.t(), x_RK)
    least, kernels.LEAST_DENSITY = kernels.LEAST_DENSITY, 0.0
    try:
        with torch_only():
            yield
    finally:
        kernels._is_intel, kernels.weight_gradient = now  # type: ignore[assignment]
        kernels.LEAST_DENSITY = least


@contextmanager
def matching_kernels() -> Iterator[None]:
    """Compute with the libraries chosen for the processor."""
    yield


@contextmanager
def neighbour() -> Iterator[None]:
    """Keep a core busy with another process."""
    process = subprocess.Popen([sys.executable, "-c", _BUSY])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def configure(way: Way, size: str, arguments: argparse.Namespace) -> PretrainConfig:
    """Return the run that a side does."""
    settings = [
        "train.steps=1000",
        "train.warmup_steps=1",
        f"train.global_batch_size={arguments.batch}",
        f"train.precision={way.precision}",
        f"train.side_by_side={way.at_once}",
        f"data.max_pairs={arguments.max_pairs}",
        "data.workers=0",
        "zero.stage=0",
    ]
    tree = {"data": {"path": arguments.store}, "output": str(Path(tempfile.gettempdir()) / "cpu-training")}
    return resolve(size, *read_settings(arguments.config, tree, settings))


def take_turns(sides: Sequence[Side], rounds: int) -> dict[Way, list[float]]:
    """Return the seconds of every side's steps; the sides take turns, and the first one of each is not counted."""
    seconds: dict[Way, list[float]] = {side.way: [] for side in sides}
    for number in range(rounds + 1):
        for side in sides:
            spent = side.turn()
            if number:
                seconds[side.way].append(spent)
    return seconds


def ratio(slow: Sequence[float], fast: Sequence[float]) -> str:
    """Return the median of the turns' ratios, and the least and the most."""
    found = sorted(a / b for a, b in zip(slow, fast, strict=True))
    return f"**{statistics.median(found):.2f}** ({found[0]:.2f} … {found[-1]:.2f})"


def measure(size: str, arguments: argparse.Namespace, ranks: Ranks, peaks: dict[str, float]) -> list[list[str]]:
    """Return the rows of a size."""
    at_once = min(8, threads.given_threads() or threads.usable_cores())
    ways = [Way(precision=p, at_once=n) for p, n in itertools.product(arguments.precision, (1, at_once))]
    sides = [Side(way, size, arguments, ranks) for way in ways]
    alone = take_turns(sides, arguments.rounds)
    beside: dict[Way, list[float]] = {}
    if arguments.neighbour:
        with neighbour():
            beside = take_turns(sides, arguments.rounds)
    rows = []
    for side in sides:
        way, first = side.way, ways[0]
        rate = arguments.batch / statistics.median(alone[way])
        slowed = statistics.median(beside[way]) / statistics.median(alone[way]) if beside else None
        rows.append([
            size, way.precision, way.name, f"{rate:,.0f}", f"{rate * side.flops_a_molecule / peaks[way.precision]:.0%}",
            "1" if way == first else ratio(alone[first], alone[way]),
            f"{side.losses[0]:.4f} → {side.losses[arguments.rounds]:.4f}",
            "" if slowed is None else f"{slowed:.2f}",
            "" if slowed is None or way == first else ratio(beside[first], beside[way]),
        ])  # fmt: skip
        print(" | ".join(rows[-1]), flush=True)
    return rows


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("store", help="conformer store")
    parser.add_argument("--size", nargs="+", default=["0.1M", "0.5M", "2M", "4M"])
    parser.add_argument("--config", type=Path, help="settings of the run, such as configs/pretrain/zinc-cpu.yaml")
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=DTYPES,
        default=["fp32", "bf16"],
        help="precisions to time; speeds are relative to the first",
    )
    parser.add_argument("--rounds", type=int, default=8, help="timed steps of each side")
    parser.add_argument("--batch", type=int, default=64, help="molecules per step")
    parser.add_argument("--max-pairs", type=int, default=24_000)
    parser.add_argument(
        "--former-kernels", action="store_true", help="for one after another, use the kernels from before 2026-11-29"
    )
    parser.add_argument("--neighbour", action="store_true", help="measure also while another process is busy")
    parser.add_argument("--output", type=Path, default=RESULTS / "cpu_training.md")
    return parser


def main() -> int:
    """Measure, print and write."""
    arguments = build_parser().parse_args()
    load = os.getloadavg()[0]
    ranks = start_ranks()
    torch.set_num_threads(threads.given_threads() or threads.usable_cores())
    peaks = {name: matmul_peak(ranks.device, DTYPES[name]) for name in arguments.precision}
    wall, busy = time.perf_counter(), time.process_time()
    rows = [row for size in arguments.size for row in measure(size, arguments, ranks, peaks)]
    cores = (time.process_time() - busy) / (time.perf_counter() - wall)
    header = [
        "size", "precision", "micro-batches", "molecules/s", "of matmul peak", "× the first (least … most)",
        "loss, first → last turn", "time × beside a busy process", "there × the first",
    ]  # fmt: skip
    lines = [
        "# Whole training steps on a CPU",
        "",
        f"- {datetime.date.today()}, {processor()}, {threads.usable_cores()} cores, torch {torch.__version__}",
        f"- `{as_started(COMMAND)}`",
        f"- {arguments.batch} molecules a step, {arguments.rounds} turns of each side; a ratio is the median of turns",
        "- matrix product peak of all cores: "
        + ", ".join(f"{name} {peak / 1e9:,.0f} GFLOP/s" for name, peak in peaks.items()),
        f"- load of the machine when this began: {load:.1f}; {cores:.2f} cores' time went into this process",
        "",
        *markdown_table(header, rows),
    ]
    deliver("\n".join(lines) + "\n", arguments.output)
    leave_ranks()
    return 0


if __name__ == "__main__":
    sys.exit(main())
