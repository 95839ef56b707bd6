"""The verb ``fit-scaling-law``: arguments and printing. Imports the rest only when it runs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unimol_scale.cli.command_line import as_sentence
from unimol_scale.common.output_checks import require_folder
from unimol_scale.errors import RunError
from unimol_scale.scaling.law.burn_in import SHARE, share_of_user
from unimol_scale.scaling.law.registry import LAWS
from unimol_scale.scaling.runs.counts import parse_distinct, parse_flops

if TYPE_CHECKING:
    from unimol_scale.scaling.law.analysis import Analysis, AnalysisConfig
    from unimol_scale.scaling.runs.run_records import RunRecord
    from unimol_scale.scaling.tasks.task_law import TaskLaw

DEFAULT_OUTPUT = Path("reports/scaling-law")


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verb.

    Args:
        verbs: what ``ArgumentParser.add_subparsers`` returned.
    """
    text = "fit a scaling law to finished runs, test it on the largest model size, and write a report"
    verb = verbs.add_parser("fit-scaling-law", help=text, description=as_sentence(text))
    verb.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUNS",
        help="run folders, TensorBoard folders, directories of either, CSV or Parquet tables",
    )
    verb.add_argument(
        "--law",
        default="auto",
        metavar="LAW",
        help=f"auto: the law that predicts held-out sizes best; or {LAWS.listed} (default: %(default)s)",
    )
    verb.add_argument(
        "--variable", choices=("N", "D", "C"), help="variable of a one-variable law (default: the one that varies)"
    )
    verb.add_argument(
        "--hold-out",
        default="largest",
        metavar="RULE",
        help="runs to exclude from the fit and test it on: those of the largest size, the corner (the largest size on "
        "the most data), none, or those of a number or a fraction of the sizes (default: %(default)s)",
    )
    verb.add_argument(
        "--predict",
        action="append",
        default=[],
        metavar="SIZE@MOLECULES",
        help="predict the loss of this run, such as 1.1B@838M; may be repeated",
    )
    verb.add_argument(
        "--budget",
        action="append",
        default=[],
        metavar="FLOPS",
        help="print the best N and D for this training compute, such as 1e21; may be repeated",
    )
    verb.add_argument(
        "--task",
        type=Path,
        metavar="TABLE",
        help="also fit laws from the pretraining loss to the error on tasks, and apply --predict to the tasks. TABLE "
        "is CSV or Parquet with the columns run, task, metric and value, and optionally loss, checkpoint and seed",
    )
    verb.add_argument(
        "--rates",
        action="store_true",
        help="fit the best learning rate as a function of model size, data and batch size instead, from sweeps; "
        "ladder uses that law (rate_law)",
    )
    verb.add_argument(
        "--distinct",
        metavar="COUNT",
        help="with --law repeated: number of distinct molecules that --predict and --budget assume (default: the "
        "largest number of any run)",
    )
    _declare_trajectories(verb)
    _declare_reading(verb)
    verb.add_argument(
        "--bootstrap",
        type=int,
        default=1000,
        metavar="N",
        help="number of bootstrap draws for the intervals (default: %(default)s)",
    )
    verb.add_argument(
        "--output",
        type=Path,
        default=DEFAULT_OUTPUT,
        metavar="DIR",
        help="folder of the report (default: %(default)s; with --rates reports/rates)",
    )
    verb.set_defaults(run=_run)


def _declare_trajectories(verb: argparse.ArgumentParser) -> None:
    """Declare how the points along runs are fitted."""
    verb.add_argument(
        "--trajectories",
        action="store_true",
        help="fit the validation losses along every run instead of only the final ones",
    )
    verb.add_argument(
        "--burn-in",
        type=float,
        metavar="FRACTION",
        help=f"with --trajectories: fraction at the start of every run to leave out (default: {SHARE})",
    )
    verb.add_argument(
        "--burn-in-steps",
        type=int,
        metavar="N",
        help="with --trajectories, instead of a fraction: number of optimiser steps to leave out (Uni-Mol2: 200000)",
    )


