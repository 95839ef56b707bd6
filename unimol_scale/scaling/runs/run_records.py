"""Reads the record of a finished training run from its folder, and checks which runs can be compared. No torch.

A run folder has summary.json, written when the run ends, and metrics.jsonl, with one line per log event. A folder
without the summary of a finished run is skipped with a note. Runs that cannot be compared cause an error that shows how
they differ.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from unimol_scale.common.files import hash_file
from unimol_scale.common.metrics_file import Metrics, read_metrics, values_by_step
from unimol_scale.common.run_files import (
    CONFIG_NAME,
    DIVERGED_FACTOR,
    METRICS_NAME,
    SUMMARY_NAME,
    SUMMARY_SCHEMA_VERSION,
    UNIQUE,
)
from unimol_scale.common.summary_file import UnreadableRunError, read_summary
from unimol_scale.common.text.json_files import read_json
from unimol_scale.common.trees import Differences, Flat, as_lines, differences, flatten
from unimol_scale.config import read_yaml
from unimol_scale.errors import ConfigError, RunError, version_problem

LOSS = "valid/loss"
RUN_FILES = (SUMMARY_NAME, METRICS_NAME)
COMPARABLE = ("objective", "objective_sha256", "validation_sha256")
GROUPS = ("embedding", "atom_track", "pair_track", "heads")
MEANINGS = {
    "objective": "objective",
    "objective_sha256": "the settings of the objective (noise, weights of the loss terms, …)",
    "validation_sha256": "validation set",
}
# Key of the optimizer; versions without a choice used AdamW.
OPTIMIZER, _FIRST_OPTIMIZER = "optimizer", "AdamW"
DataUnit = Literal["molecule", "sample", "token"]
DATA_UNITS: tuple[DataUnit, ...] = ("molecule", "sample", "token")
MANIFEST = "manifest.json"  # file of a conformer store
UNDECAYED = ("constant", "inverse_sqrt")  # schedules that do not decay to an end
DECAYED = 0.99  # a learning rate below this share of its peak has begun to decay


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One finished run.

    Attributes:
        name: name of the run; unique in a set.
        source: file or folder it was read from, for messages.
        size: name of the preset; None if unknown.
        parameters: number of all parameters.
        groups: name of a group of parameters (``GROUPS``) → its count; empty if unknown.
        molecules: molecules seen in training, counting repeats.
        steps: optimiser steps; None if unknown.
        global_batch_size: molecules per step; None if unknown.
        flops: from the run's own log; None if unknown.
        unique: distinct molecules in its training data; None if unknown.
        learning_rate: peak learning rate; None if unknown.
        unit: what D counts: "molecule" for runs, "sample" or "token" for tables.
        loss: validation loss at the last step.
        terms: name of a loss term → its validation loss at the last step.
        seed: seed of the run; None if unknown.
        comparable: settings that must be the same for all runs of a law.
        curve: (molecules, validation loss) of every validation, in order.
        curve_terms: name of a loss term → its validation loss at every entry of ``curve``; terms that are missing from
            some validation are left out.
        decays: whether the learning rate falls from its peak during the run; None if unknown.
        own_flops: the part of ``flops`` that is not the trunk's; None if unknown, or if there is no trunk.
        trunk: folder of the run that it branched off where its learning rate began to decay; None if there is none.
        is_trunk: whether it was made for others to branch off and its learning rate does not decay, so that its loss is
            not that of a finished schedule.
        skipped: steps that were skipped because their loss or gradient was not finite.
        damaged_lines: lines of the run's log that could not be read and were ignored.
        weight: weight of the run in a fit, relative to others.
        remarks: notes for anyone who fits a law to it, each a sentence.
        settings: settings by dotted path; {} if unknown.
    """

    name: str
    source: str
    parameters: float
    molecules: float
    loss: float
    size: str | None = None
    groups: Mapping[str, float] = field(default_factory=dict)
    steps: int | None = None
    global_batch_size: int | None = None
    flops: float | None = None
    unique: float | None = None
    learning_rate: float | None = None
    unit: DataUnit = "molecule"
    terms: Mapping[str, float] = field(default_factory=dict)
    seed: int | None = None
    comparable: Mapping[str, str] = field(default_factory=dict)
    curve: tuple[tuple[float, float], ...] = ()
    curve_terms: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    decays: bool | None = None
    own_flops: float | None = None
    trunk: str | None = None
    is_trunk: bool = False
    skipped: int = 0
    damaged_lines: int = 0
    weight: float = 1.0
    remarks: tuple[str, ...] = ()
    settings: Flat = field(default_factory=dict)


