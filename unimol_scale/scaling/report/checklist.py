"""What a reader needs to judge a law: the checklist of (Mis)Fitting, answered from the runs' records. No torch.

The questions are those of Li, Kudugunta and Zettlemoyer 2025 (arXiv 2502.18969), on the form of the law, the training
setup, the collection of the data, and the fit. Answers that no run recorded are marked as such.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from unimol_scale.common.report.markdown import markdown_table
from unimol_scale.common.trees import Flat
from unimol_scale.common.units import counted, engineering
from unimol_scale.scaling.law.analysis import Analysis
from unimol_scale.scaling.law.fit import GRID_CELLS, NUM_FINALISTS, SCREENING_ITERATIONS
from unimol_scale.scaling.law.points import distinct
from unimol_scale.scaling.rates.rate_law import RateAnalysis
from unimol_scale.scaling.rates.sweeps import NEAR
from unimol_scale.scaling.runs.run_records import RunRecord

Checklist = dict[str, dict[str, str]]  # group → question → answer

NOT_RECORDED = "not recorded"
MOST_NAMED = 6  # most values of a setting that are listed one by one
INTRODUCTION = (
    "Answers to the checklist of (Mis)Fitting (arXiv 2502.18969) for published scaling laws, as far as the runs "
    "recorded them."
)
COUNTED = {
    "total": "all parameters, embeddings and heads included",
    "non-embedding": "all parameters except the embeddings",
    "atom-track": "only the layers of the atom track; no embeddings, pair track or heads",
    "pair-track": "only the layers of the pair track; no embeddings, atom track or heads",
}


def law_checklist(analysis: Analysis) -> Checklist:
    """Return the checklist of a law of the loss."""
    law = analysis.fit.law
    return {
        "Form of the law": {
            "form": f"{law.formula} ({law.label})",
            "variables": ", ".join(dict.fromkeys(law.columns)),
            "fitted parameters": ", ".join(law.parameters),
            "principle": law.source,
            "choice of the form": analysis.selection.reason,
        },
        "Training setup": _setup(analysis.records, analysis.config.parameters, analysis.points.unit),
        "Data collection": _collection(analysis),
        "Fit": _fit(analysis),
    }


def rate_checklist(analysis: RateAnalysis) -> Checklist:
    """Return the checklist of a law of the learning rate."""
    usable = sum(one.rate is not None for one in analysis.minima)
    error = analysis.left_out_error
    bootstrap = "none"
    if analysis.studentised is not None:
        bootstrap = (
            f"bootstrap-t of the residuals, {len(analysis.studentised[1]):,} draws, "
            f"{analysis.config.confidence:.0%} intervals"
        )
    return {
        "Form of the law": {
            "form": analysis.law.formula,
            "variables": ", ".join(name for name in ("N", "D", "batch") if name in analysis.law.ranges),
            "fitted parameters": ", ".join(analysis.law.coefficients),
            "principle": "a power law in every variable",
        },
        "Training setup": _setup(analysis.records, analysis.config.parameters, analysis.records[0].unit),
        "Data collection": {
            "number of runs": f"{len(analysis.records)} in {len(analysis.minima)} sweeps, {usable} with a minimum",
            "checkpoints used": "the end of every run",
            "metric": "validation loss, in logarithms",
            "best rate of a sweep": f"minimum of a parabola in log rate through the runs around the lowest one, up to "
            f"{NEAR:g} in log loss above it; a minimum at the edge of a sweep is left out",
        },
        "Fit": {
            "objective": "squared error of the log of the best rate",
            "algorithm": "linear least squares",
            "uncertainty": bootstrap,
            "validation": "none" if error is None else f"sweeps left out one at a time, mean error {error:.1%}",
        },
    }


def checklist_lines(checklist: Checklist) -> list[str]:
    """Return the checklist as lines of Markdown."""
    lines = [INTRODUCTION]
    for group, answers in checklist.items():
        lines += [
            "",
            f"### {group}",
            "",
            *markdown_table(["question", "answer"], [[*pair] for pair in answers.items()]),
        ]
    return lines


def _setup(records: Sequence[RunRecord], counted_as: str, unit: str) -> dict[str, str]:
    known = [record.settings for record in records]

    def said(key: str, write: Callable[[object], str] = str) -> str:
        return _values([settings.get(key) for settings in known], write)

    sizes = np.array([record.parameters for record in records])
    data = np.array([record.molecules for record in records])
    optimizer = said("train.optimizer")
    if optimizer == NOT_RECORDED and any("train.learning_rate" in settings for settings in known):
        optimizer = "AdamW"  # the only optimizer of versions that do not record it
    rates = _values([record.learning_rate for record in records], lambda rate: f"{rate:.3g}")
    return {
        "models": f"{len(records)} runs of {int(distinct(sizes).max()) + 1} sizes, {_range(sizes)} parameters",
        "width and depth": _shapes(known),
        "parameters are counted as": COUNTED[counted_as] if records[0].groups else NOT_RECORDED,
        "data of each": f"{_range(data)} {unit}s",
        "data set": _stores(known),
        "repetition": _repetition(records, unit),
        "FLOPs are counted as": _flops(records),
        "objective": _values([record.comparable.get("objective") for record in records], str),
        "optimizer": f"{optimizer}; beta1 {said('train.beta1')}, beta2 {said('train.beta2')}, weight decay "
        f"{said('train.weight_decay')}, gradient clipped at {said('train.gradient_clip')}"
        if optimizer != NOT_RECORDED
        else NOT_RECORDED,
        "learning rate": rates,
        "schedule": said("train.schedule"),
        "warm-up": said("train.warmup_steps", lambda steps: f"{steps} steps"),
        "batch size": _values([record.global_batch_size for record in records], lambda size: f"{size} {unit}s"),
        "precision": said("train.precision"),
        "dropout": said("model.dropout"),
        "seeds": _values([record.seed for record in records], str),
    }


def _collection(analysis: Analysis) -> dict[str, str]:
    points, left_out = analysis.points, analysis.config.left_out
    used = "1 of each run, its end"
    if left_out is not None:
        used = f"{len(points)} validations along {points.num_runs} runs, after the first {left_out.describe()} of each"
    hashes = {record.comparable.get("validation_sha256") or "" for record in analysis.records} - {""}
    averaged = {record.settings.get("train.ema_decay") for record in analysis.records} - {None}
    return {
        "number of runs": f"{points.num_runs}; {sum(': left out' in note for note in analysis.notes)} left out",
        "checkpoints used": used,
        "metric": f"validation loss{' of averaged weights' if averaged else ''}",
        "validation set": f"the same for all runs, {hashes.pop()[:12]}" if len(hashes) == 1 else NOT_RECORDED,
        "changes of the metric": "none",
        "points held out": f"{int(analysis.held_out.sum())} of {len(points)}, by --hold-out {analysis.config.hold_out}",
    }


def _fit(analysis: Analysis) -> dict[str, str]:
    fit, config = analysis.fit, analysis.config.fit
    low, high = config.exponent_bounds
    draws = len(next(iter(fit.draws.values()))) if fit.draws else 0
    error = analysis.held_out_error
    together = "" if analysis.points.families is None else " (branches of one trunk together)"
    weights = "all points count the same" if analysis.points.weights is None else "points count by their weights"
    return {
        "objective": f"summed Huber loss of log prediction − log loss, delta {config.huber_delta:g}; {weights}",
        "algorithm": f"damped Newton with bounds (exponents {low:g} to {high:g}), until the relative gradient is below "
        f"{config.tolerance:g}",
        "initialisation": f"about {GRID_CELLS} cells of a grid of exponents with exact coefficients; the best "
        f"{config.starts} for {SCREENING_ITERATIONS} iterations, the best {NUM_FINALISTS} of these to the end",
        "points fitted": f"{fit.num_points}; none dropped as outliers",
        "uncertainty": f"{draws:,} bootstrap fits to runs drawn with replacement{together}, "
        f"{fit.confidence:.0%} percentile intervals"
        if draws
        else "no intervals",
        "parameters not determined": ", ".join(fit.undetermined) or "none",
        "goodness of fit": f"root mean square of the log residuals {float(np.sqrt((fit.residuals**2).mean())):.2g}",
        "validation": "nothing was held out"
        if error is None
        else f"{len(analysis.checks)} held-out points, mean relative error {error:.2%}",
    }


def _values(values: Sequence[object], write: Callable[..., str]) -> str:
    """Return the different values of a setting, and how many runs do not record it."""
    told = [value for value in values if value is not None and value != ""]
    if not told:
        return NOT_RECORDED
    different = list(dict.fromkeys(told))
    with contextlib.suppress(TypeError):  # settings of mixed types have no order
        different = sorted(different)  # type: ignore[type-var]
    texts = list(dict.fromkeys(write(value) for value in different))
    text = ", ".join(texts) if len(texts) <= MOST_NAMED else f"{len(texts)} values from {texts[0]} to {texts[-1]}"
    silent = len(values) - len(told)
    return f"{text} ({NOT_RECORDED} by {counted(silent, 'run')})" if silent else text


def _range(values: np.ndarray) -> str:
    low, high = engineering(float(values.min())), engineering(float(values.max()))
    return low if low == high else f"{low} to {high}"


def _shapes(known: Sequence[Flat]) -> str:
    shapes = {(settings.get("model.layers"), settings.get("model.atom_width")) for settings in known} - {(None, None)}
    if not shapes:
        return NOT_RECORDED
    shown = sorted(shapes, key=str)
    return _values([f"{layers} layers of {width}" for layers, width in shown], str)


def _stores(known: Sequence[Flat]) -> str:
    # Only its name, because a report is passed on and must not reveal paths of a machine.
    return _values([Path(str(path)).name if (path := settings.get("data.path")) else None for settings in known], str)


def _repetition(records: Sequence[RunRecord], unit: str) -> str:
    epochs = [record.molecules / record.unique for record in records if record.unique]
    if not epochs:
        return NOT_RECORDED
    distinct_data = _values([engineering(record.unique) for record in records if record.unique], str)
    text = f"{min(epochs):.3g} to {max(epochs):.3g} epochs of {distinct_data} distinct {unit}s"
    silent = len(records) - len(epochs)
    return f"{text} ({NOT_RECORDED} by {counted(silent, 'run')})" if silent else text


def _flops(records: Sequence[RunRecord]) -> str:
    if any(record.flops is None for record in records):
        return NOT_RECORDED
    if all(record.comparable for record in records):
        return (
            "matrix products of the forward and backward pass of every molecule by its atoms, as the runs logged "
            "them: backbone, pair track and the objective's heads, for distill also the teacher's forward pass; "
            "embeddings are look-ups and count as zero; recomputation is not counted"
        )
    return "as the table gives them, or as --column C=... computes them"
