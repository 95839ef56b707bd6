"""The verb ``fit-scaling-law``, arguments and printing, beside ``ladder``. Imports the rest only when a verb runs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unimol_scale.errors import RunError
from unimol_scale.scaling.ladder_command import add_ladder


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verbs.

    Args:
        verbs: what ``ArgumentParser.add_subparsers`` returned.
    """
    _add_fit(verbs)
    add_ladder(verbs)


def _add_fit(verbs: Any) -> None:  # noqa: ANN401
    text = "fit a scaling law to finished runs, test it on the largest size, and write a report"
    verb = verbs.add_parser("fit-scaling-law", help=text, description=text)
    verb.add_argument(
        "runs", nargs="+", type=Path, metavar="RUNS", help="run folders, directories of them, or CSV tables"
    )
    verb.add_argument(
        "--law",
        default="auto",
        choices=("auto", "chinchilla", "power", "saturating", "unimol2"),
        help="auto takes the law that predicts left-out sizes best (default: %(default)s)",
    )
    verb.add_argument(
        "--variable", choices=("N", "D", "C"), help="of a law in one variable (default: the one that varies)"
    )
    verb.add_argument(
        "--hold-out",
        default="largest",
        metavar="RULE",
        help="largest, none, a number of sizes or a fraction of them (default: %(default)s)",
    )
    verb.add_argument(
        "--predict", action="append", default=[], metavar="SIZE@MOLECULES", help="such as 1.1B@838M; may be repeated"
    )
    verb.add_argument(
        "--parameters",
        default="total",
        choices=("total", "non-embedding"),
        help="which parameters N counts (default: %(default)s)",
    )
    verb.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="KEY=HEADER",
        help='for CSV tables: the header of N, D, loss, C or name; D may be "C/(6N)"; may be repeated',
    )
    verb.add_argument("--bootstrap", type=int, default=1000, help="draws for the intervals (default: %(default)s)")
    verb.add_argument(
        "--output", type=Path, default=Path("reports/scaling-law"), help="folder of the report (default: %(default)s)"
    )
    verb.set_defaults(run=_run_fit)


def _parse_columns(assignments: Sequence[str]) -> dict[str, str]:
    columns = {}
    for assignment in assignments:
        key, equals, header = assignment.partition("=")
        if not equals or not header:
            raise RunError(f"--column {assignment!r} is not KEY=HEADER, such as --column N=parameters")
        columns[key] = header
    return columns


def _run_fit(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from unimol_scale.scaling.analysis import AnalysisConfig, analyse
    from unimol_scale.scaling.fit import FitConfig
    from unimol_scale.scaling.records import read_runs
    from unimol_scale.scaling.report import summary_tables, write_report

    console = Console(highlight=False)
    config = AnalysisConfig(
        law=arguments.law,
        variable=arguments.variable,
        hold_out=arguments.hold_out,
        parameters=arguments.parameters,
        predict=tuple(arguments.predict),
        fit=FitConfig(bootstrap=arguments.bootstrap),
    )
    records, notes = read_runs(arguments.runs, _parse_columns(arguments.column))
    for note in notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    # On a terminal a spinner that goes away; in a log one plain line for each of the two slow stages.
    with console.status("") as status:
        _stage(console, status, f"fitting {len(records)} runs")
        analysis = analyse(records, notes, config)
        _stage(console, status, "drawing the report")
        report = write_report(analysis, arguments.output)
    console.print(f"law: {analysis.fit.law.label}, because {analysis.selection.reason}", markup=False, soft_wrap=True)
    for table in summary_tables(analysis):
        console.print(table)
    for prediction in analysis.predictions:
        for note in prediction.notes:
            console.print(f"note: {prediction.request}: {note}", markup=False, soft_wrap=True)
    for warning in analysis.fit.warnings:
        console.print(f"warning: {warning}", markup=False, soft_wrap=True)
    if analysis.held_out_error is not None:
        runs = f"mean over {len(analysis.checks)} runs" if len(analysis.checks) > 1 else analysis.checks[0].name
        console.print(f"held-out error: {analysis.held_out_error:.2%} ({runs})", markup=False, soft_wrap=True)
    console.print(f"report: {report}", soft_wrap=True)
    return 0


def _stage(console: Any, status: Any, text: str) -> None:  # noqa: ANN401
    if console.is_terminal:
        status.update(text)
    else:
        print(text, file=sys.stdout, flush=True)
