"""Reads a table of the results of pretrained models on tasks, and joins it with the runs. Imports no torch.

Columns, with one row per run, task and split or seed:

    run         name of the pretraining run
    task        name of the task, such as "QM9 gap"
    metric      mae, rmse, mse, or one that is higher for better models (``SCORES``) and becomes 1 − value
    value       value of the metric on test rows
    loss        validation loss of the pretrained model; if missing or empty, that of the run with this name
    checkpoint  optional: optimiser step of the model; without a loss, the validation loss at that step is used
    seed        optional: seed of the split or the fit, for the report
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unimol_scale.errors import RunError, nearest
from unimol_scale.scaling.runs.loss_tables import ColumnTable, rows_of
from unimol_scale.scaling.runs.run_records import RunRecord
from unimol_scale.scaling.runs.table_checks import numbers_of

REQUIRED = ("run", "task", "metric", "value")
OPTIONAL = ("loss", "checkpoint", "seed")
ERRORS = ("mae", "rmse", "mse")
SCORES = ("roc_auc", "prc_auc", "accuracy", "r2", "pearson", "spearman")  # at most 1, which means no error


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """The result of one model on a task.

    Attributes:
        run: name of its pretraining run.
        task: name of the task.
        metric: name of the metric.
        loss: validation loss of the model.
        error: the metric, or 1 − metric if higher is better.
        seed: seed of the split or fit, as text; "" if unknown.
    """

    run: str
    task: str
    metric: str
    loss: float
    error: float
    seed: str = ""


def read_task_table(path: Path | ColumnTable, records: Sequence[RunRecord]) -> list[TaskResult]:
    """Read a table of results.

    Args:
        path: a .csv, .tsv or .parquet file, or a table in memory.
        records: the runs, for losses that the table lacks.

    Raises:
        RunError: a column is missing or unknown, a value is not a number, or a row has neither a loss nor a known run.
    """
    found, rows = rows_of(path)
    missing = [name for name in REQUIRED if name not in found]
    if missing:
        raise RunError(
            f"{path} has no column {missing[0]!r}; a table of tasks needs {', '.join(REQUIRED)}, and may have "
            f"{', '.join(OPTIONAL)}; {nearest(missing[0], found)}"
        )
    if not rows:
        raise RunError(f"{path} has no rows below its header")
    values = numbers_of([row.values["value"] for row in rows], "value", [row.source for row in rows])
    by_name = {record.name: record for record in records}
    results = []
    for row, value in zip(rows, values, strict=True):
        metric = row.text("metric").strip().casefold()
        if metric not in (*ERRORS, *SCORES):
            raise RunError(f"{row.source}: unknown metric {metric!r}; {nearest(metric, (*ERRORS, *SCORES))}")
        error = 1.0 - value if metric in SCORES else value
        if not (math.isfinite(error) and error > 0):
            raise RunError(f"{row.source}: an error must be a finite number above zero, but {metric} is {value:g}")
        loss = _loss(row.source, row.values, by_name)
        results.append(
            TaskResult(
                run=row.text("run"),
                task=row.text("task"),
                metric=metric,
                loss=loss,
                error=error,
                seed=row.text("seed") if "seed" in found else "",
            )
        )
    _check_metrics(path, results)
    return results


def _loss(source: str, values: Mapping[str, Any], by_name: Mapping[str, RunRecord]) -> float:
    given, name = values.get("loss"), str(values["run"])
    if given is not None and str(given).strip() != "":
        (loss,) = numbers_of([given], "loss", [source])
    elif name not in by_name:
        raise RunError(f"{source} has no loss, and there is no run {name!r} to take it from; {nearest(name, by_name)}")
    else:
        loss = _loss_at(source, by_name[name], values.get("checkpoint"))
    if not (math.isfinite(loss) and loss > 0):
        raise RunError(f"{source}: a loss must be a finite number above zero, not {loss:g}")
    return loss


def _loss_at(source: str, record: RunRecord, checkpoint: object) -> float:
    """Return the loss of a run at a step, or at its end."""
    if checkpoint is None or str(checkpoint).strip() == "":
        return record.loss
    (step,) = numbers_of([checkpoint], "checkpoint", [source])
    if record.steps is None:
        raise RunError(f"{source}: the run {record.name} does not record its steps; give the loss of the checkpoint")
    if step == record.steps:
        return record.loss
    molecules = step * record.molecules / record.steps
    for seen, loss in record.curve:
        if abs(seen - molecules) <= 0.001 * record.molecules / record.steps:
            return loss
    raise RunError(
        f"{source}: the run {record.name} was not validated at step {step:g}; give the loss of the checkpoint"
    )


def _check_metrics(path: Path | ColumnTable, results: Sequence[TaskResult]) -> None:
    metrics: dict[str, str] = {}
    for result in results:
        known = metrics.setdefault(result.task, result.metric)
        if known != result.metric:
            raise RunError(
                f"{path}: the task {result.task!r} is measured both by {known} and by {result.metric}; choose one"
            )
