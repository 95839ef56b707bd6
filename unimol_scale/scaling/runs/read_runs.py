"""Reads all runs that a user names (run folders, event files, tables) and checks that they are comparable. No torch."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from unimol_scale.common.summary_file import UnreadableRunError
from unimol_scale.errors import RunError, nearest
from unimol_scale.scaling.runs.event_files import has_event_files, name_of, read_event_folder
from unimol_scale.scaling.runs.loss_tables import ColumnTable, read_table
from unimol_scale.scaling.runs.run_records import (
    RUN_FILES,
    RunRecord,
    check_comparable,
    optimizer_of,
    read_run_folder,
)
from unimol_scale.scaling.runs.runs_table import is_runs_table, read_runs_table

Content = TypeVar("Content")
_MOST_NAMED = 3  # trunks in a note


def read_runs(
    paths: Sequence[Path | ColumnTable],
    columns: Mapping[str, str] | None = None,
    sizes: Mapping[str, str] | None = None,
    trajectories: bool = False,
    leave_out: Sequence[str] = (),
    trunks: bool = False,
    *,
    rates: bool = False,
) -> tuple[list[RunRecord], list[str]]:
    """Read every finished run under the paths.

    Args:
        paths: run folders, folders of event files, directories that contain either at any depth, or tables, as files or
            in memory.
        columns: for tables the header, for event files the tag of N, D, C, loss, …; see those readers.
        sizes: name of a run with only event files → its size.
        trajectories: whether rows of one name in a table are validations along one run.
        leave_out: names of runs to leave out, with a note.
        trunks: whether to include runs that were trained at a constant rate for others to branch off, although their
            losses are above those of finished schedules.
        rates: whether runs may differ only in the learning rate or the batch size.

    Returns:
        The runs, and a note on every run that was left out or needs care.

    Raises:
        RunError: a path or a run to leave out is missing, no run is left, a table is wrong, or runs are duplicates or
            not comparable. A damaged run folder is not an error: it is left out with a note.
    """
    records: list[RunRecord] = []
    notes: list[str] = []
    events: list[Path] = []
    searched: set[str] = set()  # runs that were found in a directory, and not named themselves
    for path in paths:
        if isinstance(path, ColumnTable):
            found, left_out = read_table(path, columns or {}, trajectories)
            records += found
            notes += left_out
        elif path.is_dir():
            folders, event_folders = find_run_folders(path)
            events += event_folders
            searched |= {str(folder) for folder in folders if folder != path}
            for folder in folders:
                outcome = _unless_damaged(folder, read_run_folder)
                records += [outcome] if isinstance(outcome, RunRecord) else []
                notes += [outcome] if isinstance(outcome, str) else []
        elif path.is_file() and is_runs_table(path):
            records += read_runs_table(path)
        elif path.is_file():
            found, left_out = read_table(path, columns or {}, trajectories)
            records += found
            notes += left_out
        else:
            raise RunError(
                f"{path} does not exist; give a directory of runs, which `unimol-scale ladder "
                "configs/ladder/sample.yaml` makes, or a CSV or Parquet table of losses"
            )
    unknown = sorted(set(sizes or {}) - {name_of(folder) for folder in events})
    if unknown:
        raise RunError(f"--size-of {unknown[0]}: there is no run of that name with only event files")
    for folder in events:
        found_run = _unless_damaged(folder, lambda folder: read_event_folder(folder, columns or {}, sizes or {}))
        record, remarks = (None, [found_run]) if isinstance(found_run, str) else found_run
        records += [] if record is None else [record]
        notes += remarks
    if len(events) > 1:
        notes.append(
            f"{len(events)} runs have only event files, which do not record objective or validation set; their losses "
            "are assumed to be comparable"
        )
    for name in leave_out:
        if name not in {record.name for record in records}:
            raise RunError(f"--leave-out {name}: there is no such run; {nearest(name, [run.name for run in records])}")
        notes += [f"{record.source}: left out (--leave-out {name})" for record in records if record.name == name]
    records = [record for record in records if record.name not in leave_out]
    if not trunks:
        records, left_out = _without_trunks(records)
        notes += left_out
    if not records:
        skipped = "".join(f"\n  {note}" for note in notes)
        raise RunError(f"no finished run under {', '.join(str(path) for path in paths)}{skipped}")
    records, left_out = _of_most_runs_optimizer(records, searched)
    notes += left_out
    check_comparable(records, rates=rates)
    return records, [*notes, *(remark for record in records for remark in record.remarks)]


def _without_trunks(records: Sequence[RunRecord]) -> tuple[list[RunRecord], list[str]]:
    """Return the runs without the trunks among them, and a note on those.

    A run that others branched off counts as one even if it does not say so itself, unless its own learning rate decays.
    """
    named = {Path(record.trunk).resolve() for record in records if record.trunk is not None}

    def is_trunk(record: RunRecord) -> bool:
        return record.is_trunk or (record.decays is False and Path(record.source).resolve() in named)

    trunks = [record.source for record in records if is_trunk(record)]
    if not trunks:
        return list(records), []
    named_trunks = ", ".join(trunks[:_MOST_NAMED])
    others = f" and {len(trunks) - _MOST_NAMED} more" if len(trunks) > _MOST_NAMED else ""
    note = (
        f"trunks are left out: {named_trunks}{others}. Their learning rate does not decay, so their losses are above "
        "those of finished runs and do not follow the law; their branches count (--trunks includes them)"
    )
    return [record for record in records if not is_trunk(record)], [note]


def _of_most_runs_optimizer(records: Sequence[RunRecord], searched: set[str]) -> tuple[list[RunRecord], list[str]]:
    """Return the runs of the optimizer of more than half of them, and a note on the others.

    A directory of runs often holds a first try beside a ladder. Runs that were named themselves are not left out.

    Args:
        records: the runs.
        searched: sources of the runs that were found in a directory.
    """
    (most, count), *others = Counter(map(optimizer_of, records)).most_common()
    rest = [record for record in records if optimizer_of(record) != most]
    if not others or 2 * count <= len(records) or any(record.source not in searched for record in rest):
        return list(records), []
    notes = [
        f"{record.source}: left out because {optimizer_of(record)} trained it, and {most} the other {count}: each "
        "optimizer has a law of its own. To fit it, name the folders of its kind"
        for record in rest
    ]
    return [record for record in records if optimizer_of(record) == most], notes


def _unless_damaged(folder: Path, read: Callable[[Path], Content]) -> Content | str:
    """Return what ``read`` returns for a folder, or, if its files are damaged, why the run is left out."""
    try:
        return read(folder)
    except UnreadableRunError as error:
        return f"{folder}: left out because it cannot be read ({error})"


def find_run_folders(root: Path) -> tuple[list[Path], list[Path]]:
    """Return the run folders at or under a directory, and the folders with only event files, both sorted.

    Run folders are not searched further.

    Raises:
        RunError: there are neither.
    """
    runs, event_folders = [], []
    for folder, children, files in os.walk(root):
        if any(name in files for name in RUN_FILES):
            runs.append(Path(folder))
            children.clear()
        elif has_event_files(files):
            event_folders.append(Path(folder))
        children.sort()
    if not runs and not event_folders:
        raise RunError(
            f"{root} holds no run (a folder with {' or '.join(RUN_FILES)}, or TensorBoard event files); "
            "`unimol-scale ladder configs/ladder/sample.yaml` makes a set of them"
        )
    return sorted(runs), sorted(event_folders)
