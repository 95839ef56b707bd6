"""The verb ``ladder``: arguments and printing. Imports the rest only when it runs."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unimol_scale.cli.command_line import as_sentence
from unimol_scale.common.exit_status import EXIT_STOPPED, GOES_ON
from unimol_scale.common.output_checks import require_file
from unimol_scale.errors import ConfigError, nearest

if TYPE_CHECKING:
    from unimol_scale.scaling.ladder.ladder import LadderConfig, Rung
    from unimol_scale.scaling.ladder.ladder_estimate import Estimator
    from unimol_scale.scaling.ladder.objective_count import ObjectiveCount


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verb.

    Args:
        verbs: what ``ArgumentParser.add_subparsers`` returned.
    """
    text = "train every size, budget and seed of a ladder, skipping finished runs"
    verb = verbs.add_parser(
        "ladder",
        help=text,
        description=as_sentence(text),
        epilog="With --next no run is started: the command chooses the best next run and writes a ladder file for it.",
    )
    verb.add_argument(
        "config", nargs="?", type=Path, metavar="CONFIG", help="ladder file (YAML) such as configs/ladder/sample.yaml"
    )
    verb.add_argument(
        "--dry-run", action="store_true", help="print the planned runs, hours, disk space and commands, and exit"
    )
    verb.add_argument(
        "--device",
        metavar="NAME",
        help="with --dry-run: device of the estimate, such as a100 or h100 (default: this machine's)",
    )
    verb.add_argument(
        "--atoms",
        type=int,
        metavar="N",
        help="with --dry-run, without a store: molecules of N atoms, such as 25",
    )
    verb.add_argument(
        "--only", action="append", default=[], metavar="RUN", help="this run of the ladder alone; may be repeated"
    )
    verb.add_argument(
        "--slurm", action="store_true", help="write a Slurm job array with one task per run, instead of training here"
    )
    verb.add_argument("--submit", action="store_true", help="with --slurm: submit the job array with sbatch")
    verb.add_argument(
        "--next",
        nargs="+",
        type=Path,
        metavar="RUNS",
        help="fit a law to these runs and write a ladder file with the best next run",
    )
    verb.add_argument(
        "--budget",
        metavar="FLOPS",
        help="with --next: training compute of the next run, such as 3e18 (default: 4 times that of the costliest run)",
    )
    verb.add_argument(
        "--law", default="auto", metavar="LAW", help="with --next: as in fit-scaling-law (default: %(default)s)"
    )
    verb.add_argument(
        "--rate-law",
        type=Path,
        metavar="FILE",
        help="with --next: law.json of fit-scaling-law --rates, which gives the learning rate by size and data "
        "(default: extrapolate the runs' learning rates by size)",
    )
    verb.add_argument(
        "--objective",
        metavar="NAME",
        help="with --next: objective of the runs; required only if it is your own code, package.module:Class",
    )
    verb.add_argument(
        "--output",
        type=Path,
        default=Path("next.yaml"),
        metavar="FILE",
        help="with --next: the ladder file to write (default: %(default)s)",
    )
    verb.set_defaults(run=_run, stopped=GOES_ON)
    verb.take_settings(_settings)


# Options of --next → where to set the same for a ladder.
OF_NEXT = {
    "budget": "set the budgets of a ladder in its file",
    "objective": "set the objective of a ladder in its file",
    "rate_law": "set rate_law in the file of the ladder",
}


def _settings() -> tuple[type[Any], Mapping[str, str]]:
    from unimol_scale.scaling.ladder.ladder import LadderConfig

    return LadderConfig, {}


def _run(arguments: argparse.Namespace) -> int:
    if (arguments.config is None) == (arguments.next is None):
        raise ConfigError("give either a ladder file, or --next with the runs to fit a law to")
    if arguments.next is not None:
        if arguments.slurm or arguments.submit or arguments.only or arguments.dry_run:
            raise ConfigError(
                "--next writes a ladder file and starts nothing; run `unimol-scale ladder` on that file with --slurm, "
                "--submit, --only or --dry-run"
            )
        return _write_next(arguments)
    _check_options_of_a_file(arguments)
    from unimol_scale.scaling.ladder.ladder import plan, read_ladder
    from unimol_scale.scaling.ladder.ladder_rates import rate_lines

    config = read_ladder(arguments.config)
    rungs = _chosen(plan(config, _count), arguments.only)
    if config.rate_law is not None:
        for line in rate_lines(
            config.rate_law,
            [(f"{r.size} at {r.steps} steps", r.overrides["train.learning_rate"], r.rate_notes) for r in rungs],
        ):
            print(line)
    if arguments.dry_run:
        from unimol_scale.engine.planning.run_estimates import RunEstimates

        return _print_plan(config, rungs, RunEstimates(arguments.device, arguments.atoms))
    if arguments.slurm:
        return _write_slurm(config, arguments.config, rungs, submitting=arguments.submit)
    return _launch(config, arguments.config, rungs)