def _declare_reading(verb: argparse.ArgumentParser) -> None:
    """Declare how runs and tables are read."""
    verb.add_argument(
        "--parameters",
        default="total",
        choices=("total", "non-embedding", "atom-track", "pair-track"),
        help="which parameters N counts (default: %(default)s)",
    )
    verb.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="KEY=HEADER",
        help="in tables, the column that holds KEY, which is N, D, C, S, U (distinct data), lr, batch, loss, "
        "loss/TERM, weight, name or size; D may be C/(6N), and C may be 6ND or model@ATOMS. In event files, the tag "
        "that holds N, D, C, loss or lr; D may be step*BATCH. May be repeated",
    )
    verb.add_argument(
        "--data-unit",
        choices=("molecule", "sample", "token"),
        help="what D counts, for the wording of the report (default: molecule for runs, sample for tables, token if "
        "the header of D says so)",
    )
    verb.add_argument(
        "--size-of",
        action="append",
        default=[],
        metavar="RUN=SIZE",
        help="size of a run that has only event files: a preset or a number of parameters; may be repeated",
    )
    verb.add_argument(
        "--leave-out", action="append", default=[], metavar="RUN", help="ignore this run; may be repeated"
    )
    verb.add_argument(
        "--trunks",
        action="store_true",
        help="include trunks, the runs at a constant learning rate from which branches continue; their losses lie "
        "above the law",
    )


