"""Lists the runs below some folders, finished or not, with their states and results. No torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unimol_scale.common.metrics_file import read_metrics, values_by_step
from unimol_scale.common.run_files import CHECKPOINTS, LATEST, METRICS_NAME, SUMMARY_NAME
from unimol_scale.common.summary_file import UnreadableRunError, read_summary
from unimol_scale.scaling.runs.read_runs import find_run_folders
from unimol_scale.scaling.runs.run_records import LOSS, settings_of


@dataclass(frozen=True, kw_only=True)
class ListedRun:
    """State and results of a run; None stands for unknown values.

    Attributes:
        folder: folder of the run.
        state: "finished", "at step N of M, saved at step K", "diverged", or why it cannot be read.
        size: name of its preset.
        objective: name of its objective.
        steps: steps done.
        molecules: molecules seen in training.
        loss: last validation loss.
        loss_step: step at which it was measured.
        seconds: time of training.
    """

    folder: Path
    state: str
    size: str | None = None
    objective: str | None = None
    steps: int | None = None
    molecules: float | None = None
    loss: float | None = None
    loss_step: int | None = None
    seconds: float | None = None


def list_runs(paths: Sequence[Path]) -> Iterator[ListedRun]:
    """Yield every run at or below some folders, by folder.

    Raises:
        RunError: a folder is missing, or holds no run.
    """
    for path in paths:
        for folder in find_run_folders(path)[0]:
            yield _finished(folder) if (folder / SUMMARY_NAME).is_file() else _unfinished(folder)


def _finished(folder: Path) -> ListedRun:
    try:
        summary = read_summary(folder)
        return ListedRun(
            folder=folder,
            state="diverged" if summary.get("diverged") else summary.value("status", str),
            size=summary.value("size", str),
            objective=summary.value("objective", str),
            steps=summary.value("steps", int),
            molecules=summary.number("molecules"),
            loss=summary.group("final").number(LOSS),
            seconds=summary.number("seconds"),
        )
    except UnreadableRunError as error:
        return ListedRun(folder=folder, state=f"cannot be read: {error}")


def _unfinished(folder: Path) -> ListedRun:
    try:
        events = read_metrics(folder / METRICS_NAME).events
    except OSError as error:
        return ListedRun(folder=folder, state=f"cannot be read: {error.strerror}")
    settings = settings_of(folder)
    counts = {key: values_by_step(events, key) for key in ("molecules", "seconds", LOSS)}
    steps = max((step for values in counts.values() for step in values), default=0)
    planned = settings.get("train.steps")
    saved = _saved_step(folder)
    last = {key: values[max(values)] if values else None for key, values in counts.items()}
    return ListedRun(
        folder=folder,
        state=f"at step {steps:,}"
        + (f" of {planned:,}" if isinstance(planned, int) else "")
        + (", nothing saved" if saved is None else f", saved at step {saved:,}"),
        size=_text(settings.get("size")),
        objective=_text(settings.get("objective.name")),
        steps=steps,
        molecules=last["molecules"],
        loss=last[LOSS],
        loss_step=max(counts[LOSS], default=None),
        seconds=last["seconds"],
    )


def _saved_step(folder: Path) -> int | None:
    """Return the step of the newest checkpoint, from which the run would be resumed; None without one."""
    try:
        name = (folder / CHECKPOINTS / LATEST).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    step = name.rpartition("-")[2]
    return int(step) if step.isdecimal() else None


def _text(value: Any) -> str | None:  # noqa: ANN401 - of settings
    return None if value is None else str(value)
