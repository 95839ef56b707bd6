"""The tables of benchmarks/downstream.py, and a picture of the gains."""

import datetime
import json
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from downstream_baseline import Baseline
from machine import processor
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from unimol_scale import config as strict
from unimol_scale.downstream.metrics import METRICS
from unimol_scale.downstream.outcome import Outcome
from unimol_scale.engine.run_folder import SUMMARY_NAME, read_summary
from unimol_scale.store.files import commit_file, commit_text

SCRATCH = "scratch"
# As the papers report them, with other splits of other sizes of model and of data: a scale, not a contest.
PAPERS = {
    "ESOL": "MoleBlend 0.831",
    "FreeSolv": "MoleBlend 1.910",
    "Lipophilicity": "MoleBlend 0.638",
    "BACE": "MoleBlend 0.837, D&D 0.811",
    "BBBP": "MoleBlend 0.730, D&D 0.664",
    "QM9 gap": "MoleBlend 34.75 meV (110,000 labels), Uni-Mol2 0.0035 to 0.0038 Ha (mean of HOMO, LUMO and gap)",
}
UNITS = {"ESOL": "log10(mol/L)", "FreeSolv": "kcal/mol", "Lipophilicity": "log D", "QM9 gap": "Ha"}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One fine-tuning.

    Attributes:
        set: it is of.
        start: pretrained model, or the first of those that share this model from scratch.
        fraction: of the training labels.
        scratch: whether the weights were random.
        outcome: what it came to.
        folder: where it is.
        rate: learning rate, the best on validation.
        rates: that were compared.
    """

    set: str
    start: str
    fraction: float
    scratch: bool
    outcome: Outcome
    folder: str
    rate: float
    rates: tuple[float, ...]


def write_report(
    path: Path,
    command: str,
    starts: Mapping[str, str],
    cells: Sequence[Cell],
    baselines: Mapping[tuple[str, float], Baseline],
    twin: Callable[[str], str],
) -> None:
    """Write the tables to ``path`` and the picture beside it, in a folder of its name."""
    fractions = sorted({cell.fraction for cell in cells}, reverse=True)
    sets = list(dict.fromkeys(cell.set for cell in cells))
    lines = [
        "# What pretraining is worth downstream",
        "",
        f"- {datetime.datetime.now(datetime.timezone.utc).date()}, {processor()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}",
        f"- `{command}`",
        "- test scores at the epoch that is best on validation, mean ± standard deviation over seeds; scaffold split, "
        "one and the same settings for pretrained and scratch; in bold what beats scratch",
        *_rates(cells),
        "- fingerprints: Morgan counts (radius 2, 2048 bits) and a linear model or gradient boosting, the better on "
        "validation",
        "",
        *_starts(starts),
    ]
    twins = {name: next(other for other in starts if twin(starts[other]) == twin(starts[name])) for name in starts}
    for fraction in fractions:
        lines += [f"## With {fraction:.0%} of the training labels", ""]
        lines += _table(sets, starts, twins, [c for c in cells if c.fraction == fraction], baselines, fraction)
    gains = _gains(sets, starts, twins, cells)
    if len(fractions) > 1:
        lines += ["## Gain over scratch with fewer labels", "", *_gain_table(sets, starts, fractions, gains)]
    commit_text(path, "\n".join(lines))
    path.with_suffix("").mkdir(parents=True, exist_ok=True)
    results = {"command": command, "cells": [strict.to_tree(cell) for cell in cells]}
    commit_text(path.with_suffix("") / "results.json", json.dumps(results, indent=1) + "\n")
    _draw(path.with_suffix("") / "gains.png", sets, starts, fractions, gains)


def _rates(cells: Sequence[Cell]) -> list[str]:
    """Return a line on the learning rates, where more than one was tried."""
    chosen: dict[str, list[str]] = {}
    for cell in cells:
        if len(cell.rates) > 1:
            who = f"{SCRATCH} ({cell.start})" if cell.scratch else cell.start
            share = "" if cell.fraction == 1.0 else f" with {cell.fraction:.0%}"
            chosen.setdefault(cell.set, []).append(f"{who}{share} {cell.rate:g}")
    tried = {cell.set: cell.rates for cell in cells if len(cell.rates) > 1}
    return [
        f"- learning rate of {name}, of {' and '.join(f'{rate:g}' for rate in tried[name])} the better on validation: "
        f"{', '.join(who)}"
        for name, who in chosen.items()
    ]


def _starts(starts: Mapping[str, str]) -> list[str]:
    """Return a table of the pretrained runs; of a checkpoint from elsewhere only its name is known."""
    lines = [
        "| start | objective | parameters, heads included | molecules seen | validation loss | seconds |",
        "| --- " * 6 + "|",
    ]
    for name, model in starts.items():
        if (Path(model) / SUMMARY_NAME).is_file():
            run = read_summary(Path(model))
            size, loss = run["parameters"]["total"], run["final"]["valid/loss"]
            facts = (run["objective"], f"{size:,}", f"{run['molecules']:,}", f"{loss:.4f}", f"{run['seconds']:,.0f}")
        else:
            facts = (Path(model).name, *("–",) * 4)
        lines.append("| " + " | ".join((name, *facts)) + " |")
    return [*lines, ""]


def _table(
    sets: Sequence[str],
    starts: Mapping[str, str],
    twins: Mapping[str, str],
    cells: Sequence[Cell],
    baselines: Mapping[tuple[str, float], Baseline],
    fraction: float,
) -> list[str]:
    scratches = list(dict.fromkeys(twins.values()))
    heads = ["set", "metric", "train rows", "fingerprints"]
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
            own, other = here.get((start, False)), here.get((twins[start], True))
            text = _scores(own, name)
            row.append(f"**{text}**" if own and other and _gain(own, other) > 0 else text)
        row.append(PAPERS.get(name, ""))
        lines.append("| " + " | ".join(row) + " |")
    return [*lines, ""]


def _digits(name: str) -> str:
    return ".5f" if name == "QM9 gap" else ".3f"


def _scores(outcome: Outcome | None, name: str) -> str:
    if outcome is None:
        return "–"
    spread = "" if math.isnan(outcome.std) else f" ± {outcome.std:{_digits(name)}}"
    return f"{outcome.mean:{_digits(name)}}{spread}"


def _gain(own: Outcome, scratch: Outcome) -> float:
    """Return how much better, as a share of scratch's error; of a ROC-AUC, of what it lacks to 1."""
    if METRICS[own.metric].higher_is_better:
        return (own.mean - scratch.mean) / (1.0 - scratch.mean)
    return (scratch.mean - own.mean) / scratch.mean


