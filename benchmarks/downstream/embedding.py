"""Time the embedding of molecules, compared with a loop that runs one molecule at a time through the same model.

    python -m benchmarks.downstream.embedding data/sample --size 2M 42M --precision fp32 bf16

Both read the same molecules of a store, whose conformers are made already, show the model graph and conformer, compute
in the same precision, and end with one vector a molecule; the run ends if the vectors differ. They take turns, so that
drift of the machine cancels; rates are medians, by the clock. Weights are random, which no rate depends on. Shares are
of the FLOP/s that a large matrix product reaches on the same threads: what a molecule takes whatever the batch, and the
limit of any batching.
"""

import argparse
import datetime
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

# As in every command, this comes before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from benchmarks.common import deliver, module_parser, processor
from unimol_scale.common.machine.devices import pick_device
from unimol_scale.common.machine.memory import keep_freed_memory
from unimol_scale.common.machine.threads import usable_cores
from unimol_scale.data.batch import collate
from unimol_scale.data.input_views import STANDARD_VIEWS
from unimol_scale.data.steps.order import global_batch
from unimol_scale.data.transfer import to_device
from unimol_scale.downstream.data.inputs import clean_input
from unimol_scale.downstream.embedding.pooling import pool
from unimol_scale.downstream.embedding.representations import RepresentationConfig, represent_all
from unimol_scale.engine.log.throughput import matmul_peak
from unimol_scale.model.accounting import Heads, forward_flops
from unimol_scale.model.backbone import TwoTrackBackbone
from unimol_scale.model.presets import PRESETS, preset
from unimol_scale.store.schema import Float32, Int64
from unimol_scale.store.shards import StoreSplit, open_store

COMMAND = "python -m benchmarks.downstream.embedding"

WANTED = 5.0
# Relative to the largest entry; rounding to bf16 depends on which product torch takes, and that on the shape.
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}
DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16}


@torch.inference_mode()
def one_at_a_time(backbone: TwoTrackBackbone, split: StoreSplit, position_R: Int64) -> Float32:
    """Return [R, D] as a plain loop makes it."""
    device = next(backbone.parameters()).device
    vectors = []
    for position in position_R:
        batch = collate(split.gather(np.array([position])))
        seen = backbone(to_device(clean_input(batch, STANDARD_VIEWS["2d+3d"], backbone.config), device))
        vectors.append(pool(seen, "mean")[0].float().cpu().numpy())
    return np.stack(vectors)


def timed(work: Callable[[], Float32]) -> tuple[float, Float32]:
    """Return the seconds that some work took, and its result, which is on the CPU."""
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def row(size: str, precision: str, split: StoreSplit, arguments: argparse.Namespace) -> str:
    """Measure one size; return its line of the table."""
    torch.manual_seed(0)
    backbone = TwoTrackBackbone(preset(size)).eval().to(pick_device(arguments.device), DTYPE[precision])
    position_R, _ = global_batch(len(split), min(arguments.molecules, len(split)), 0, 0)
    few_R = position_R[: arguments.plain]
    config = RepresentationConfig(max_pairs=arguments.max_pairs, workers=arguments.workers)

    def ours() -> Float32:
        return np.stack(represent_all(backbone, split, position_R, config))

    one_at_a_time(backbone, split, few_R[:4])  # warms both
    peak = matmul_peak(next(backbone.parameters()).device, DTYPE[precision])
    rates: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(arguments.repeats):
        seconds, found = timed(ours)
        rates["ours"].append(len(position_R) / seconds)
        seconds, expected = timed(lambda: one_at_a_time(backbone, split, few_R))
        rates["plain"].append(len(few_R) / seconds)
        difference = float(np.abs(found[: len(few_R)] - expected).max() / np.abs(expected).max())
        if difference > TOLERANCE[precision]:
            raise SystemExit(
                f"the vectors of {size} in {precision} differ by {difference:.1e} of the largest: "
                "their speeds were not compared"
            )
    mine, plain = (statistics.median(rates[name]) for name in ("ours", "plain"))
    verdict = "yes" if mine >= WANTED * plain else "no"
    num_atoms_R, _ = split.sizes(position_R)
    flops = statistics.fmean(forward_flops(backbone.config, n, Heads()) for n in num_atoms_R.tolist())
    shares = " | ".join(f"{rate * flops / peak:.0%}" for rate in (plain, mine))
    rate_cells = f"{plain:,.1f} | {mine:,.1f} | {mine / plain:.1f} | {verdict}"
    return f"| {size} | {precision} | {rate_cells} | {shares} | {difference:.0e} |"


def report(arguments: argparse.Namespace) -> str:
    """Measure everything and return the Markdown."""
    split = open_store(arguments.store).split("train")
    entry = split.entry
    device = pick_device(arguments.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    where = f"{processor()}, {torch.get_num_threads()} of {usable_cores()} cores, {name}, torch {torch.__version__}"
    lines = [
        "# Embedding of molecules, compared with one at a time",
        "",
        f"- {datetime.date.today().isoformat()}, {where}",
        f"- `{COMMAND} {shlex.join(sys.argv[1:])}`",
        f"- {min(arguments.molecules, len(split)):,} molecules, {sum(s.atoms for s in entry.shards) / entry.rows:.1f} "
        f"atoms on average, of which the loop does {arguments.plain:,}; graph and conformer shown",
        f"- memory budget: {arguments.max_pairs or 'what suits the device'}; {arguments.workers} loader processes",
        f"- load of the machine when this began: {os.getloadavg()[0]:.1f}; medians of {arguments.repeats} turns",
        "",
        f"| model | precision | one at a time, molecules/s | embed, molecules/s | × | ≥ {WANTED:g} × | "
        "matmul peak, one | matmul peak, embed | difference |",
        "|---|---|---|---|---|---|---|---|---|",
        *(row(size, precision, split, arguments) for size in arguments.size for precision in arguments.precision),
    ]
    return "\n".join(lines) + "\n"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("store", type=Path)
    parser.add_argument("--size", nargs="+", choices=list(PRESETS), default=["0.5M", "2M", "42M"])
    parser.add_argument(
        "--precision", nargs="+", choices=list(DTYPE), default=["fp32"], help="precision of the weights"
    )
    parser.add_argument("--molecules", type=int, default=2048)
    parser.add_argument("--plain", type=int, default=256, help="molecules for the loop of one at a time")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--max-pairs", type=int, help="atom pairs per micro-batch (default: chosen for the device)")
    parser.add_argument("--workers", type=int, default=0, help="loader processes of embed")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--output", type=Path, help="such as benchmarks/results/embedding.md; default: standard output")
    return parser


def main() -> None:
    """Run the benchmark and print, or write, its report."""
    arguments = build_parser().parse_args()
    keep_freed_memory()
    deliver(report(arguments), arguments.output)


if __name__ == "__main__":
    main()
