"""The part of a report on tasks: sentences, tables and the part of law.json. Imports no torch."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from unimol_scale.common.report.markdown import markdown_table
from unimol_scale.common.units import counted
from unimol_scale.scaling.tasks.task_law import FORMULAS, TaskLaw, TaskPrediction
from unimol_scale.scaling.tasks.task_table import SCORES

CAPTION = (
    "Every point is a model on a split or seed, every line a law from loss to error; a star is a prediction, with "
    "the interval of both laws combined."
)


def task_lines(tasks: Sequence[TaskLaw]) -> list[str]:
    """Return the section of the report, without its heading."""
    lines = [f"- {sentence}" for law in tasks for sentence in task_sentences(law)]
    header = ["task", "law", "estimates", "error on left-out runs, by form", "note"]
    lines += ["", *markdown_table(header, [_row(law) for law in tasks])]
    rows = [[law.task, *_prediction_row(one)] for law in tasks for one in law.predictions]
    if rows:
        header = ["task", "model", "loss", "error", "interval of both laws", "extrapolation"]
        lines += ["", *markdown_table(header, rows)]
    return lines


def task_sentences(law: TaskLaw) -> list[str]:
    """Return what is known about a task, in words."""
    what = f"{law.task} ({error_name(law)})"
    if law.form is None:
        return [f"{what}: there is no law, because {law.obstacle}."]
    runs = counted(len({result.run for result in law.results}), "pretraining run")
    losses = f"{law.losses.min():.4g} to {law.losses.max():.4g}"
    if law.form == "constant":
        lines = [f"{what} does not depend on the loss of {runs}, {losses}: the error is {law.parameters['e0']:.4g}."]
    else:
        high, low = law.predict(np.array([law.losses.max(), law.losses.min()]))
        lines = [
            f"{what}: from a loss of {law.losses.max():.4g} to {law.losses.min():.4g} ({runs}) the error falls from "
            f"{high:.4g} to {low:.4g}, as {FORMULAS[law.form]}."
        ]
    for one in law.predictions:
        if one.error is None:
            lines.append(f"{what} of {one.request}: not determined; {one.obstacle}.")
        else:
            span = "" if one.interval is None else f" ({one.interval[0]:.4g} to {one.interval[1]:.4g})"
            lines.append(
                f"{what} of {one.request}: an error of {one.error:.4g}{span} is expected, at a loss of {one.loss:.4g}."
            )
    return lines


def error_name(law: TaskLaw) -> str:
    """Return what the error of a task is."""
    return f"1 − {law.metric}" if law.metric in SCORES else law.metric


def tasks_to_json(tasks: Sequence[TaskLaw]) -> dict[str, Any]:
    """Return the part of law.json: task → its law."""
    return {
        law.task: {
            "metric": law.metric,
            "error": error_name(law),
            "form": law.form,
            "formula": None if law.form is None else FORMULAS[law.form],
            "parameters": dict(law.parameters),
            "intervals": None if law.intervals is None else {name: list(one) for name, one in law.intervals.items()},
            "confidence": law.confidence,
            "candidates": [asdict(one) for one in law.candidates],
            "undetermined": law.undetermined,
            "obstacle": law.obstacle,
            "predictions": [asdict(one) for one in law.predictions],
            "results": [asdict(one) for one in law.results],
        }
        for law in tasks
    }


def _row(law: TaskLaw) -> list[str]:
    if law.form is None:
        return [law.task, "none", "", "", law.obstacle or ""]
    intervals = law.intervals or {}
    estimates = ", ".join(
        f"{name} {value:.4g}"
        + (f" ({intervals[name][0]:.3g} to {intervals[name][1]:.3g})" if name in intervals else "")
        for name, value in law.parameters.items()
    )
    errors = ", ".join(
        f"{one.form} {one.obstacle if one.left_out_error is None else f'{one.left_out_error:.2%}'}"
        for one in law.candidates
    )
    note = "the error beyond these models is not determined" if law.undetermined else ""
    return [law.task, FORMULAS[law.form], estimates, errors, note]


def _prediction_row(one: TaskPrediction) -> list[str]:
    span = "" if one.interval is None else f"{one.interval[0]:.4g} to {one.interval[1]:.4g}"
    error = "not determined" if one.error is None else f"{one.error:.4g}"
    return [one.request, f"{one.loss:.5g}", error, span, "; ".join(one.notes) or "within the range of the runs"]