def _check_options_of_a_file(arguments: argparse.Namespace) -> None:
    """Refuse options that a ladder file cannot have, or that belong to another one."""
    if arguments.device is not None and not arguments.dry_run:
        raise ConfigError("--device belongs to --dry-run; the runs take what the machine has")
    if arguments.atoms is not None and not arguments.dry_run:
        raise ConfigError("--atoms belongs to --dry-run; the runs read the store of the ladder's file")
    if arguments.submit and not arguments.slurm:
        raise ConfigError("--submit belongs to --slurm")
    for name, where in OF_NEXT.items():
        if getattr(arguments, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')} belongs to --next; {where}")


def _count(size: str, settings: Mapping[str, Any]) -> "ObjectiveCount":
    """Return the counts of an objective other than denoise; imports torch."""
    from unimol_scale.engine.planning.objective_counts import count_objective

    return count_objective(size, settings)


def _chosen(rungs: "Sequence[Rung]", names: Sequence[str]) -> "list[Rung]":
    known = {rung.name: rung for rung in rungs}
    for name in names:
        if name not in known:
            raise ConfigError(f"--only: the ladder has no run {name!r}; {nearest(name, known)}")
    return [rung for rung in rungs if not names or rung.name in names]


def _print_plan(config: "LadderConfig", rungs: "Sequence[Rung]", estimate: "Estimator") -> int:
    from rich.console import Console

    from unimol_scale.scaling.ladder.ladder_estimate import estimate_runs, plan_table, total_line
    from unimol_scale.scaling.ladder.run_command import runs_at_once, shell_command

    console = Console(highlight=False)
    planned = estimate_runs(config, rungs, estimate)
    console.print(plan_table(config, planned))
    console.print(total_line(planned, runs_at_once(config)), markup=False, soft_wrap=True)
    for rung in rungs:
        console.print(shell_command(config, rung), markup=False, soft_wrap=True)
    return 0


def _write_slurm(config: "LadderConfig", file: Path, rungs: "Sequence[Rung]", *, submitting: bool) -> int:
    from unimol_scale.scaling.ladder.launch import check_inputs
    from unimol_scale.scaling.ladder.slurm import by_hand, submit, unfinished_runs, write_scripts

    check_inputs(config)
    left = unfinished_runs(config, rungs)
    finished = len(rungs) - len(left)
    if not left:
        print(f"all {finished} runs are finished; nothing to submit")
        return 0
    arrays = write_scripts(config, file, left)
    print("\n".join(f"{array.script}: {array.runs} runs, one array task each" for array in arrays), end="; ")
    print(f"{finished} are already finished")
    print("\n".join(submit(arrays) if submitting else [f"next: {by_hand(array)}" for array in arrays]))
    return 0


def _launch(config: "LadderConfig", file: Path, rungs: "Sequence[Rung]") -> int:
    from rich.console import Console

    from unimol_scale.scaling.ladder.launch import launch_ladder, result_table

    console = Console(highlight=False)
    results = launch_ladder(config, rungs)
    console.print(result_table(results))
    left = len(rungs) - sum(result.action != "stopped" for result in results)
    if left:
        runs = "run is" if left == 1 else "runs are"
        line = f"Stopped; saved checkpoints are kept. {left} {runs} left: `unimol-scale ladder {file}` continues"
        console.print(line, markup=False, soft_wrap=True)
        return EXIT_STOPPED
    console.print(f"next: unimol-scale fit-scaling-law {config.output}", markup=False, soft_wrap=True)
    return 0


def _write_next(arguments: argparse.Namespace) -> int:
    from unimol_scale.engine.run.run_config import PretrainConfig
    from unimol_scale.former_settings import former_defaults
    from unimol_scale.scaling.ladder.next_run import choose_next, write_next

    require_file(arguments.output)
    absent = former_defaults(PretrainConfig)
    choice = choose_next(
        arguments.next,
        arguments.budget,
        arguments.law,
        objective=arguments.objective,
        absent=absent,
        counter=_count,
        rate_law=arguments.rate_law,
    )
    write_next(choice, arguments.output)
    print("\n".join(choice.lines))
    print(f"next: unimol-scale ladder {arguments.output}")
    return 0
