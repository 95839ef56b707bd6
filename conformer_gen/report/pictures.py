"""The pictures of a build's report, as PNG files. Imports matplotlib (its objects, never pyplot's state) and RDKit."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from rdkit import Chem

from conformer_gen.report.stage_rates import StageRate
from conformer_gen.report.store_counts import ENERGY_STEP, StoreCounts
from conformer_gen.selection.pieces import CONFORMERS_FAILED, CURATE_FAILED
from conformer_gen.selection.selected_rows import Selection
from unimol_scale.common.report.pictures import BLUE, RED, draw_grid, save_figure
from unimol_scale.common.units import engineering, time_unit
from unimol_scale.store.schema import ConformerOrigin, ConformerStereo

MAIN, CONTRAST, PALE = BLUE, RED, "#a6c8e0"
WIDTH = 7.2
LOG_RATIO = 30  # ratio of largest to smallest bar above which a linear axis would hide the smallest
MOST_CAUSES = 12
CROWDED = 26  # number of elements from which their symbols take two rows
ORIGIN_LABELS = {
    ConformerOrigin.FILE: "from the source, method unknown",
    ConformerOrigin.DFT: "from the source, DFT",
    ConformerOrigin.MMFF: "MMFF94, converged",
    ConformerOrigin.MMFF_UNCONVERGED: "MMFF94, not converged",
    ConformerOrigin.UFF: "UFF, converged",
    ConformerOrigin.UFF_UNCONVERGED: "UFF, not converged",
    ConformerOrigin.ETKDG: "ETKDG, no force field",
    ConformerOrigin.FLAT: "from the source, flat",
}
STEREO_LABELS = {
    ConformerStereo.AS_GIVEN: "as the SMILES specifies",
    ConformerStereo.OPEN: "left open by the SMILES",
    ConformerStereo.CHANGED: "different from the SMILES",
}
# failures.parquet has its own name for the making of conformers, which is part of its format.
STAGE_LABELS = {CURATE_FAILED: "curate", CONFORMERS_FAILED: "conformers"}


def draw_all(counts: StoreCounts, selection: Selection, rates: Sequence[StageRate], folder: Path) -> dict[str, str]:
    """Draw every picture for which the build has data.

    Args:
        counts: counts of the store.
        selection: selection of the build.
        rates: rates of the build's stages; if empty, no rate is drawn.
        folder: where the files go.

    Returns:
        Name → title, in the order of the report; the file is <name>.png. All but "rate" depend only on the store.
    """
    jobs: list[tuple[str, str, Callable[[], Figure]]] = [
        ("atoms", "Atoms per molecule", lambda: _size_figure(counts)),
        ("elements", "Elements", lambda: _element_figure(counts)),
        ("scaffolds", "Molecules of every Murcko scaffold", lambda: _scaffold_figure(selection)),
        ("origins", "How conformers were made, and their stereo", lambda: _origin_figure(counts)),
    ]
    if max(counts.conformers) > 1:
        jobs.append(("conformers", "Conformers per molecule and their energies", lambda: _conformer_figure(counts)))
    if counts.causes:
        jobs.append(("failures", "Failures by cause", lambda: _failure_figure(counts)))
    if rates:
        jobs.append(("rate", "Rate over time", lambda: _rate_figure(rates)))
    for name, _, draw in jobs:
        save_figure(draw(), folder / f"{name}.png")
    return {name: title for name, title, _ in jobs}


def _panels(count: int, height: float, ratios: Sequence[float] | None = None, rows: bool = False) -> tuple[Figure, Any]:
    """Return a figure of ``count`` panels side by side, or one above the other if ``rows``, without frames."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    shape = (count, 1) if rows else (1, count)
    panels = figure.subplots(*shape, squeeze=False, height_ratios=ratios if rows else None).ravel()
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_fontsize(10)
    return figure, panels


