"""Time one training step of the model, compared with the textbook formulation of the same function.

    python -m benchmarks.training.model_step --size 84M --layers 2 --atoms 32 --batch 8

A step is forward, backward and AdamW, without dropout. Formulations take turns, so that drift of the machine cancels;
both start from the same weights, and the run ends if their losses differ. The share of the peak (MFU) and FLOP/s count
the model's own matrix products (model/accounting.py) for every formulation: useful work, not work done.

Peak memory is taken in a fresh process for each formulation, after one step has made optimizer state and library
buffers: what the next steps add to that (gradients, activations, temporaries), and the absolute peak. On CPU that is
the kernel's high-water mark of the resident set (VmHWM, reset through /proc/self/clear_refs; Linux only) with malloc
told to give memory back; on CUDA what torch's allocator has handed out.
"""

import argparse
import ctypes
import datetime
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# As every command has it, and before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import again, module_parser, processor
from benchmarks.training.textbook import TextbookModel
from unimol_scale.data.transfer import to_device
from unimol_scale.engine.log.throughput import matmul_peak
from unimol_scale.model.accounting import training_flops
from unimol_scale.model.encodings import ModelInput
from unimol_scale.model.official.released_weights import to_official
from unimol_scale.model.presets import PRESETS, ModelConfig, preset
from unimol_scale.objectives.base import total_loss
from unimol_scale.objectives.denoise import DenoiseConfig, DenoiseModel, DenoiseObjective, DenoiseSample

COMMAND = "python -m benchmarks.training.model_step"

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MIB = 2**20
# Zeroed by initialisation, the residual branches would multiply zeros, which some hardware does faster.
WEIGHT_NOISE = 0.02
LOSS_TOLERANCE = 1e-4
MEMORY_STEPS = 2
# Blocks of a MiB or more are then returned when freed, so the resident set follows the memory in use.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(MIB), "MALLOC_TRIM_THRESHOLD_": str(MIB)}
PROFILE_ROWS = 12
CONSOLE = Console(stderr=True)
# A formulation and its dtype.
Variant = tuple[str, str]
TEXTBOOK: Variant = ("textbook", "fp32")


@dataclass(frozen=True, kw_only=True)
class Result:
    """Measurements of one formulation: seconds of each step; bytes added by steps, and in total."""

    seconds: list[float]
    step_bytes: int
    peak_bytes: int


def draw_sizes(atoms: str, batch: int, seed: int) -> list[int]:
    """Return the atom count of each molecule: the number given, or a draw like that of a drug-like library."""
    if atoms != "sample":
        return [int(atoms)] * batch
    draw = np.random.default_rng(seed).normal(25.0, 6.0, size=batch)
    return [int(n) for n in draw.round().clip(4, 60)]


def random_sample(sizes: list[int], seed: int) -> DenoiseSample:
    """Return a padded micro-batch of meaningless molecules of these sizes; speed does not depend on the values."""
    rng, B, A = np.random.default_rng(seed), len(sizes), max(sizes)
    valid_BA = torch.from_numpy(np.arange(A)[None, :] < np.array(sizes)[:, None])

    def codes(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.integers(low, high, size=shape, dtype=np.uint8))

    token_BA = codes(6, 9, B, A) * valid_BA
    masked_BA = torch.from_numpy(rng.random((B, A)) < 0.15) & valid_BA
    clean_BA3 = torch.from_numpy(rng.normal(size=(B, A, 3)).astype(np.float32)) * 2.0 * valid_BA.unsqueeze(-1)
    return DenoiseSample(
        input=ModelInput(
            token_BA=token_BA.masked_fill(masked_BA, 127),
            atom_features_BA8=codes(0, 2, B, A, 8),
            degree_BA=codes(1, 5, B, A),
            bond_features_BAA3=codes(0, 3, B, A, A, 3),
            path_BAA=codes(1, 12, B, A, A).to(torch.int16),
            hidden_B=torch.zeros(B, dtype=torch.bool),
            coordinates_BA3=clean_BA3 + 0.2 * torch.from_numpy(rng.normal(size=(B, A, 3)).astype(np.float32)),
        ),
        counts={"token": float(masked_BA.sum()), "coordinate": float(B), "distance": float(B)},
        molecule_B=torch.arange(B),
        num_atoms=sum(sizes),
        masked_BA=masked_BA,
        atomic_number_BA=token_BA,
        clean_BA3=clean_BA3,
    )


def build(variant: Variant, config: ModelConfig, device: torch.device, seed: int) -> nn.Module:
    """Return the model of a formulation in its dtype; the weights are the same function for every formulation."""
    name, dtype = variant
    torch.manual_seed(seed)
    model: nn.Module = DenoiseModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(WEIGHT_NOISE * torch.randn_like(parameter))
    if name == "textbook":
        weights = to_official(model.state_dict(), config)
        model = TextbookModel(config)
        model.load_state_dict(weights)
    # Parameters only: the kernel's centres stay in fp32, as under DeepSpeed.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(DTYPES[dtype])
    return model.to(device)


