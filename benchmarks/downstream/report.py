"""The tables of the benchmark of fine-tuning, and a picture of the gains."""

import datetime
import json
import math
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.common import processor
from benchmarks.downstream.baseline import Baseline
from benchmarks.downstream.interval import Gain, gain
from benchmarks.downstream.sets import SCRATCH
from unimol_scale import config as strict
from unimol_scale.common.files import commit_file, commit_text
from unimol_scale.common.run_files import SUMMARY_NAME
from unimol_scale.downstream.data.pretraining_data import ALMOST_ALL, size_quantile, store_of
from unimol_scale.downstream.finetuning.results import FinetuneResult
from unimol_scale.downstream.registry import METRICS
from unimol_scale.engine.run.run_folder import read_summary
from unimol_scale.store.shards import open_store

# A path of the machine that a store is at: tables name its last folder.
_FOLDER = re.compile(r"(?<= in )/[^\s,]+")
Gains = Mapping[tuple[str, str, float], Gain]  # of set, start and share of labels
# As the papers report them, with other splits of other sizes of model and of data: a scale, not a contest.
PAPERS = {
    "ESOL": "MoleBlend 0.831",
    "FreeSolv": "MoleBlend 1.910",
    "Lipophilicity": "MoleBlend 0.638",
    "BACE": "MoleBlend 0.837, D&D 0.811",
    "BBBP": "MoleBlend 0.730, D&D 0.664",
    "QM9 gap": "MoleBlend 34.75 meV (110,000 labels), Uni-Mol2 0.0035 to 0.0038 Ha (mean of HOMO, LUMO and gap)",
}
UNITS = {
    "ESOL": "log10(mol/L)",
    "FreeSolv": "kcal/mol",
    "Lipophilicity": "log D",
    "QM9 gap": "Ha",
    "PCQM4Mv2 gap": "eV",
}