def _size_figure(counts: StoreCounts) -> Figure:
    figure, (axes,) = _panels(1, 3.6)
    for name, sizes in counts.sizes.items():
        total = sum(sizes.values())
        if not total:
            continue
        largest = max(sizes)
        share = [100 * sizes.get(atoms, 0) / total for atoms in range(1, largest + 1)]
        train = name == "train"
        axes.stairs(
            share,
            np.arange(0.5, largest + 1),
            fill=train,
            color=PALE if train else CONTRAST,
            linewidth=1.4,
            label=f"{name}: {total:,} molecules, mean {sum(a * n for a, n in sizes.items()) / total:.1f} atoms",
        )
    axes.set_xlabel("atoms in the record")
    axes.set_ylabel("% of the split's molecules")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    draw_grid(axes, "y")
    axes.legend(fontsize=8, framealpha=1.0, edgecolor="none")
    return figure


def _element_figure(counts: StoreCounts) -> Figure:
    figure, (axes,) = _panels(1, 3.4)
    table = Chem.GetPeriodicTable()
    symbols = [table.GetElementSymbol(number) for number in counts.elements]
    axes.bar(range(len(symbols)), list(counts.elements.values()), color=MAIN, width=0.75)
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.5)
    crowded = len(symbols) > CROWDED
    axes.set_xticks(range(len(symbols)), [f"\n{s}" if crowded and at % 2 else s for at, s in enumerate(symbols)])
    axes.tick_params(axis="x", length=0, labelsize=9 if len(symbols) < 60 else 6)
    axes.set_xlim(-0.7, max(len(symbols), 8) - 0.3)
    axes.set_ylabel("atoms")
    _counts(axes.yaxis)
    draw_grid(axes, "y")
    return figure


def _counts(axis: Any) -> None:  # noqa: ANN401
    """Label a logarithmic axis of counts: 1, 10, 100, 1k, 10k, 1M."""
    axis.set_major_locator(LogLocator(numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: engineering(value)))
    axis.set_minor_formatter(NullFormatter())


def _scaffold_figure(selection: Selection) -> Figure:
    figure, (axes,) = _panels(1, 3.8)
    ranks, sizes = np.array(selection.scaffold_curve).T
    axes.loglog(ranks, sizes, color=MAIN, linewidth=1.6, marker="o", markersize=2.5)
    single = selection.num_single_scaffolds
    axes.set_title(f"{selection.num_scaffolds:,} scaffolds, {single:,} of them with one molecule", fontsize=10)
    axes.set_xlabel("rank of the scaffold, largest first")
    axes.set_ylabel("molecules with it")
    axes.set_xlim(0.9, max(selection.num_scaffolds * 1.2, 10))
    axes.set_ylim(0.8, max(float(sizes[0]) * 1.5, 10))
    _counts(axes.xaxis)
    _counts(axes.yaxis)
    draw_grid(axes, "both")
    return figure


def _origin_figure(counts: StoreCounts) -> Figure:
    origins = {ORIGIN_LABELS[origin]: count for origin, count in counts.origins.items()}
    stereo = {STEREO_LABELS[kind]: count for kind, count in counts.stereo.items()}
    bars = len(origins) + len(stereo)
    figure, (above, below) = _panels(2, 1.5 + 0.3 * bars, ratios=(len(origins) + 0.7, len(stereo) + 0.7), rows=True)
    _bars(above, origins, "How they were made")
    _bars(below, stereo, "Their stereo")
    below.set_xlabel(f"conformers{' (log scale)' if below.get_xscale() == 'log' else ''}")
    return figure


