"""Compares runs: which settings differ, the results, and the curves. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unimol_scale.common.metrics_file import read_metrics, values_by_step
from unimol_scale.common.run_files import METRICS_NAME
from unimol_scale.common.trees import Flat
from unimol_scale.common.units import duration
from unimol_scale.errors import RunError
from unimol_scale.scaling.runs.run_list import ListedRun, list_runs
from unimol_scale.scaling.runs.run_records import LOSS, settings_of

ABSENT = "not recorded"  # shown if a run's version did not know the setting
_OWN = frozenset({"output"})  # settings that differ between any two runs
Curve = tuple["np.ndarray", "np.ndarray"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ComparedRun:
    """One of the compared runs.

    Attributes:
        name: a name that is unique among them: the last folders of its path, as many as needed.
        listed: its state and results.
        settings: settings by dotted path.
        terms: name of a loss term → its last validation loss.
        valid: molecules seen and validation loss; empty arrays if it was never validated.
        train: molecules seen and training loss; empty arrays if nothing was logged.
    """

    name: str
    listed: ListedRun
    settings: Flat
    terms: dict[str, float]
    valid: Curve
    train: Curve


def compare_runs(paths: Sequence[Path]) -> list[ComparedRun]:
    """Return every run at or below some folders, by folder.

    Raises:
        RunError: a folder is missing or holds no run, or there are fewer than two.
    """
    listed = list(list_runs(paths))
    if len(listed) < 2:
        raise RunError(f"a comparison needs at least two runs; {', '.join(map(str, paths))} has one")
    names = _distinct_names([one.folder for one in listed])
    return [_compared(name, one) for name, one in zip(names, listed, strict=True)]


def result_rows(runs: Sequence[ComparedRun]) -> list[list[str]]:
    """Return the rows of a table of results: a label, then one cell per run."""
    rows = [
        ["state", *(one.listed.state for one in runs)],
        ["steps", *(_number(one.listed.steps) for one in runs)],
        ["molecules", *(_number(one.listed.molecules) for one in runs)],
        ["time", *("–" if one.listed.seconds is None else duration(one.listed.seconds) for one in runs)],
        ["validation loss", *(_loss(one.listed.loss) for one in runs)],
    ]
    terms = dict.fromkeys(term for one in runs for term in one.terms)
    return rows + [[f"validation loss, {term}", *(_loss(one.terms.get(term)) for one in runs)] for term in terms]


def setting_rows(runs: Sequence[ComparedRun]) -> list[list[str]]:
    """Return the rows of a table of settings that differ between the runs: a label, then one cell per run."""
    keys = dict.fromkeys(key for one in runs for key in one.settings if key not in _OWN)
    rows = [[key, *(_shown(one.settings, key) for one in runs)] for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1]


def different_objectives(runs: Sequence[ComparedRun]) -> bool:
    """Return whether the runs learn different objectives, so that their losses cannot be compared."""
    return len({one.listed.objective for one in runs}) > 1


def _compared(name: str, listed: ListedRun) -> ComparedRun:
    path = listed.folder / METRICS_NAME
    events = read_metrics(path).events if path.is_file() else ()
    molecules = values_by_step(events, "molecules")
    prefix = f"{LOSS}/"
    terms = dict.fromkeys(key for event in events for key in event if key.startswith(prefix))
    last = {term.removeprefix(prefix): values_by_step(events, term) for term in terms}

    def curve(key: str) -> Curve:
        values = {step: loss for step, loss in values_by_step(events, key).items() if step in molecules}
        return np.array([molecules[step] for step in values], np.float64), np.array(list(values.values()), np.float64)

    return ComparedRun(
        name=name,
        listed=listed,
        settings=settings_of(listed.folder),
        terms={term: values[max(values)] for term, values in last.items() if values},
        valid=curve(LOSS),
        train=curve("loss"),
    )


def _distinct_names(folders: Sequence[Path]) -> list[str]:
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-depth:]) for each in parts]
        if len(set(names)) == len(names):
            break
    return names


def _shown(settings: Flat, key: str) -> str:
    value = settings.get(key, ABSENT)
    return "none" if value is None else str(value)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