@dataclass(frozen=True, kw_only=True)
class TriedRate:
    """A learning rate and its scores, means over seeds.

    Attributes:
        rate: learning rate.
        valid: of the validation rows, at each seed's best epoch.
        test: of the test rows there.
    """

    rate: float
    valid: float
    test: float


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One fine-tuning.

    Attributes:
        set: its data set.
        start: pretrained model, or the first of those that share this model from scratch.
        fraction: fraction of the training labels.
        scratch: whether the weights were random.
        outcome: its result.
        folder: its folder.
        rate: learning rate, the best on validation.
        tried: every learning rate that was compared.
    """

    set: str
    start: str
    fraction: float
    scratch: bool
    outcome: FinetuneResult
    folder: str
    rate: float
    tried: tuple[TriedRate, ...]


def write_report(
    path: Path,
    command: str,
    starts: Mapping[str, str],
    cells: Sequence[Cell],
    baselines: Mapping[tuple[str, float], Baseline],
    twin: Callable[[str], str],
    pairs: Sequence[tuple[str, str]] = (),
) -> None:
    """Write the tables to ``path`` and the picture beside it, in a folder of its name; pairs are of starts."""
    fractions = sorted({cell.fraction for cell in cells}, reverse=True)
    sets = list(dict.fromkeys(cell.set for cell in cells))
    lines = [
        "# The benefit of pretraining downstream",
        "",
        f"- {datetime.datetime.now(datetime.timezone.utc).date()}, {processor()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}",
        f"- `{command}`",
        "- test scores at the epoch that is best on validation, mean ± standard deviation over seeds; scaffold split, "
        "one and the same settings for pretrained and scratch; in bold what beats scratch",
        "- baseline: a random forest or gradient boosting on Morgan counts (radius 2, 2048) or RDKit descriptors, the "
        "best of the four on validation",
        "",
        *_starts(starts),
    ]
    twins = {name: next(other for other in starts if twin(starts[other]) == twin(starts[name])) for name in starts}
    gains = _gains(starts, twins, cells)
    for fraction in fractions:
        lines += [f"## With {fraction:.0%} of the training labels", ""]
        here = [cell for cell in cells if cell.fraction == fraction]
        lines += _table(sets, starts, twins, here, gains, baselines, fraction)
    if gains:
        lines += ["## Gain over scratch", "", *_gain_table(sets, starts, fractions, gains)]
    lines += _pair_table(sets, pairs, fractions, cells)
    lines += _rates(cells)
    lines += ["## Test molecules that pretraining has seen", "", *_leakage(cells)]
    commit_text(path, "\n".join(lines))
    path.with_suffix("").mkdir(parents=True, exist_ok=True)
    results = {"command": command, "cells": [strict.to_tree(cell) for cell in cells]}
    commit_text(path.with_suffix("") / "results.json", json.dumps(results, indent=1) + "\n")
    if gains:
        _draw(path.with_suffix("") / "gains.png", sets, starts, fractions, gains)


def _rates(cells: Sequence[Cell]) -> list[str]:
    """Return a table of the learning rates, where more than one was tried; that of the cell is bold."""
    several = [cell for cell in cells if len(cell.tried) > 1]
    if not several:
        return []
    lines = [
        "## Learning rates",
        "",
        "Of each set and start the rate with the better mean score of the validation rows is in the tables above.",
        "",
        "| set | labels | start | rate | validation | test |",
        "| --- " * 6 + "|",
    ]
    for cell in several:
        who = f"{SCRATCH} ({cell.start})" if cell.scratch else cell.start
        for one in cell.tried:
            rate = f"**{one.rate:g}**" if one.rate == cell.rate else f"{one.rate:g}"
            lines.append(f"| {cell.set} | {cell.fraction:.0%} | {who} | {rate} | {one.valid:.4f} | {one.test:.4f} |")
    return [*lines, ""]


def _starts(starts: Mapping[str, str]) -> list[str]:
    """Return a table of the pretrained runs; of a checkpoint from elsewhere only its name is known."""
    lines = [
        "| start | objective | parameters, heads included | store "
        f"| its heavy atoms: median, {100 * ALMOST_ALL:.0f} % | molecules seen "
        "| validation loss | seconds | processes |",
        "| --- " * 9 + "|",
    ]
    for name, model in starts.items():
        if (Path(model) / SUMMARY_NAME).is_file():
            run = read_summary(Path(model))
            size, loss = run["parameters"]["total"], run["final"]["valid/loss"]
            facts = (
                run["objective"], f"{size:,}", *_store(Path(model)), f"{run['molecules']:,}", f"{loss:.4f}",
                f"{run['seconds']:,.0f}", str(run["world_size"]),
            )  # fmt: skip
        else:
            facts = (Path(model).name, *("–",) * 7)
        lines.append("| " + " | ".join((name, *facts)) + " |")
    return [*lines, ""]


def _store(run: Path) -> tuple[str, str]:
    """Return the name of the store of a run and the sizes of its molecules, if it is here."""
    if (place := store_of(run).path) is None:
        return "–", "–"
    manifest = open_store(place).manifest
    histogram = manifest.splits["train"].size_histogram
    name = f"{place.name}, {sum(histogram.values()):,} molecules"
    median, most = (size_quantile(histogram, share) for share in (0.5, ALMOST_ALL))
    return name, "–" if manifest.hydrogens else f"{median}, {most}"


def _table(
    sets: Sequence[str],
    starts: Mapping[str, str],
    twins: Mapping[str, str],
    cells: Sequence[Cell],
    gains: Gains,
    baselines: Mapping[tuple[str, float], Baseline],
    fraction: float,
) -> list[str]:
    scratches = list(dict.fromkeys(twins.values()))
    heads = ["set", "metric", "train rows", "baseline"]
    heads += [f"scratch ({', '.join(n for n in starts if twins[n] == s)})" for s in scratches]
    heads += [*starts, "papers"]
    lines = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    for name in sets:
        here = {(c.start, c.scratch): c.outcome for c in cells if c.set == name}
        if not here:
            continue
        some = next(iter(here.values()))
        higher = METRICS[some.metric].higher_is_better
        unit = UNITS.get(name, "")
        baseline = baselines[name, fraction]
        row = [name, f"{some.metric} {'↑' if higher else '↓'}{f' ({unit})' if unit else ''}"]
        row += [f"{some.split_sizes['train']:,}", f"{baseline.test:{_digits(name)}} ({baseline.name})"]
        row += [_scores(here.get((s, True)), name) for s in scratches]
        for start in starts:
            text = _scores(here.get((start, False)), name)
            found = gains.get((name, start, fraction))
            row.append(f"**{text}**" if found and found.value > 0 else text)
        row.append(PAPERS.get(name, ""))
        lines.append("| " + " | ".join(row) + " |")
    return [*lines, ""]


def _digits(name: str) -> str:
    return ".5f" if name == "QM9 gap" else ".3f"


def _scores(outcome: FinetuneResult | None, name: str) -> str:
    if outcome is None:
        return "–"
    spread = "" if math.isnan(outcome.seed_std) else f" ± {outcome.seed_std:{_digits(name)}}"
    return f"{outcome.mean:{_digits(name)}}{spread}"


def _gains(starts: Mapping[str, str], twins: Mapping[str, str], cells: Sequence[Cell]) -> Gains:
    found = {(c.set, c.start, c.fraction, c.scratch): (Path(c.folder), c.outcome) for c in cells}
    gains = {}
    for (name, start, fraction, scratch), own in found.items():
        other = found.get((name, twins[start], fraction, True))
        if not scratch and other is not None:
            gains[name, start, fraction] = gain(own, other)
    return gains


def _gain_table(
    sets: Sequence[str],
    starts: Mapping[str, str],
    fractions: Sequence[float],
    gains: Gains,
) -> list[str]:
    heads = ["set", *(f"{start}, {fraction:.0%}" for start in starts for fraction in fractions)]
    lines = [
        "Relative reduction of scratch's error (for ROC-AUC, of 1 − AUC), with its 95 % interval by a bootstrap over",
        "test rows and seeds: if it contains 0, the two cannot be distinguished. After the semicolon, the reduction on",
        "the validation rows, by which the epochs were chosen.",
        "",
    ]
    lines += ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    for name in sets:
        found = [gains.get((name, start, fraction)) for start in starts for fraction in fractions]
        texts = ["–" if one is None else _words(one) for one in found]
        lines.append("| " + " | ".join([name, *texts]) + " |")
    return [*lines, ""]


def _pair_table(
    sets: Sequence[str], pairs: Sequence[tuple[str, str]], fractions: Sequence[float], cells: Sequence[Cell]
) -> list[str]:
    """Return how much of the error of a pair's second start is gone with its first one."""
    found = {(c.set, c.start, c.fraction): (Path(c.folder), c.outcome) for c in cells if not c.scratch}
    lines = []
    for own, other in pairs:
        lines += [
            f"## {own} beside {other}",
            "",
            f"Relative reduction of the error of {other} with {own} (for ROC-AUC, of 1 − AUC), with its 95 % interval "
            "by",
            "a bootstrap over test rows and seeds. After the semicolon, the reduction on the validation rows.",
            "",
            "| set | labels | gain |",
            "| --- " * 3 + "|",
        ]
        for name in sets:
            for fraction in fractions:
                first, second = (found.get((name, start, fraction)) for start in (own, other))
                if first is not None and second is not None:
                    lines.append(f"| {name} | {fraction:.0%} | {_words(gain(first, second))} |")
        lines.append("")
    return lines


