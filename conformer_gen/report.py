"""The report of a build: report.md and its pictures, from the store's own columns. Imports matplotlib and RDKit."""

import collections
import dataclasses
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display on a cluster node; must be chosen before pyplot is imported

import matplotlib.pyplot as plt
import numpy as np
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from rdkit import Chem

from conformer_gen.curate import scaffold_smiles
from unimol_scale.store.arrow_backend import ColumnViews
from unimol_scale.store.manifest import Manifest
from unimol_scale.store.schema import ConformerOrigin
from unimol_scale.store.shards import Store, commit_file, commit_text, read_shard

INK, ACCENT, SOFT = "#1f3a5f", "#d1603d", "#8fa8c8"
FIGURE_INCHES, DOTS_PER_INCH = (7.0, 3.6), 130
TOP_SCAFFOLDS = 10
LOG_RATIO = 50  # largest bar to smallest, from which a linear scale hides the smallest
ORIGIN_LABELS = {
    ConformerOrigin.FILE: "from the source",
    ConformerOrigin.DFT: "DFT, from the source",
    ConformerOrigin.MMFF: "MMFF94, converged",
    ConformerOrigin.MMFF_UNCONVERGED: "MMFF94, not converged",
    ConformerOrigin.UFF: "UFF, converged",
    ConformerOrigin.UFF_UNCONVERGED: "UFF, not converged",
    ConformerOrigin.ETKDG: "ETKDGv3 only",
    ConformerOrigin.FLAT: "flat",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scaffold:
    """One scaffold of the store: how many molecules have it, and the SMILES of one of them."""

    molecules: int
    example: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statistics:
    """What the pictures and tables show.

    Attributes:
        sizes: split → atoms → molecules.
        elements: symbol → atoms, most frequent first.
        origins: label → conformers.
        scaffold_sizes: molecules of each scaffold, largest first.
        top_scaffolds: the largest ones.
        failures: (stage, reason) → rows, most frequent first.
    """

    sizes: dict[str, dict[int, int]]
    elements: dict[str, int]
    origins: dict[str, int]
    scaffold_sizes: list[int]
    top_scaffolds: list[Scaffold]
    failures: dict[tuple[str, str], int]


def gather_statistics(store: Store, failures: Path) -> Statistics:
    """Read the store once and count."""
    elements = np.zeros(256, np.int64)
    origins = np.zeros(256, np.int64)
    scaffolds: collections.Counter[int] = collections.Counter()
    examples: dict[int, str] = {}
    for split in store.manifest.splits.values():
        for entry in split.shards:
            batch = read_shard(store, entry)
            views = ColumnViews.of(batch)
            elements += np.bincount(views.atomic_number, minlength=256)
            origins += np.bincount(views.conformer_origin, minlength=256)
            names, first, counts = np.unique(batch["scaffold"].to_numpy(), return_index=True, return_counts=True)
            for name, row, count in zip(names.tolist(), first.tolist(), counts.tolist(), strict=True):
                scaffolds[name] += count
                examples.setdefault(name, batch["smiles"][row].as_py())
    table = Chem.GetPeriodicTable()
    by_count = np.argsort(-elements, kind="stable")
    rows = pq.read_table(failures, columns=["stage", "reason"]).to_pylist()
    return Statistics(
        sizes={
            name: {int(size): count for size, count in split.size_histogram.items()}
            for name, split in store.manifest.splits.items()
        },
        elements={table.GetElementSymbol(int(z)): int(elements[z]) for z in by_count if elements[z]},
        origins={label: int(origins[code]) for code, label in ORIGIN_LABELS.items() if origins[code]},
        scaffold_sizes=sorted(scaffolds.values(), reverse=True),
        top_scaffolds=[
            Scaffold(molecules=count, example=examples[name]) for name, count in scaffolds.most_common(TOP_SCAFFOLDS)
        ],
        failures=dict(collections.Counter((row["stage"], row["reason"]) for row in rows).most_common()),
    )


def write_report(store: Store, failures: Path) -> None:
    """Write report.md and its pictures into the store.

    Args:
        store: complete but for its manifest file.
        failures: failures.parquet.
    """
    statistics = gather_statistics(store, failures)
    pictures: dict[str, Callable[[Axes], None]] = {
        "atoms": lambda axes: _draw_sizes(axes, statistics),
        "elements": lambda axes: _draw_elements(axes, statistics),
        "scaffolds": lambda axes: _draw_scaffolds(axes, statistics),
        "origins": lambda axes: _draw_bars(axes, statistics.origins, "conformers", "How the conformers were made"),
    }
    if statistics.failures:
        reasons = {f"{stage}: {reason.replace('_', ' ')}": n for (stage, reason), n in statistics.failures.items()}
        pictures["failures"] = lambda axes: _draw_bars(axes, reasons, "rows of the source", "Failures by cause")
    for name, draw in pictures.items():
        _draw(store.path / f"{name}.png", draw)
    commit_text(store.path / "report.md", _markdown(store.manifest, statistics, list(pictures)))


def _draw(path: Path, draw: Callable[[Axes], None]) -> None:
    figure, axes = plt.subplots(figsize=FIGURE_INCHES, layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    draw(axes)
    # Without a software tag the same store gives the same picture, whatever drew it.
    commit_file(
        path, lambda temporary: figure.savefig(temporary, dpi=DOTS_PER_INCH, format="png", metadata={"Software": None})
    )
    plt.close(figure)


def _draw_sizes(axes: Axes, statistics: Statistics) -> None:
    for (name, sizes), colour in zip(statistics.sizes.items(), (SOFT, ACCENT), strict=True):
        total = sum(sizes.values())
        if not total:
            continue
        atoms = np.arange(max(sizes) + 2)
        share = np.array([100 * sizes.get(int(size), 0) / total for size in atoms])
        filled = colour == SOFT
        axes.stairs(share[:-1], atoms - 0.5, fill=filled, color=colour, linewidth=1.5, label=f"{name}, {total:,}")
    axes.set_title("Atoms per molecule", loc="left", color=INK)
    axes.set_xlabel("atoms in the record")
    axes.set_ylabel("% of the split's molecules")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False, title="molecules")


def _draw_elements(axes: Axes, statistics: Statistics) -> None:
    counts = statistics.elements
    axes.bar(list(counts), list(counts.values()), color=SOFT)
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    axes.set_title(f"Elements ({len(counts)})", loc="left", color=INK)
    axes.set_ylabel("atoms")
    axes.tick_params(axis="x", labelsize=max(5, 10 - len(counts) // 10), rotation=90 if len(counts) > 30 else 0)
    axes.margins(x=0.01)
    axes.grid(axis="y", alpha=0.3)


def _draw_scaffolds(axes: Axes, statistics: Statistics) -> None:
    sizes = np.array(statistics.scaffold_sizes)
    singles = int(np.count_nonzero(sizes == 1))
    axes.loglog(np.arange(1, len(sizes) + 1), sizes, color=INK, linewidth=1.8)
    axes.set_title(f"{len(sizes):,} Murcko scaffolds, {singles:,} of them with one molecule", loc="left", color=INK)
    axes.set_xlabel("rank of the scaffold")
    axes.set_ylabel("molecules")
    axes.grid(alpha=0.3)


def _draw_bars(axes: Axes, counts: dict[str, int], unit: str, title: str) -> None:
    names = list(counts)[::-1]
    values = [counts[name] for name in names]
    bars = axes.barh(names, values, color=SOFT, height=0.6)
    axes.bar_label(bars, [f"{value:,}" for value in values], padding=4, color=INK)
    axes.set_title(title, loc="left", color=INK)
    if max(values) > LOG_RATIO * min(values):
        axes.set_xscale("log")
        axes.set_xlim(0.7, max(values) * 4)
        axes.set_xlabel(f"{unit} (log scale)")
    else:
        axes.set_xlim(0, max(values) * 1.12)
        axes.set_xlabel(unit)
    axes.grid(axis="x", alpha=0.3)


def _markdown(manifest: Manifest, statistics: Statistics, pictures: list[str]) -> str:
    counts = manifest.counts
    share = {name: split.rows / counts.stored for name, split in manifest.splits.items()}
    lines = [
        f"# Conformer store from {manifest.source}",
        "",
        f"{counts.read:,} rows read = {counts.stored:,} stored + {counts.duplicates:,} duplicates + {counts.failed:,} "
        f"failed. RDKit {manifest.versions['rdkit']}, seed {manifest.seed}, format {manifest.backend}.",
        "",
        *_table(
            ("split", "molecules", "share", "shards", "bytes a molecule"),
            [
                (name, f"{split.rows:,}", f"{share[name]:.1%}", len(split.shards), _bytes_each(manifest, name))
                for name, split in manifest.splits.items()
            ],
        ),
        "## Failures by cause (every one is in failures.parquet)",
        "",
        *_table(("stage", "reason", "rows"), [(*key, f"{n:,}") for key, n in statistics.failures.items()]),
        "## Conformers",
        "",
        *_table(("origin", "conformers"), [(label, f"{n:,}") for label, n in statistics.origins.items()]),
        "## Most frequent scaffolds",
        "",
        *_table(
            ("scaffold", "molecules"),
            [(f"`{_scaffold_name(s.example)}`", f"{s.molecules:,}") for s in statistics.top_scaffolds],
        ),
        "## Pictures",
        "",
        *(f"![{name}]({name}.png)\n" for name in pictures),
    ]
    return "\n".join(lines)


def _table(header: tuple[str, ...], rows: list[tuple[object, ...]]) -> list[str]:
    if not rows:
        return ["None.", ""]
    cells = [header, tuple("---" for _ in header), *rows]
    return [*(f"| {' | '.join(str(cell) for cell in row)} |" for row in cells), ""]


def _bytes_each(manifest: Manifest, name: str) -> str:
    split = manifest.splits[name]
    return f"{sum(shard.bytes for shard in split.shards) / split.rows:,.0f}" if split.rows else "–"


def _scaffold_name(example: str) -> str:
    molecule = Chem.MolFromSmiles(example)
    assert molecule is not None, "a stored SMILES parses"
    return scaffold_smiles(molecule) or "(no ring)"
