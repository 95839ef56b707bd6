"""How close ten conformers come to the experimental one, for the Platinum set, compared with plain RDKit.

    python -m benchmarks.build.platinum platinum_diverse_dataset_2017_01.sdf.gz

For each ligand of the set (Friedrich et al. 2017, J. Chem. Inf. Model. 57, 529): conformers are made from its SMILES
alone, by the builder and by plain RDKit (ETKDGv3 and MMFF94 at RDKit's default of 200 iterations) from the same seed;
what counts is the heavy-atom root-mean-square deviation of the nearest conformer from the experimental one, over all
symmetries of the molecule. Writes a table and a picture. ``--sample N`` takes N ligands, drawn by ``--seed``.
"""

import argparse
import datetime
import gzip
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers, rdMolAlign
from rich.console import Console
from rich.progress import track

from benchmarks.common import RESULTS, module_parser, processor
from conformer_gen.chemistry.config import ConformerConfig
from conformer_gen.chemistry.conformers import ConformerFailure, CuratedMolecule, generate_conformers
from conformer_gen.chemistry.identity import stable_hash

COMMAND = "python -m benchmarks.build.platinum"

MAX_MATCHES = 10_000  # symmetries tried for one conformer; only a few ligands have more
THRESHOLDS = (1.0, 2.0)  # Å
OURS, PLAIN = "this builder", "plain RDKit"
COLOURS = {OURS: "#1f77b4", PLAIN: "#8c8c8c"}
CONSOLE = Console(stderr=True)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One ligand by one method: deviation of the nearest conformer (Å), None if there is none; processor seconds."""

    deviation: float | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Task:
    """One ligand, and how many conformers to make from which seed."""

    block: str
    conformers: int
    seed: int


def read_blocks(path: Path) -> list[str]:
    """Return the mol blocks of an SDF file, plain or gzipped."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [record for record in content.decode().split("$$$$\n") if record.strip()]


def by_builder(smiles: str, conformers: int, seed: int) -> Chem.Mol | None:
    """Return the heavy atoms with the builder's conformers, or None."""
    molecule = CuratedMolecule(id="", smiles=smiles, key=stable_hash(smiles), scaffold=0)
    record = generate_conformers(molecule, ConformerConfig(count=conformers), seed)
    if isinstance(record, ConformerFailure):
        return None
    heavy = Chem.MolFromSmiles(smiles)
    for positions in record.coordinates:
        conformer = Chem.Conformer(heavy.GetNumAtoms())
        conformer.SetPositions(positions.astype(np.float64))
        heavy.AddConformer(conformer, assignId=True)
    return heavy


def by_plain_rdkit(smiles: str, conformers: int, seed: int) -> Chem.Mol | None:
    """Return the heavy atoms with conformers of a simple RDKit script, from the seed that the builder uses."""
    full = Chem.AddHs(Chem.MolFromSmiles(smiles))
    parameters: Any = rdDistGeom.ETKDGv3()
    parameters.randomSeed = stable_hash(seed, stable_hash(smiles)) & 0x7FFFFFFF
    try:
        rdDistGeom.EmbedMultipleConfs(full, conformers, parameters)
        rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(full)
    except (RuntimeError, ValueError):
        return None
    return Chem.RemoveAllHs(full) if full.GetNumConformers() else None


METHODS: dict[str, Callable[[str, int, int], Chem.Mol | None]] = {OURS: by_builder, PLAIN: by_plain_rdkit}


def measure(task: Task) -> dict[str, Measured] | None:
    """Measure one ligand by all methods; None if RDKit cannot read it."""
    with rdBase.BlockLogs():
        ligand = Chem.MolFromMolBlock(task.block)
        if ligand is None:
            return None
        experimental = Chem.RemoveAllHs(ligand)
        smiles = Chem.MolToSmiles(experimental)
        measured = {}
        for name, method in METHODS.items():
            began = time.process_time()
            made = method(smiles, task.conformers, task.seed)
            seconds = time.process_time() - began
            deviation = None if made is None else nearest(made, experimental)
            measured[name] = Measured(deviation=deviation, seconds=seconds)
        return measured


def nearest(made: Chem.Mol, experimental: Chem.Mol) -> float:
    """Return the smallest deviation of the conformers made, Å."""
    ids = [conformer.GetId() for conformer in made.GetConformers()]
    return min(rdMolAlign.GetBestRMS(made, experimental, at, 0, maxMatches=MAX_MATCHES) for at in ids)