def _words(one: Gain) -> str:
    return f"{one.value:+.1%} ({one.low:+.1%} to {one.high:+.1%}); {one.valid:+.1%}"


def _leakage(cells: Sequence[Cell]) -> list[str]:
    """Return a line for each set and store; starts of one store have it in common."""
    found = {(c.set, c.outcome.leakage.removeprefix("leakage: ")) for c in cells if not c.scratch and c.outcome.leakage}
    return [*(f"- {name}: {_FOLDER.sub(lambda path: Path(path[0]).name, text)}" for name, text in sorted(found)), ""]


def _draw(
    path: Path,
    sets: Sequence[str],
    starts: Mapping[str, str],
    fractions: Sequence[float],
    gains: Gains,
) -> None:
    """Draw the gains: one group per set, one bar per start; paler for fewer labels."""
    figure = Figure(figsize=(1.7 * len(sets) + 1.5, 3.6), layout="constrained")
    axes = figure.subplots()
    made = {(start, fraction) for _, start, fraction in gains}
    bars = [(start, fraction) for start in starts for fraction in fractions if (start, fraction) in made]
    width = 0.8 / len(bars)
    for at, (start, fraction) in enumerate(bars):
        x = [place + (at - (len(bars) - 1) / 2) * width for place in range(len(sets))]
        found = [gains.get((name, start, fraction)) for name in sets]
        y = [100 * one.value if one else math.nan for one in found]
        error = [
            [100 * max(0.0, one.value - one.low) if one else 0.0 for one in found],
            [100 * max(0.0, one.high - one.value) if one else 0.0 for one in found],
        ]
        colour = f"C{list(starts).index(start)}"
        label = f"{start}, {fraction:.0%} of the labels"
        alpha = 1.0 if fraction == max(fractions) else 0.5
        axes.bar(x, y, width, yerr=error, ecolor="#555555", color=colour, alpha=alpha, label=label)
    axes.axhline(0.0, color="#777777", lw=1)
    axes.set_xticks(range(len(sets)), list(sets))
    axes.set_ylabel("reduction of scratch's error (%)")
    axes.legend(fontsize=8)
    axes.grid(axis="y", alpha=0.25)
    FigureCanvasAgg(figure)
    commit_file(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))