@dataclass(frozen=True)
class _Log:
    """Curve, curve_terms, decays and damaged_lines of a ``RunRecord``."""

    curve: tuple[tuple[float, float], ...]
    curve_terms: Mapping[str, tuple[float, ...]]
    decays: bool | None
    damaged_lines: int


def read_run_folder(folder: Path) -> RunRecord | str:
    """Read one run folder.

    Returns:
        The run, or the reason why it was left out: not finished, diverged, or ended at another step than its settings
        say.

    Raises:
        UnreadableRunError: summary.json is damaged or lacks a key, or a file cannot be read.
    """
    path = folder / SUMMARY_NAME
    if not path.is_file():
        return f"{folder}: left out because it has no {SUMMARY_NAME} yet (still running, or killed)"
    summary = read_summary(folder)
    status = summary.value("status", str)
    if status != "finished":
        return f"{folder}: left out because its status is {status!r}"
    version = summary.value("schema_version", int)
    if problem := version_problem(version, SUMMARY_SCHEMA_VERSION, "schema_version"):
        raise UnreadableRunError(f"{path}: {problem}")
    if summary.value("diverged", bool):
        return f"{folder}: left out because it diverged"
    final = summary.group("final")
    parameters = summary.group("parameters")
    prefix = f"{LOSS}/"
    steps = summary.value("steps", int)
    settings = settings_of(folder)
    if (planned := _planned_steps(settings)) not in (None, steps):
        return (
            f"{folder}: left out because its {CONFIG_NAME} says {planned} steps but its {SUMMARY_NAME} {steps}, so "
            "its last loss is not that of a finished schedule"
        )
    skipped = summary.value("skipped", int) if "skipped" in summary else 0
    log = _read_log(folder)
    schedule = summary.get("schedule")  # None in summaries that are older than this key
    branch = summary.group("branch") if summary.get("branch") is not None else None
    return RunRecord(
        name=summary.value("name", str),
        source=str(folder),
        size=summary.value("size", str),
        parameters=parameters.number("total"),
        groups={group: parameters.number(group) for group in GROUPS},
        molecules=summary.number("molecules"),
        steps=steps,
        global_batch_size=summary.value("global_batch_size", int),
        flops=summary.number("flops"),
        unique=_unique(summary, settings),
        learning_rate=_learning_rate(settings),
        loss=final.number(LOSS),
        terms={key[len(prefix) :]: final.number(key) for key in final if key.startswith(prefix)},
        seed=summary.value("seed", int),
        comparable={key: summary.value(key, str) for key in COMPARABLE}
        | {OPTIMIZER: summary.value(OPTIMIZER, str) if OPTIMIZER in summary else _FIRST_OPTIMIZER},
        curve=log.curve,
        curve_terms=log.curve_terms,
        decays=True if schedule == "wsd" else log.decays,  # the log of a branch may begin during its decay
        own_flops=None if branch is None else branch.group("own").number("flops"),
        trunk=None if branch is None else branch.value("trunk", str),
        is_trunk=bool(summary.get("keep_steps")) and schedule in UNDECAYED,
        skipped=skipped,
        damaged_lines=log.damaged_lines,
        remarks=_remarks(summary, folder),
        settings=settings,
    )