def make_step(model: nn.Module, sample: DenoiseSample) -> Callable[[], float]:
    """Return a function that takes one training step and returns its loss once the device is done."""
    device = sample.clean_BA3.device
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.99), weight_decay=1e-4, foreach=True)
    weights = DenoiseObjective(DenoiseConfig()).weights

    def step() -> float:
        loss = total_loss(model(sample), sample.counts, weights)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return loss.item()

    return step


def status_bytes(field: str) -> int:
    """Return VmRSS or VmHWM of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) * 1024


def measure_memory(step: Callable[[], float], device: torch.device) -> tuple[int, int]:
    """Return bytes that steps add, and the absolute peak; wants a process that holds this model alone."""
    step()
    gc.collect()
    if device.type == "cuda":
        baseline = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
    else:
        ctypes.CDLL(None).malloc_trim(0)
        baseline = status_bytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    for _ in range(MEMORY_STEPS):
        step()
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else status_bytes("VmHWM")
    return peak - baseline, peak


def memory_in_fresh_process(variant: Variant) -> tuple[int, int]:
    """Run this module again for the memory of one formulation."""
    command, environment = again(COMMAND, [*sys.argv[1:], "--memory-of", ":".join(variant)])
    done = subprocess.run(command, env={**environment, **MALLOC}, stdout=subprocess.PIPE, text=True, check=True)
    step_bytes, peak_bytes = json.loads(done.stdout)
    return step_bytes, peak_bytes


def time_in_turns(steps: dict[Variant, Callable[[], float]], repeats: int) -> dict[Variant, list[float]]:
    """Return seconds of the steps of each formulation, in turns, after two of warm-up that agree on the loss."""
    note("warm-up")
    losses = {variant: step() for variant, step in steps.items()}
    reference = losses[TEXTBOOK]
    if abs(losses.get(("ours", "fp32"), reference) - reference) > LOSS_TOLERANCE * reference:
        raise SystemExit(f"the formulations do not compute the same function; their losses differ: {losses}")
    for step in steps.values():
        step()
    seconds: dict[Variant, list[float]] = {variant: [] for variant in steps}
    for repeat in range(repeats):
        note(f"timing, round {repeat + 1} of {repeats}")
        for variant, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[variant].append(time.perf_counter() - start)
    return seconds


def make_table(results: dict[Variant, Result], molecules: int, flops: float, peaks: dict[str, float]) -> Table:
    """Return the table; ``flops`` is of one step, ``peaks`` of a matrix product in each dtype."""
    table = Table(
        caption="memory: MiB added by a step, and absolute peak; × textbook: of its speed, of its added memory"
    )
    headings = "formulation dtype ms:median ms:min molecules/s GFLOP/s MFU added peak ×speed ×speed:min ×memory"
    for heading in headings.split():
        table.add_column(
            heading.replace(":", " "), justify="left" if table.columns[1:] == [] else "right", no_wrap=True
        )
    base = results[TEXTBOOK]
    for (name, dtype), result in results.items():
        median, best = statistics.median(result.seconds), min(result.seconds)
        table.add_row(
            name,
            dtype,
            f"{1e3 * median:.1f}",
            f"{1e3 * best:.1f}",
            f"{molecules / median:.2f}",
            f"{flops / median / 1e9:.0f}",
            f"{flops / median / peaks[dtype]:.1%}",
            f"{result.step_bytes / MIB:.0f}",
            f"{result.peak_bytes / MIB:.0f}",
            f"{statistics.median(base.seconds) / median:.2f}",
            f"{min(base.seconds) / best:.2f}",
            f"{result.step_bytes / base.step_bytes:.2f}",
        )
    return table


def markdown(table: Table, lines: list[str]) -> str:
    """Return lines and table as Markdown."""
    cells = [list(column.cells) for column in table.columns]
    rows = [[str(column.header) for column in table.columns], ["---"] * len(cells), *zip(*cells, strict=True)]
    body = "\n".join(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows)
    return "\n".join(
        ["# One training step, beside the textbook formulation", "", *(f"- {line}" for line in lines), ""]
    ) + (f"\n{body}\n\n{table.caption}\n")


def describe_hardware(device: torch.device) -> str:
    """Return the device's name, threads and torch's version."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    isa = torch.backends.cpu.get_cpu_capability()
    return f"{processor()} ({platform.machine()}, {isa}), {torch.get_num_threads()} threads, torch {torch.__version__}"