def _bars(axes: Any, counts: Mapping[str, int], title: str) -> None:  # noqa: ANN401
    """Draw horizontal bars with their values at the end, on a log axis where a linear one would hide the small ones."""
    values = list(counts.values())
    total = sum(values)
    bars = axes.barh(range(len(values)), values, color=MAIN, height=0.62)
    axes.set_yticks(range(len(values)), list(counts))
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.bar_label(bars, [f"{value:,}  ({_share(value, total)})" for value in values], padding=4, fontsize=8)
    axes.set_title(title, loc="left", fontsize=10)
    if max(values) > LOG_RATIO * min(values):
        axes.set_xscale("log")
        axes.set_xlim(0.5, float(max(values)) ** 1.35)
        _counts(axes.xaxis)
    else:
        axes.set_xlim(0, max(values) * 1.25)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: engineering(value)))
    draw_grid(axes, "x")


def _share(value: int, total: int) -> str:
    share = 100 * value / total
    return f"{share:.1f} %" if share >= 0.1 else "< 0.1 %"


def _conformer_figure(counts: StoreCounts) -> Figure:
    has_energies = bool(counts.energies.any())
    figure, panels = _panels(2 if has_energies else 1, 3.4)
    molecules = counts.conformers
    total = sum(molecules.values())
    panels[0].bar(list(molecules), [100 * count / total for count in molecules.values()], color=MAIN, width=0.8)
    panels[0].xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
    panels[0].set_xlim(0.3, max(molecules) + 0.7)
    panels[0].set_xlabel("conformers of a molecule")
    panels[0].set_ylabel("% of molecules")
    draw_grid(panels[0], "y")
    if has_energies:
        edges = ENERGY_STEP * np.arange(len(counts.energies) + 1)
        share = 100 * counts.energies / counts.energies.sum()
        panels[1].stairs(share, edges, fill=True, color=MAIN)
        panels[1].set_xlabel("energy above the lowest (kcal/mol)")
        panels[1].set_ylabel("% of the other conformers")
        panels[1].set_xlim(0, edges[-1])
        if share[-1] > 0:
            panels[1].set_title(f"{share[-1]:.1f} % at {edges[-2]:g} or above", loc="right", fontsize=9)
        draw_grid(panels[1], "y")
    return figure


def _failure_figure(counts: StoreCounts) -> Figure:
    shown, rest = counts.causes[:MOST_CAUSES], counts.causes[MOST_CAUSES:]
    causes = {f"{STAGE_LABELS[cause.stage]}: {cause.reason.replace('_', ' ')}": cause.rows for cause in shown}
    if rest:
        causes[f"{len(rest)} other causes"] = sum(cause.rows for cause in rest)
    figure, (axes,) = _panels(1, 1.1 + 0.3 * len(causes))
    _bars(axes, causes, f"{sum(causes.values()):,} rows failed")
    axes.set_xlabel(f"rows of the source{' (log scale)' if axes.get_xscale() == 'log' else ''}")
    return figure


def _rate_figure(rates: Sequence[StageRate]) -> Figure:
    figure, panels = _panels(len(rates), 3.4)
    for axes, rate in zip(panels, rates, strict=True):
        length = float(rate.edges[-1])
        unit, name = time_unit(length)
        axes.stairs(rate.rates, rate.edges / unit, fill=True, color=PALE)
        axes.stairs(rate.rates, rate.edges / unit, color=MAIN, linewidth=1.4, baseline=None)
        for at in rate.resumed:
            axes.axvline(at / unit, color=CONTRAST, linewidth=1.1, linestyle="--")
        if rate.resumed:
            axes.plot([], [], color=CONTRAST, linewidth=1.1, linestyle="--", label="resumed")
            axes.legend(frameon=False, fontsize=8, loc="lower right")
        average = rate.molecules / length
        axes.set_title(f"{rate.stage}: {average:,.{0 if average >= 10 else 1}f} molecules/s", fontsize=10)
        axes.set_xlabel(f"time spent on this stage ({name})")
        axes.set_ylim(0, 1.1 * float(rate.rates.max()))
        axes.set_xlim(0, length / unit)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: engineering(value)))
        draw_grid(axes, "y")
    panels[0].set_ylabel("molecules/s")
    return figure