def table(results: Sequence[dict[str, Measured]]) -> str:
    """Return the Markdown table of all methods."""
    within = " | ".join(f"< {threshold:g} Å" for threshold in THRESHOLDS)
    lines = [
        f"| | median Å | quartiles Å | {within} | no conformer | processor seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in METHODS:
        found = [result[name].deviation for result in results]
        deviations = [deviation for deviation in found if deviation is not None]
        low, middle, high = statistics.quantiles(deviations, n=4, method="inclusive")
        # A ligand without a conformer is not within any threshold.
        shares = " | ".join(
            f"{sum(deviation < threshold for deviation in deviations) / len(found):.1%}" for threshold in THRESHOLDS
        )
        seconds = sum(result[name].seconds for result in results)
        lines.append(
            f"| {name} | {middle:.3f} | {low:.3f} – {high:.3f} | {shares} | {found.count(None)} | {seconds:,.0f} |"
        )
    return "\n".join(lines)


def draw(results: Sequence[dict[str, Measured]], title: str, path: Path) -> None:
    """Draw the cumulative distribution of the deviations of all methods."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name in METHODS:
        found = [result[name].deviation for result in results]
        deviations = sorted(np.inf if deviation is None else deviation for deviation in found)
        shares = np.arange(1, len(deviations) + 1) / len(deviations)
        axes.step(deviations, shares, where="post", label=name, color=COLOURS[name], linewidth=1.8)
    for threshold in THRESHOLDS:
        axes.axvline(threshold, color="#cccccc", linewidth=0.8, zorder=0)
    axes.set_xlim(0, None)
    axes.set_ylim(0, 1)
    axes.set_xlabel("RMSD of the nearest conformer from the experimental one, Å")
    axes.set_ylabel("share of ligands at or below")
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)


def write_report(results: Sequence[dict[str, Measured]], total: int, options: argparse.Namespace) -> str:
    """Write the table and the picture; return the table's file as text."""
    size = "the whole set" if len(results) == total else f"a sample of {len(results):,} of {total:,} ligands"
    title = f"Platinum Diverse 2017_01, {size}, best of {options.conformers}"
    folder = options.output / "platinum"
    folder.mkdir(parents=True, exist_ok=True)
    draw(results, title, folder / "rmsd.png")
    command = f"{COMMAND} {options.input.name}"
    if options.sample is not None:
        command += f" --sample {options.sample} --seed {options.seed}"
    today = datetime.datetime.now(datetime.timezone.utc).date()
    text = "\n".join(
        [
            "# Conformers beside experiment",
            "",
            f"- {title}",
            f"- {today}, {processor()}, {options.workers} processes",
            f"- RDKit {rdBase.rdkitVersion}, numpy {np.__version__}, Python {platform.python_version()}",
            f"- `{command}`",
            "- heavy atoms, over all symmetries; conformers from the SMILES alone, both methods from the same seeds; a",
            "  ligand without a conformer counts in the shares and not in median and quartiles",
            "",
            table(results),
            "",
            "![Share of ligands by deviation of the nearest conformer, both methods](platinum/rmsd.png)",
            "",
        ]
    )
    (options.output / "platinum.md").write_text(text, encoding="utf-8")
    return text


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("input", type=Path, help="the set, .sdf or .sdf.gz")
    parser.add_argument("--conformers", type=int, default=10)
    parser.add_argument("--sample", type=int, metavar="N", help="draw N ligands instead of using all")
    parser.add_argument("--seed", type=int, default=0, help="seed for the sample and the conformers")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser


def main() -> int:
    """Measure, print and write."""
    parser = build_parser()
    options = parser.parse_args()
    if not options.input.is_file():
        parser.error(f"there is no file {options.input}; the set is at https://comp3d.univie.ac.at (Platinum datasets)")
    blocks = read_blocks(options.input)
    chosen = range(len(blocks))
    if options.sample is not None:
        chosen = np.sort(np.random.default_rng(options.seed).permutation(len(blocks))[: options.sample]).tolist()
    tasks = [Task(block=blocks[at], conformers=options.conformers, seed=options.seed) for at in chosen]
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        rows = pool.imap_unordered(measure, tasks, chunksize=4)
        found = list(track(rows, "ligands", total=len(tasks), console=CONSOLE))
    results = [row for row in found if row is not None]
    if len(results) < len(found):
        CONSOLE.print(f"{len(found) - len(results)} ligands cannot be read and are left out")
    if len(results) < 2:
        parser.error(f"{options.input} has fewer than two ligands that RDKit reads")
    print(write_report(results, len(blocks), options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
