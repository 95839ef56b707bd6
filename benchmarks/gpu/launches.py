"""Count the kernels that a micro-batch starts and the bytes that a layer moves, with torch's kernels and with Triton's.

    python -m benchmarks.gpu.launches --output benchmarks/results/gpu_launches.md

Nothing is measured: the operations of the built model are counted on meta tensors (kernel_counts.py), for the denoising
objective in bf16 with the sizes' own dropout. Models of one and of two layers are counted; a deeper one adds what the
second added.
"""

import argparse
import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.common import as_started, deliver, module_parser
from benchmarks.gpu.kernel_counts import KernelCount, count_kernels
from unimol_scale.model.presets import preset

COMMAND = "python -m benchmarks.gpu.launches"
SIZES = ("84M", "310M", "1.1B")
KB = 1e3
HEADINGS = (
    "size", "kernels a micro-batch", "of them outside of layers", "kernels a layer", "of them Triton's",
    "KB a pair and layer",
)  # fmt: skip
OPERATION_HEADINGS = (
    "operation", "kernels outside of layers", "kernels a layer", "KB a pair outside", "KB a pair and layer",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SizeCounts:
    """Counts of a model of one layer, and what another layer adds; ``pairs`` of the micro-batch."""

    one_layer: KernelCount
    two_layers: KernelCount
    layers: int
    pairs: int

    def cells(self) -> list[str]:
        """Return what the table says of it."""
        one, two = self.one_layer, self.two_layers
        added = two.kernels - one.kernels
        outside = one.kernels - added
        bytes_added = (two.bytes - one.bytes) / self.pairs
        numbers = (outside + added * self.layers, outside, added, two.triton - one.triton)
        return [*(f"{number:,}" for number in numbers), f"{bytes_added / KB:.0f}"]

    def operations(self) -> list[list[str]]:
        """Return name, kernels outside of layers and a layer, and KB a pair of both; what moves most comes first."""
        one, two = self.one_layer, self.two_layers
        found = []
        for name in two.kernels_of:
            added, moved = two.kernels_of[name] - one.kernels_of[name], two.bytes_of[name] - one.bytes_of[name]
            outside, around = one.kernels_of[name] - added, one.bytes_of[name] - moved
            found.append((moved, around, [name, str(outside), str(added)]))
        found.sort(key=lambda row: row[:2], reverse=True)
        return [
            [*words, f"{around / self.pairs / KB:.2f}", f"{moved / self.pairs / KB:.2f}"]
            for moved, around, words in found
        ]


def counts_of(size: str, molecules: int, atoms: int, *, fused: bool) -> SizeCounts:
    """Return the counts of a named size."""
    one, two = (
        count_kernels(preset(size, layers=layers), molecules, atoms, fused=fused) for layers in (1, 2)
    )  # fmt: skip
    pairs = molecules * (atoms + 1) ** 2
    return SizeCounts(one_layer=one, two_layers=two, layers=preset(size).layers, pairs=pairs)


def report(sizes: Sequence[str], molecules: int, atoms: int) -> str:
    """Return the result as Markdown."""
    lines = [
        "# Kernels and bytes of a micro-batch on a GPU",
        "",
        "**Modelled, never measured**: operations of the built model, counted on meta tensors. Caches, and libraries",
        "that start several kernels for one operation, are not seen; the optimizer is not counted.",
        "",
        f"- {datetime.date.today()}, torch {torch.__version__}; `{as_started(COMMAND)}`",
        f"- denoising objective, bf16, forward and backward, dropout as the sizes have it; {molecules} molecules of",
        f"  {atoms} atoms, {molecules * (atoms + 1) ** 2:,} pairs",
    ]
    for title, fused in (("torch", False), ("Triton kernels between torch's matrix products", True)):
        counts = {size: counts_of(size, molecules, atoms, fused=fused) for size in sizes}
        lines += ["", f"## {title}", "", *table(HEADINGS, [[size, *of.cells()] for size, of in counts.items()])]
    lines += ["", f"## Operations of {sizes[0]} with Triton kernels", ""]
    lines += table(OPERATION_HEADINGS, counts[sizes[0]].operations())
    return "\n".join([*lines, ""])


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table as lines of Markdown."""
    return [f"| {' | '.join(row)} |" for row in (headings, ["---"] * len(headings), *rows)]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    parser.add_argument("--molecules", type=int, default=296, help="molecules per micro-batch")
    parser.add_argument("--atoms", type=int, default=25, help="of each")
    parser.add_argument("--output", type=Path, help="Markdown file; default: the terminal")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Count and write."""
    options: argparse.Namespace = build_parser().parse_args(arguments)
    deliver(report(options.sizes, options.molecules, options.atoms), options.output)


if __name__ == "__main__":
    main()
