"""Time the loading of training batches on one core, compared with a loader that treats one molecule at a time.

    python -m benchmarks.training.data_path data/sample

Both end with the tensors of the denoising objective; ours reads the store, the plain one pickled records in memory.
Rates are molecules per second of one thread's processor time; with worker processes, per second of the clock. Padding:
1 − real pairs / padded pairs, a molecule of n atoms having (n + 1)² pairs. Memory is what all processes hold that is
not the mapped store (anonymous pages, from /proc: Linux only), early and late in a run over the data.
"""

import argparse
import datetime
import itertools
import os
import time
from collections.abc import Iterable
from pathlib import Path

# One thread a process, set before NumPy reads it: the number wanted is that of one core.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")

import numpy as np
import torch

from benchmarks.common import deliver, module_parser, processor
from benchmarks.training.plain_loader import pickled_records, plain_collate, plain_item
from unimol_scale.common.machine.threads import usable_cores
from unimol_scale.data.dataset import DataConfig, training_loader
from unimol_scale.data.loader import StepLoader
from unimol_scale.data.steps.micro_batches import Int32, Int64, pair_cost, plan_micro_batches
from unimol_scale.data.steps.order import global_batch
from unimol_scale.objectives.base import Sample
from unimol_scale.objectives.denoise import DenoiseConfig, DenoiseObjective
from unimol_scale.store.shards import open_store

COMMAND = "python -m benchmarks.training.data_path"

MIB = 2**20
WARM_UP = 2  # steps
SEED = 0


def loader_of(store: Path, workers: int, arguments: argparse.Namespace) -> StepLoader[Sample]:
    """Return the training loader of one rank."""
    config = DataConfig(path=str(store), max_pairs=arguments.max_pairs, workers=workers)
    objective = DenoiseObjective(DenoiseConfig())
    return training_loader(config, objective.corrupt_at, batch_size=arguments.batch, seed=SEED, rank=0, world_size=1)


def rate_of_one_process(store: Path, arguments: argparse.Namespace) -> float:
    """Return molecules per second of processor time, loading in this process."""
    steps = loader_of(store, 0, arguments).steps(0, WARM_UP + arguments.steps)
    for _ in itertools.islice(steps, WARM_UP):
        pass
    start = time.process_time()
    molecules = sum(len(sample.molecule_B) for samples in steps for sample in samples)
    return molecules / (time.process_time() - start)


def rate_of_workers(store: Path, workers: int, arguments: argparse.Namespace) -> float:
    """Return molecules per second of the clock, loading in worker processes, once they have started."""
    steps = loader_of(store, workers, arguments).steps(0, WARM_UP + arguments.steps)
    for _ in itertools.islice(steps, WARM_UP):
        pass
    start = time.monotonic()
    molecules = sum(len(sample.molecule_B) for samples in steps for sample in samples)
    return molecules / (time.monotonic() - start)


def rate_of_plain_loader(store: Path, arguments: argparse.Namespace) -> float:
    """Return molecules per second of processor time of the loader of single molecules."""
    split = open_store(store).split("train")
    molecules, _ = global_batch(len(split), arguments.plain, SEED, 0)
    records, rng = pickled_records(split, molecules), np.random.default_rng(SEED)
    each = arguments.batch // arguments.micro_batches
    batches = [records[start : start + each] for start in range(0, len(records), each)]
    for record in batches[0]:
        plain_item(record, rng)
    start = time.process_time()
    for batch in batches:
        plain_collate([plain_item(record, rng) for record in batch])
    return len(records) / (time.process_time() - start)


def padding(num_atoms: Int32, members: Iterable[Int64]) -> float:
    """Return the share of padded pairs that are padding."""
    padded = sum(pair_cost(num_atoms[m], len(m)) for m in members)
    return 1.0 - float(np.square(num_atoms + 1.0).sum()) / padded