def print_profile(variant: Variant, step: Callable[[], float], device: torch.device) -> None:
    """Print the operators that take most time in one step of a formulation."""
    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as profiler:
        step()
    order = "self_device_time_total" if cuda else "self_cpu_time_total"
    print(f"{' '.join(variant)}, one step, by {order}")
    print(profiler.key_averages().table(sort_by=order, row_limit=PROFILE_ROWS, max_name_column_width=48))


def note(text: str) -> None:
    """Print on standard error what is running."""
    CONSOLE.print(f"{datetime.datetime.now():%H:%M:%S} {text}", highlight=False)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("--size", default="84M", choices=PRESETS, help="width and, without --layers, depth")
    parser.add_argument("--layers", type=int, help="number of layers (default: the size's)")
    parser.add_argument(
        "--atoms", default="32", help="atoms of each molecule, or 'sample': normal, 25 ± 6, within 4..60"
    )
    parser.add_argument("--batch", type=int, default=8, help="molecules")
    parser.add_argument(
        "--dtype",
        default="both",
        choices=[*DTYPES, "both"],
        help="precision of the model; the textbook formulation uses fp32",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each formulation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", action="store_true", help="print the operators that take most time")
    parser.add_argument("--output", type=Path, metavar="FILE.md", help="file for the table")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    return parser


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = build_parser()
    options = parser.parse_args()
    if options.atoms != "sample" and not (options.atoms.isdigit() and int(options.atoms) > 0):
        parser.error(f"--atoms must be a positive number or 'sample', got {options.atoms!r}")
    if options.batch < 1 or options.repeats < 1:
        parser.error("--batch and --repeats must be at least 1")
    return options


def command_line(options: argparse.Namespace, layers: int) -> str:
    """Return a command that repeats this run, defaults spelt out."""
    shown = {**vars(options), "layers": layers}
    keys = ("size", "layers", "atoms", "batch", "dtype", "device", "repeats", "seed")
    return " ".join([COMMAND, *(f"--{key} {shown[key]}" for key in keys)])


def main() -> None:
    """Measure, print, and write the table if asked."""
    options = parse()
    changes = {"dropout": 0.0, "attention_dropout": 0.0, "triangle_dropout": 0.0}
    config = preset(options.size, layers=options.layers or PRESETS[options.size].layers, **changes)
    device = torch.device(options.device)
    sizes = draw_sizes(options.atoms, options.batch, options.seed)
    sample = to_device(random_sample(sizes, options.seed), device)

    if options.memory_of:
        name, dtype = options.memory_of.split(":")
        step = make_step(build((name, dtype), config, device, options.seed), sample)
        print(json.dumps(measure_memory(step, device)))
        return

    dtypes = list(DTYPES) if options.dtype == "both" else [options.dtype]
    variants = [TEXTBOOK, *(("ours", dtype) for dtype in dtypes)]
    memory: dict[Variant, tuple[int, int]] = {}
    for variant in variants:
        note(f"memory of {' '.join(variant)}, in its own process")
        memory[variant] = memory_in_fresh_process(variant)
    note("peak of a matrix product")
    peaks = {dtype: matmul_peak(device, DTYPES[dtype]) for dtype in dict.fromkeys(["fp32", *dtypes])}
    steps = {variant: make_step(build(variant, config, device, options.seed), sample) for variant in variants}
    wall, busy = time.perf_counter(), time.process_time()
    seconds = time_in_turns(steps, options.repeats)
    cores = (time.process_time() - busy) / (time.perf_counter() - wall)
    results = {v: Result(seconds=seconds[v], step_bytes=memory[v][0], peak_bytes=memory[v][1]) for v in variants}

    table = make_table(results, len(sizes), sum(training_flops(config, n) for n in sizes), peaks)
    lines = [
        f"{datetime.date.today()}, {describe_hardware(device)}",
        f"`{command_line(options, config.layers)}`",
        f"atoms: mean {statistics.mean(sizes):.1f}, smallest {min(sizes)}, largest {max(sizes)}",
        "matrix product peak: " + ", ".join(f"{dtype} {peak / 1e9:.0f} GFLOP/s" for dtype, peak in peaks.items()),
    ]
    if device.type == "cpu":
        lines.append(
            f"processor time while timing: {cores:.2f} of {torch.get_num_threads()} cores; less means a busy machine"
        )
    if options.dtype == "both":
        ratio = statistics.median(seconds["ours", "fp32"]) / statistics.median(seconds["ours", "bf16"])
        lines.append(f"ours, bf16: {ratio:.2f} × the speed of ours in fp32")
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(*lines, table, sep="\n", highlight=False)
    if options.output:
        options.output.write_text(markdown(table, lines))
    if options.profile:
        for variant, step in steps.items():
            print_profile(variant, step, device)


if __name__ == "__main__":
    main()
