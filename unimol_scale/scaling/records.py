"""What is known of each finished training run, read from run folders or from a CSV table. Imports no torch.

A run folder holds summary.json (written when the run ends) and metrics.jsonl (one line a log event). A folder without a
finished summary is skipped with a note; runs that may not be compared are an error that shows the difference.
"""

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unimol_scale.errors import RunError, nearest

SCHEMA_VERSION = 1
LOSS = "valid/loss"
RUN_FILES = ("summary.json", "metrics.jsonl")
COMPARABLE = ("objective", "objective_sha256", "validation_sha256")
CSV_COLUMNS = ("N", "D", "loss", "C", "name")
D_FROM_C = "C/(6N)"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One finished run, at the end of its schedule.

    Attributes:
        name: of the run; unique in a set.
        source: where it was read, for messages.
        size: name of the preset; None when the table does not say.
        parameters: all parameters.
        embedding_parameters: those of the embeddings; None when unknown.
        molecules: molecules seen in training, repeats counted.
        steps: optimiser steps; None when unknown.
        global_batch_size: molecules a step; None when unknown.
        flops: from the run's own log; None when unknown.
        loss: validation loss at the last step.
        terms: name of a loss term → its validation loss at the last step.
        seed: of the run; None when unknown.
        comparable: settings in which runs of one law must agree.
        curve: (molecules, validation loss) of every validation, in order.
    """

    name: str
    source: str
    parameters: float
    molecules: float
    loss: float
    size: str | None = None
    embedding_parameters: float | None = None
    steps: int | None = None
    global_batch_size: int | None = None
    flops: float | None = None
    terms: Mapping[str, float] = field(default_factory=dict)
    seed: int | None = None
    comparable: Mapping[str, str] = field(default_factory=dict)
    curve: tuple[tuple[float, float], ...] = ()


def read_runs(paths: Sequence[Path], csv_columns: Mapping[str, str] | None = None) -> tuple[list[RunRecord], list[str]]:
    """Read every finished run under the paths.

    Args:
        paths: run folders, directories that hold run folders at any depth, or CSV tables.
        csv_columns: for tables: one of ``CSV_COLUMNS`` → the header of that column; D may be "C/(6N)".

    Returns:
        The runs, and a note on every run that was left out.

    Raises:
        RunError: a path is missing or holds no finished run, a file is damaged, runs are duplicates or may not be
            compared.
    """
    records: list[RunRecord] = []
    notes: list[str] = []
    for path in paths:
        if path.is_dir():
            found, left_out = _read_directory(path)
            records += found
            notes += left_out
        elif path.is_file():
            records += read_csv(path, csv_columns or {})
        else:
            raise RunError(f"{path} does not exist; give a directory of runs (such as runs/) or a CSV table")
    if not records:
        skipped = "".join(f"\n  {note}" for note in notes)
        raise RunError(f"no finished run under {', '.join(str(path) for path in paths)}{skipped}")
    check_comparable(records)
    return records, notes


def _read_directory(root: Path) -> tuple[list[RunRecord], list[str]]:
    folders = find_run_folders(root)
    if not folders:
        raise RunError(
            f"{root} holds no run (a folder with {' or '.join(RUN_FILES)}); "
            "`unimol-scale ladder configs/ladder/sample.yaml` makes a set of them"
        )
    records, notes = [], []
    for folder in folders:
        record = read_run_folder(folder)
        if isinstance(record, RunRecord):
            records.append(record)
        else:
            notes.append(record)
    return records, notes


def find_run_folders(root: Path) -> list[Path]:
    """Return the run folders at or under a directory, sorted; nothing below a run folder is looked at."""
    found = []
    for folder, children, files in os.walk(root):
        if any(name in files for name in RUN_FILES):
            found.append(Path(folder))
            children.clear()
        children.sort()
    return sorted(found)


def read_run_folder(folder: Path) -> RunRecord | str:
    """Read one run folder.

    Returns:
        The run, or the reason why it was left out: not finished, or diverged.

    Raises:
        RunError: summary.json or metrics.jsonl is damaged or lacks a key.
    """
    path = folder / "summary.json"
    if not path.is_file():
        return f"{folder}: left out, it has no summary.json yet (still running, or killed)"
    summary = _read_json(path)
    status = _get(summary, "status", str, path)
    if status != "finished":
        return f"{folder}: left out, its status is {status!r}"
    if _get(summary, "diverged", bool, path):
        return f"{folder}: left out, it diverged"
    version = _get(summary, "schema_version", int, path)
    if version != SCHEMA_VERSION:
        raise RunError(f"{path}: schema_version is {version}, this program reads {SCHEMA_VERSION}")
    final = _get(summary, "final", dict, path)
    parameters = _get(summary, "parameters", dict, path)
    prefix = f"{LOSS}/"
    return RunRecord(
        name=_get(summary, "name", str, path),
        source=str(folder),
        size=_get(summary, "size", str, path),
        parameters=_number(parameters, "total", path),
        embedding_parameters=_number(parameters, "embedding", path),
        molecules=_number(summary, "molecules", path),
        steps=_get(summary, "steps", int, path),
        global_batch_size=_get(summary, "global_batch_size", int, path),
        flops=_number(summary, "flops", path),
        loss=_number(final, LOSS, path),
        terms={key[len(prefix) :]: _number(final, key, path) for key in final if key.startswith(prefix)},
        seed=_get(summary, "seed", int, path),
        comparable={key: _get(summary, key, str, path) for key in COMPARABLE},
        curve=_read_curve(folder / "metrics.jsonl"),
    )


def _read_curve(path: Path) -> tuple[tuple[float, float], ...]:
    if not path.is_file():
        raise RunError(f"{path} is missing, although the run's summary says that it finished")
    events: dict[float, float] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            event = json.loads(line)
        except json.JSONDecodeError as error:
            raise RunError(f"{path}:{number} is not JSON: {error}") from error
        if LOSS in event:
            # A resumed run logs the steps since its last checkpoint again: the later line is the one that counts.
            events[_number(event, "molecules", path)] = _number(event, LOSS, path)
    return tuple(sorted(events.items()))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(
            f"{path} is not JSON: {error}; delete it and run the training again to have it rewritten"
        ) from error
    if not isinstance(tree, dict):
        raise RunError(f"{path} must hold an object, not a {type(tree).__name__}")
    return tree


def _get(tree: Mapping[str, Any], key: str, kind: type, path: Path) -> Any:  # noqa: ANN401
    if key not in tree:
        raise RunError(f"{path} lacks the key {key!r}")
    value = tree[key]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise RunError(f"{path}: {key!r} is {value!r}, not of type {kind.__name__}")
    return value


def _number(tree: Mapping[str, Any], key: str, path: Path) -> float:
    value = tree.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RunError(f"{path}: {key!r} must be a number, not {value!r}")
    return float(value)


def read_csv(path: Path, headers: Mapping[str, str]) -> list[RunRecord]:
    """Read a table of losses, one run a row.

    Args:
        path: a CSV file with a header line.
        headers: one of ``CSV_COLUMNS`` → the header of that column; what is not given is looked for under its own
            name. D as "C/(6N)" computes it the way language models count.

    Raises:
        RunError: a column is unknown or missing, or a value is not a number.
    """
    for key in headers:
        if key not in CSV_COLUMNS:
            raise RunError(f"unknown column {key!r}; {nearest(key, CSV_COLUMNS)}")
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            reader = csv.DictReader(file)
            found = list(reader.fieldnames or [])
            rows = [(reader.line_num, row) for row in reader]
        except (csv.Error, UnicodeDecodeError) as error:
            raise RunError(f"{path} is not a CSV table: {error}") from error
    chosen = {key: headers.get(key, key) for key in CSV_COLUMNS}
    required = {"N", "loss", *headers, "C" if chosen["D"] == D_FROM_C else "D"}
    for key in sorted(required - ({"D"} if chosen["D"] == D_FROM_C else set())):
        if chosen[key] not in found:
            raise RunError(
                f"{path} has no column {chosen[key]!r} for {key}; name it with --column {key}=HEADER; "
                f"{nearest(chosen[key], found)}"
            )
    return [_csv_record(path, line, row, chosen) for line, row in rows]


def _csv_record(path: Path, line: int, row: Mapping[str, str], chosen: Mapping[str, str]) -> RunRecord:
    source = f"{path}:{line}"

    def number(key: str) -> float:
        text = row.get(chosen[key]) or ""
        try:
            return float(text)
        except ValueError:
            raise RunError(f"{source}: {chosen[key]!r} must be a number, not {text!r}") from None

    parameters = number("N")
    flops = number("C") if chosen["C"] in row else None
    if chosen["D"] == D_FROM_C:
        assert flops is not None
        molecules = flops / (6.0 * parameters) if parameters else math.nan
    else:
        molecules = number("D")
    return RunRecord(
        name=row.get(chosen["name"]) or f"row {line}",
        source=source,
        parameters=parameters,
        molecules=molecules,
        flops=flops,
        loss=number("loss"),
    )


def check_comparable(records: Sequence[RunRecord]) -> None:
    """Check that runs can stand in one table.

    Raises:
        RunError: two runs differ in objective, noise or validation set, have one name, or are one run twice.
    """
    first = records[0]
    names: dict[str, RunRecord] = {}
    contents: dict[tuple[object, ...], RunRecord] = {}
    for record in records:
        for key in sorted(set(first.comparable) | set(record.comparable)):
            ours, theirs = first.comparable.get(key), record.comparable.get(key)
            if ours != theirs:
                raise RunError(
                    f"runs that differ in {key} can not share a law: {first.source} has {ours}, {record.source} has "
                    f"{theirs}; fit them separately by naming the run folders"
                )
        # A table without seeds can hold two runs of one size and budget; only an equal loss makes them the same run.
        told_apart = record.seed if record.seed is not None else record.loss
        content = (record.parameters, record.molecules, record.steps, told_apart)
        for other in (names.get(record.name), contents.get(content)):
            if other is not None:
                raise RunError(
                    f"duplicate run: {other.source} and {record.source} have the same "
                    f"{'name' if other.name == record.name else 'size, budget and seed'}; leave one out"
                )
        names[record.name] = record
        contents[content] = record