def _gains(
    sets: Sequence[str], starts: Mapping[str, str], twins: Mapping[str, str], cells: Sequence[Cell]
) -> dict[tuple[str, str, float], float]:
    found = {(c.set, c.start, c.fraction, c.scratch): c.outcome for c in cells}
    gains = {}
    for (name, start, fraction, scratch), outcome in found.items():
        other = found.get((name, twins[start], fraction, True))
        if not scratch and other is not None:
            gains[name, start, fraction] = _gain(outcome, other)
    return gains


def _gain_table(
    sets: Sequence[str],
    starts: Mapping[str, str],
    fractions: Sequence[float],
    gains: Mapping[tuple[str, str, float], float],
) -> list[str]:
    heads = ["set", *(f"{start}, {fraction:.0%}" for start in starts for fraction in fractions)]
    lines = ["Share of scratch's error that is gone (of a ROC-AUC: of what it lacks to 1).", ""]
    lines += ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    for name in sets:
        values = [gains.get((name, start, fraction)) for start in starts for fraction in fractions]
        lines.append("| " + " | ".join([name, *("–" if v is None else f"{v:+.1%}" for v in values)]) + " |")
    return [*lines, ""]


def _draw(
    path: Path,
    sets: Sequence[str],
    starts: Mapping[str, str],
    fractions: Sequence[float],
    gains: Mapping[tuple[str, str, float], float],
) -> None:
    """Draw the gains: a group a set, a bar a start; paler with fewer labels."""
    figure = Figure(figsize=(1.7 * len(sets) + 1.5, 3.6), layout="constrained")
    axes = figure.subplots()
    bars = [(start, fraction) for start in starts for fraction in fractions]
    width = 0.8 / len(bars)
    for at, (start, fraction) in enumerate(bars):
        x = [place + (at - (len(bars) - 1) / 2) * width for place in range(len(sets))]
        y = [100 * gains.get((name, start, fraction), math.nan) for name in sets]
        colour = f"C{list(starts).index(start)}"
        label = f"{start}, {fraction:.0%} of the labels"
        axes.bar(x, y, width, color=colour, alpha=1.0 if fraction == max(fractions) else 0.5, label=label)
    axes.axhline(0.0, color="#777777", lw=1)
    axes.set_xticks(range(len(sets)), list(sets))
    axes.set_ylabel("error of scratch that is gone (%)")
    axes.legend(fontsize=8)
    axes.grid(axis="y", alpha=0.25)
    FigureCanvasAgg(figure)
    commit_file(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))
