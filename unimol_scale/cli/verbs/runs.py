"""The verbs ``runs list``, ``table``, ``compare`` and ``prune``. Imports heavy libraries only when a verb runs."""

import argparse
from pathlib import Path

from unimol_scale.common.output_checks import require_file
from unimol_scale.errors import ConfigError


def add_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb ``runs`` with its sub-verbs to the command line."""
    runs = verbs.add_parser(
        "runs", help="list runs, compare them, write them to one table, or delete checkpoints that are not needed"
    )
    actions = runs.add_subparsers(dest="action", required=True, metavar="ACTION")

    listing = actions.add_parser("list", help="list all runs in some folders, finished or not")
    listing.add_argument("paths", type=Path, nargs="+", metavar="RUNS", help="run folders, or folders that hold them")
    listing.set_defaults(run=run_list)

    table = actions.add_parser(
        "table", help="write finished runs, their curves and settings to a Parquet file, which fit-scaling-law reads"
    )
    table.add_argument("paths", type=Path, nargs="+", metavar="RUNS", help="run folders, or folders that hold them")
    table.add_argument("--output", type=Path, required=True, metavar="FILE", help="the Parquet file to write")
    table.set_defaults(run=run_table)

    comparing = actions.add_parser(
        "compare", help="print the results of runs and the settings that differ side by side, and plot their curves"
    )
    comparing.add_argument("paths", type=Path, nargs="+", metavar="RUNS", help="run folders, or folders that hold them")
    comparing.add_argument(
        "--output",
        type=Path,
        default=Path("reports/runs.png"),
        metavar="FILE",
        help="the PNG file to write (default: %(default)s)",
    )
    comparing.set_defaults(run=run_compare)

    pruning = actions.add_parser(
        "prune",
        help="show which checkpoints of finished runs are not needed; --yes deletes them",
        description="Shows which checkpoints of finished runs are not needed; --yes deletes them. The command keeps "
        "the newest and the best checkpoint of each run, those of train.keep_steps, and those that another of these "
        "runs branches off from or refers to. It does not touch runs that have not ended.",
    )
    pruning.add_argument(
        "paths",
        type=Path,
        nargs="+",
        metavar="RUNS",
        help="run folders, or folders that hold them; name all runs that branch off from one another",
    )
    choice = pruning.add_mutually_exclusive_group()
    choice.add_argument("--dry-run", action="store_true", help="only show the checkpoints (the default)")
    choice.add_argument("--yes", action="store_true", help="delete the checkpoints that are not needed")
    pruning.set_defaults(run=run_prune)


def run_list(arguments: argparse.Namespace) -> int:
    """Print the runs as a table; the last column says why a run cannot be used."""
    from rich.console import Console
    from rich.table import Table

    from unimol_scale.common.units import duration
    from unimol_scale.scaling.runs.run_list import list_runs

    table = Table("run", "size", "objective", "steps", "molecules", "validation loss", "time", "state")
    for one in list_runs(arguments.paths):
        table.add_row(
            one.folder.name,
            one.size or "–",
            one.objective or "–",
            "–" if one.steps is None else f"{one.steps:,}",
            "–" if one.molecules is None else f"{one.molecules:,.0f}",
            _validation_loss(one.loss, one.loss_step),
            "–" if one.seconds is None else duration(one.seconds),
            one.state,
        )
    Console().print(table)
    return 0


def _validation_loss(loss: float | None, step: int | None) -> str:
    """Return the loss of an unfinished run with its step, since training may be far beyond it."""
    if loss is None:
        return "–"
    return f"{loss:.4f}" if step is None else f"{loss:.4f} (step {step:,})"


def run_table(arguments: argparse.Namespace) -> int:
    """Write the runs to one Parquet file."""
    from unimol_scale.scaling.runs.read_runs import read_runs
    from unimol_scale.scaling.runs.runs_table import write_runs_table

    require_file(arguments.output)
    records, notes = read_runs(arguments.paths, trunks=True, rates=True)
    for note in notes:
        print(note)
    write_runs_table(records, arguments.output)
    print(f"{arguments.output}: {len(records):,} runs\nnext: unimol-scale fit-scaling-law {arguments.output}")
    return 0


def run_compare(arguments: argparse.Namespace) -> int:
    """Print runs side by side, and plot their curves."""
    from rich.console import Console
    from rich.table import Table

    from unimol_scale.scaling.report.run_curves import draw_run_curves
    from unimol_scale.scaling.runs.compared_runs import (
        compare_runs,
        different_objectives,
        result_rows,
        setting_rows,
    )

    if arguments.output.suffix != ".png":
        raise ConfigError(f"--output {arguments.output}: the name must end in .png")
    require_file(arguments.output)
    runs = compare_runs(arguments.paths)
    console = Console()
    for title, rows in (("result", result_rows(runs)), ("setting", setting_rows(runs))):
        table = Table(title, *(one.name for one in runs))
        for row in rows:
            table.add_row(*row)
        if rows:
            console.print(table)
        else:
            print("the runs have the same settings")
    if different_objectives(runs):
        print("the objectives differ, so the losses cannot be compared")
    draw_run_curves(arguments.output, runs)
    print(f"curves: {arguments.output}")
    return 0


def run_prune(arguments: argparse.Namespace) -> int:
    """Show the checkpoints that are not needed, and delete them if ``--yes`` was given."""
    from unimol_scale.checkpoints.run.unneeded_checkpoints import delete_unneeded, find_unneeded
    from unimol_scale.common.units import byte_size, counted
    from unimol_scale.scaling.runs.read_runs import find_run_folders

    folders = [folder for path in arguments.paths for folder in find_run_folders(path)[0]]
    found = find_unneeded(list(dict.fromkeys(folders)))
    for run in found:
        if run.left_alone:
            print(f"{run.folder}: not touched, because {run.left_alone}")
        for name, why in (run.kept or {}).items():
            print(f"{run.folder}: {name} is kept ({why})")
        for info in run.unneeded:
            print(f"{run.folder}: {info.path.name} is not needed, {byte_size(info.bytes)}")
    number, size = sum(len(run.unneeded) for run in found), byte_size(sum(run.bytes for run in found))
    if not arguments.yes:
        if number:
            found_some = f"{counted(number, 'checkpoint')} of {size} can be deleted."
            print(f"{found_some} Nothing was deleted yet; add --yes to do it.")
        else:
            print("No checkpoint can be deleted: every one is still needed.")
        return 0
    for run in found:
        if not run.left_alone:
            delete_unneeded(run)
    print(f"{counted(number, 'checkpoint')} deleted ({size})")
    return 0