def padding_table(store: Path, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Return way of cutting → padding of each of some steps, all cut into the same number of micro-batches."""
    sizes = open_store(store).split("train").num_atoms
    count = arguments.micro_batches
    table: dict[str, list[float]] = {"random, equal numbers": [], "sorted, equal numbers": [], "ours": []}
    for step in range(arguments.padding_steps):
        num_atoms = sizes[global_batch(len(sizes), arguments.batch, SEED, step)[0]]
        everyone = np.arange(arguments.batch)
        table["random, equal numbers"].append(padding(num_atoms, np.array_split(everyone, count)))
        table["sorted, equal numbers"].append(padding(num_atoms, np.array_split(np.argsort(num_atoms), count)))
        budget = smallest_budget(num_atoms, count)
        table["ours"].append(padding(num_atoms, plan_micro_batches(num_atoms, 1, budget).members))
    return table


def smallest_budget(num_atoms: Int32, count: int) -> int:
    """Return the smallest data.max_pairs that needs no more than ``count`` micro-batches."""
    low, high = (int(num_atoms.max()) + 1) ** 2, pair_cost(num_atoms, len(num_atoms))
    while low < high:
        middle = (low + high) // 2
        if len(plan_micro_batches(num_atoms, 1, middle).members) <= count:
            high = middle
        else:
            low = middle + 1
    return low


def anonymous_bytes() -> int:
    """Return the memory of this process and its descendants that is not a mapped file."""
    total, waiting = 0, [os.getpid()]
    while waiting:
        process = waiting.pop()
        children = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii")
        waiting += [int(child) for child in children.split()]
        for line in Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Anonymous:"):
                total += int(line.split()[1]) * 1024
    return total


def memory_over_epochs(store: Path, workers: int, arguments: argparse.Namespace) -> list[float]:
    """Return the memory (MiB) at the end of each epoch, loading in worker processes."""
    loader = loader_of(store, workers, arguments)
    each = -(-loader.planner.num_molecules // arguments.batch)
    measured = []
    for done, _ in enumerate(loader.steps(0, each * arguments.epochs), start=1):
        if done % each == 0:
            measured.append(anonymous_bytes() / MIB)
    return measured


def report(arguments: argparse.Namespace) -> str:
    """Measure everything and return the Markdown."""
    store: Path = arguments.store
    split = open_store(store).manifest.splits["train"]
    load = os.getloadavg()[0]
    shared = "; a shared machine, so rates by the clock are provisional" if load > 1.0 else ""
    ours, plain = rate_of_one_process(store, arguments), rate_of_plain_loader(store, arguments)
    lines = [
        "# From store to batches",
        "",
        f"- {datetime.date.today().isoformat()}, {processor()}, {usable_cores()} cores, torch {torch.__version__}",
        f"- {split.rows:,} molecules of {sum(s.atoms for s in split.shards) / split.rows:.1f} atoms on average",
        f"- global batch {arguments.batch}, at most {arguments.max_pairs:,} padded pairs a micro-batch",
        f"- load of the machine when this began: {load:.1f}; rates of one core are of processor time{shared}",
        "",
        "| loader | molecules/s | × plain |",
        "|---|---|---|",
        f"| one molecule at a time: RDKit, Floyd–Warshall, NumPy | {plain:,.0f} per core | 1.0 |",
        f"| this one, in the rank's own process | {ours:,.0f} per core | {ours / plain:.1f} |",
    ]
    for workers in arguments.workers:
        rate = rate_of_workers(store, workers, arguments)
        lines.append(f"| this one, {workers} worker process{'es' * (workers > 1)} (by the clock) | {rate:,.0f} | – |")
    lines += ["", f"| {arguments.micro_batches} micro-batches | padding, mean | largest |", "|---|---|---|"]
    for name, shares in padding_table(store, arguments).items():
        lines.append(f"| {name} | {np.mean(shares):.1%} | {max(shares):.1%} |")
    memory = memory_over_epochs(store, max(arguments.workers), arguments)
    values = ", ".join(f"{value:.0f}" for value in memory)
    lines += ["", f"Memory of all processes at the end of each epoch, {max(arguments.workers)} workers: {values} MiB."]
    return "\n".join(lines) + "\n"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("store", type=Path)
    parser.add_argument("--batch", type=int, default=1024, help="global batch, molecules")
    parser.add_argument("--max-pairs", type=int, default=15_200, help="atom pairs per micro-batch")
    parser.add_argument("--steps", type=int, default=20, help="number of steps to time")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--plain", type=int, default=1024, help="molecules for the plain loader")
    parser.add_argument("--micro-batches", type=int, default=32, help="micro-batches for the table of padding")
    parser.add_argument("--padding-steps", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=6, help="epochs for the measurement of memory")
    parser.add_argument("--output", type=Path, help="Markdown file; default: standard output")
    return parser


def main() -> None:
    """Run the benchmark and print, or write, its report."""
    arguments = build_parser().parse_args()
    deliver(report(arguments), arguments.output)


if __name__ == "__main__":
    main()
