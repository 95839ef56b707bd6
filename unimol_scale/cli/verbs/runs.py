"""The verbs ``runs list`` and ``runs table``. Imports the scaling room only when a verb runs."""

import argparse
from pathlib import Path

from unimol_scale.common.output_checks import require_file


def add_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb ``runs`` with its sub-verbs to the command line."""
    runs = verbs.add_parser("runs", help="look at finished runs, or write them as one table")
    actions = runs.add_subparsers(dest="action", required=True, metavar="ACTION")

    listing = actions.add_parser("list", help="print every run below some folders, finished or not")
    listing.add_argument("paths", type=Path, nargs="+", metavar="RUNS", help="run folders, or folders that hold them")
    listing.set_defaults(run=run_list)

    table = actions.add_parser(
        "table", help="write finished runs, their curves and settings as a Parquet file, which fit-scaling-law reads"
    )
    table.add_argument("paths", type=Path, nargs="+", metavar="RUNS", help="run folders, or folders that hold them")
    table.add_argument("--output", type=Path, required=True, metavar="FILE", help="Parquet")
    table.set_defaults(run=run_table)


def run_list(arguments: argparse.Namespace) -> int:
    """Print the runs as a table, and why some cannot be used."""
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
            "–" if one.loss is None else f"{one.loss:.4f}",
            "–" if one.seconds is None else duration(one.seconds),
            one.state,
        )
    Console().print(table)
    return 0


def run_table(arguments: argparse.Namespace) -> int:
    """Write the runs as one Parquet file."""
    from unimol_scale.scaling.runs.read_runs import read_runs
    from unimol_scale.scaling.runs.runs_table import write_runs_table

    require_file(arguments.output)
    records, notes = read_runs(arguments.paths, trunks=True, rates=True)
    for note in notes:
        print(note)
    write_runs_table(records, arguments.output)
    print(f"{arguments.output}: {len(records):,} runs; unimol-scale fit-scaling-law {arguments.output} fits them")
    return 0