def _parse_pairs(flag: str, shape: str, example: str, assignments: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key or not value:
            raise RunError(f"{flag} {assignment!r} is not {shape}, such as {flag} {example}")
        pairs[key.strip()] = value.strip()
    return pairs


def _run(arguments: argparse.Namespace) -> int:
    return _run_rates(arguments) if arguments.rates else _run_loss(arguments)


def _run_loss(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from unimol_scale.scaling.law.analysis import AnalysisConfig
    from unimol_scale.scaling.law.fit import FitConfig
    from unimol_scale.scaling.report.law_report import write_report
    from unimol_scale.scaling.runs.read_runs import read_runs

    require_folder(arguments.output)
    console = Console(highlight=False)
    config = AnalysisConfig(
        law=arguments.law,
        variable=arguments.variable,
        hold_out=arguments.hold_out,
        parameters=arguments.parameters,
        predict=tuple(arguments.predict),
        budgets=tuple(parse_flops(text, "--budget") for text in arguments.budget),
        distinct=None if arguments.distinct is None else parse_distinct(arguments.distinct, "--distinct"),
        data_unit=arguments.data_unit,
        burn_in=share_of_user(arguments.burn_in, arguments.burn_in_steps, trajectories=arguments.trajectories),
        burn_in_steps=arguments.burn_in_steps,
        fit=FitConfig(bootstrap=arguments.bootstrap),
    )
    records, notes = read_runs(
        arguments.runs,
        _parse_pairs("--column", "KEY=HEADER", "N=parameters", arguments.column),
        _parse_pairs("--size-of", "RUN=SIZE", "run1=84M", arguments.size_of),
        arguments.trajectories,
        arguments.leave_out,
        arguments.trunks,
    )
    for note in notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    # On a terminal a temporary spinner; in a log one plain line for each of the two slow stages.
    with console.status("") as status:
        _stage(console, status, f"fitting {len(records)} run{'s' if len(records) != 1 else ''}")
        analysis = _analyse(records, notes, config)
        tasks = _tasks(arguments.task, analysis, config)
        _stage(console, status, "drawing the report")
        report = write_report(analysis, arguments.output, tasks)
    _print_results(console, analysis, tasks)
    console.print(f"report: {report}", soft_wrap=True)
    if analysis.unanswered:
        raise RunError("; ".join(dict.fromkeys(analysis.unanswered)))
    return 0


def _print_results(console: Any, analysis: "Analysis", tasks: "Sequence[TaskLaw]") -> None:  # noqa: ANN401
    from unimol_scale.scaling.report.law_report import optimum_rows, rich_table, statistics_rows, summary_tables
    from unimol_scale.scaling.report.task_report import task_sentences

    console.print(f"law: {analysis.fit.law.label}, because {analysis.selection.reason}", markup=False, soft_wrap=True)
    for table in summary_tables(analysis):
        console.print(table)
    if analysis.statistics:
        console.print(rich_table("Held-out statistics", *statistics_rows(analysis)))
    if analysis.optima:
        header, rows = optimum_rows(analysis)
        # The last column, what the optimum relies on, is printed as notes: a narrow terminal has no room for it.
        console.print(rich_table("Compute-optimal", header[:-1], [row[:-1] for row in rows]))
        for row in rows:
            console.print(f"note: {row[0]} FLOPs: {row[-1]}", markup=False, soft_wrap=True)
    for prediction in analysis.predictions:
        for note in prediction.notes:
            console.print(f"note: {prediction.request}: {note}", markup=False, soft_wrap=True)
    for sentence in (sentence for law in tasks for sentence in task_sentences(law)):
        console.print(f"task: {sentence}", markup=False, soft_wrap=True)
    for warning in analysis.fit.warnings:
        console.print(f"warning: {warning}", markup=False, soft_wrap=True)
    if analysis.held_out_error is not None:
        unit = "runs" if analysis.config.left_out is None else "points"
        runs = f"mean over {len(analysis.checks)} {unit}" if len(analysis.checks) > 1 else analysis.checks[0].name
        console.print(f"held-out error: {analysis.held_out_error:.2%} ({runs})", markup=False, soft_wrap=True)


def _tasks(table: Path | None, analysis: "Analysis", config: "AnalysisConfig") -> "tuple[TaskLaw, ...]":
    from unimol_scale.scaling.tasks.task_law import fit_tasks
    from unimol_scale.scaling.tasks.task_table import read_task_table

    return () if table is None else fit_tasks(read_task_table(table, analysis.records), analysis, config.fit)


def _run_rates(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from unimol_scale.scaling.rates.rate_law import RateFitConfig, fit_rates
    from unimol_scale.scaling.report.law_report import rich_table
    from unimol_scale.scaling.report.rate_report import coefficient_rows, rate_sentences, sweep_rows, write_rate_report
    from unimol_scale.scaling.runs.read_runs import read_runs

    for flag, given in (
        ("--task", arguments.task),
        ("--predict", arguments.predict),
        ("--budget", arguments.budget),
        ("--trajectories", arguments.trajectories),
        ("--variable", arguments.variable),
        ("--distinct", arguments.distinct),
        ("--burn-in", arguments.burn_in),
        ("--burn-in-steps", arguments.burn_in_steps),
    ):
        if given:
            raise RunError(f"{flag} belongs to a law of the loss, but --rates fits a law of the learning rate")
    output = Path("reports/rates") if arguments.output == DEFAULT_OUTPUT else arguments.output
    require_folder(output)
    console = Console(highlight=False)
    records, notes = read_runs(
        arguments.runs,
        _parse_pairs("--column", "KEY=HEADER", "N=parameters", arguments.column),
        _parse_pairs("--size-of", "RUN=SIZE", "run1=84M", arguments.size_of),
        leave_out=arguments.leave_out,
        rates=True,
    )
    for note in notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    config = RateFitConfig(parameters=arguments.parameters, bootstrap=arguments.bootstrap)
    analysis = fit_rates(records, notes, config)
    report = write_rate_report(analysis, output)
    console.print(rich_table(analysis.law.formula, *coefficient_rows(analysis)))
    console.print(rich_table("Sweeps", *sweep_rows(analysis)))
    for sentence in rate_sentences(analysis):
        console.print(sentence, markup=False, soft_wrap=True)
    for warning in analysis.warnings:
        console.print(f"warning: {warning}", markup=False, soft_wrap=True)
    console.print(f"report: {report}", soft_wrap=True)
    console.print(f"next: rate_law: {output / 'law.json'} in a ladder file", markup=False, soft_wrap=True)
    return 0


def _analyse(records: "Sequence[RunRecord]", notes: Sequence[str], config: "AnalysisConfig") -> "Analysis":
    from unimol_scale.scaling.law.analysis import analyse

    try:
        return analyse(records, notes, config)
    except RunError as error:
        left_out = sum(": left out" in note for note in notes)
        if left_out == 0:
            raise
        raise RunError(f"{error}; {left_out} runs were left out, see the notes above") from error


def _stage(console: Any, status: Any, text: str) -> None:  # noqa: ANN401
    if console.is_terminal:
        status.update(text)
    else:
        print(text, file=sys.stdout, flush=True)