def settings_of(folder: Path) -> Flat:
    """Return the settings in a run's config.yaml by dotted path; {} if it is missing or cannot be read."""
    path = folder / CONFIG_NAME
    try:
        return flatten(read_yaml(path)[0]) if path.is_file() else {}
    except (ConfigError, OSError):
        return {}


def _planned_steps(settings: Flat) -> int | None:
    steps = settings.get("train.steps")
    return steps if isinstance(steps, int) else None


def _learning_rate(settings: Flat) -> float | None:
    try:
        return float(settings["train.learning_rate"])  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError):
        return None


def _unique(summary: Mapping[str, Any], settings: Flat) -> float | None:
    """Return the distinct molecules that a run had: as recorded, or else those of its store if that is unchanged.

    Runs of earlier versions did not record the number.
    """
    known = summary.get(UNIQUE)
    if known is not None:
        return float(known)
    store, wanted = settings.get("data.path"), summary.get("data_manifest_sha256")
    manifest = Path(str(store)) / MANIFEST
    if not isinstance(store, str) or not wanted:
        return None
    try:
        if hash_file(manifest) != wanted:
            return None
        histogram = read_json(manifest)["splits"]["train"]["size_histogram"]
        return float(sum(int(count) for count in histogram.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _remarks(summary: Mapping[str, Any], folder: Path) -> tuple[str, ...]:
    """Return notes on a run that was not a single schedule from random weights, as far as that is recorded."""
    remarks = []
    for change in summary.get("settings_changes") or ():
        if change["curve"] and change["step"]:
            settings = ", ".join(
                f"{key} {change['changes'][key][0]} → {change['changes'][key][1]}" for key in change["curve"]
            )
            remarks.append(
                f"{folder}: its settings changed after step {change['step']} ({settings}), so its loss is not that of "
                "one schedule"
            )
    if summary.get("init"):
        remarks.append(
            f"{folder}: it started from the weights of {summary['init']['path']}, and its molecules do not include "
            "those that these weights had seen"
        )
    return tuple(remarks)


def _read_log(folder: Path) -> "_Log":
    """Read the log of a run. Lines, or the whole file, may be missing, since the summary has the end of the run."""
    path = folder / METRICS_NAME
    try:
        metrics = read_metrics(path) if path.is_file() else Metrics((), ())
    except OSError as error:
        raise UnreadableRunError(f"{path} cannot be read: {error.strerror}") from error
    molecules = values_by_step(metrics.events, "molecules")
    keys = {key for event in metrics.events for key in event if key == LOSS or key.startswith(f"{LOSS}/")}
    logged = {key: values_by_step(metrics.events, key) for key in keys}
    events = {
        molecules[step]: {key: values[step] for key, values in logged.items() if step in values}
        for step in logged.get(LOSS, ())
        if step in molecules
    }
    rates = values_by_step(metrics.events, "lr")
    curve, terms = curve_of(events)
    decays = decays_of({molecules[step]: rate for step, rate in rates.items() if step in molecules})
    return _Log(curve, terms, decays, len(metrics.damaged))


def curve_of(
    events: Mapping[float, Mapping[str, float]],
) -> tuple[tuple[tuple[float, float], ...], dict[str, tuple[float, ...]]]:
    """Return curve and curve_terms of a ``RunRecord`` from its validations: molecules → key → loss."""
    ordered = sorted(events.items())
    prefix = f"{LOSS}/"
    names = {key for _, losses in ordered for key in losses if key.startswith(prefix)}
    whole = sorted(key for key in names if all(key in losses for _, losses in ordered))
    terms = {key[len(prefix) :]: tuple(losses[key] for _, losses in ordered) for key in whole}
    return tuple((molecules, losses[LOSS]) for molecules, losses in ordered), terms


def diverged(curve: Sequence[tuple[float, float]]) -> bool:
    """Return whether the last loss of a curve is not finite or far above its lowest."""
    last = curve[-1][1]
    lowest = min((loss for _, loss in curve if math.isfinite(loss)), default=math.nan)
    return not math.isfinite(last) or last > DIVERGED_FACTOR * lowest


def decays_of(rates: Mapping[float, float]) -> bool | None:
    """Return whether a learning rate, molecules → rate, ends below its peak; None without any."""
    if not rates:
        return None
    return rates[max(rates)] < DECAYED * max(rates.values())


def optimizer_of(record: RunRecord) -> str:
    """Return what trained a run, such as "AdamW"."""
    return record.comparable.get(OPTIMIZER, _FIRST_OPTIMIZER) or _FIRST_OPTIMIZER


def check_comparable(records: Sequence[RunRecord], *, rates: bool = False) -> None:
    """Check that runs can be compared.

    Args:
        records: the runs.
        rates: whether runs that differ only in the learning rate or the batch size count as different runs.

    Raises:
        RunError: two runs differ in objective, noise or validation set, have the same name, or are the same run.
    """
    first = records[0]
    names: dict[str, RunRecord] = {}
    contents: dict[tuple[object, ...], RunRecord] = {}
    for record in records:
        for key in COMPARABLE:
            ours, theirs = first.comparable.get(key), record.comparable.get(key)
            if ours != theirs:
                changed = _changed_objective(first, record)
                settings = f". Their settings (first → second):{as_lines(changed)}" if changed else ""
                raise RunError(
                    f"runs that differ in {key} cannot share a law, because their losses measure different things "
                    f"({MEANINGS[key]}): {first.source} has {ours or 'no record of it'}, {record.source} has "
                    f"{theirs or 'no record of it'}; fit them separately by naming the run folders{settings}"
                )
        ours, theirs = optimizer_of(first), optimizer_of(record)
        if ours != theirs:
            raise RunError(
                "runs of different optimizers cannot share a law, because each optimizer has a law of its own: "
                f"{first.source} has {ours}, {record.source} has {theirs}; fit them separately by naming the run "
                "folders"
            )
        # Without seeds, a table can have two runs of one size and budget; they are the same run if the loss is equal.
        told_apart = record.seed if record.seed is not None else record.loss
        content: tuple[object, ...] = (record.parameters, record.molecules, record.steps, told_apart, record.is_trunk)
        content += (record.learning_rate, record.global_batch_size) if rates else ()
        for other in (names.get(record.name), contents.get(content)):
            if other is not None:
                same = "name" if other.name == record.name else "size, budget and seed"
                along = same == "name" and (other.parameters, other.seed) == (record.parameters, record.seed)
                hint = ", or use --trajectories if they are points along one run" if along else ""
                if same != "name" and other.learning_rate != record.learning_rate and not rates:
                    hint = "; they differ in the learning rate: --rates finds the best one"
                raise RunError(
                    f"duplicate run: {other.source} and {record.source} have the same {same}; leave one out{hint}"
                )
        names[record.name] = record
        contents[content] = record


def _changed_objective(one: RunRecord, two: RunRecord) -> Differences:
    """Return the settings in which the objectives of two runs differ, as far as the runs' config.yaml record them.

    A setting that a run does not record has the default of its version, which is unknown here: it is left out unless
    nothing else differs.
    """
    ours, theirs = _objective_of(one), _objective_of(two)
    changed = differences(ours, theirs)
    return {key: pair for key, pair in changed.items() if key in ours and key in theirs} or changed


def _objective_of(record: RunRecord) -> Flat:
    """Return the settings of what a run learns; {} if they are unknown."""
    mixture = "objective.mixture."
    learnt = {key.removeprefix(mixture).split(".")[0] for key in record.settings if key.startswith(mixture)}
    learnt = {"name", "mixture", *(learnt or {str(record.settings.get("objective.name"))})}
    return {
        key: value
        for key, value in record.settings.items()
        if key.startswith("objective.") and key.split(".")[1] in learnt
    }
