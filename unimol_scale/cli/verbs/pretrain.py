"""The command behind ``launch/pretrain.py``: read settings, say the plan, train, leave in order."""

import argparse
import contextlib
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from unimol_scale.cli.command_line import CommandParser
from unimol_scale.cli.entry import EXIT_STOPPED, EXIT_USER_ERROR
from unimol_scale.common.machine.system_limits import explain, require_open_files
from unimol_scale.common.output_checks import require_folder
from unimol_scale.common.run_files import SUMMARY_NAME
from unimol_scale.data.dataset import open_store_of
from unimol_scale.engine.objective_setup import with_teacher_named
from unimol_scale.engine.parallel.ranks import abandon, part, start_ranks
from unimol_scale.engine.planning.plan_text import describe
from unimol_scale.engine.run.extension import resolve_extended
from unimol_scale.engine.run.initial_weights import with_init_named
from unimol_scale.engine.run.run_config import GIVEN_SETTINGS, PretrainConfig, flags_of, resolve
from unimol_scale.engine.run.run_folder import read_summary, run_is_finished
from unimol_scale.engine.run.settings_changes import nothing_left
from unimol_scale.engine.run.stopping import StopRequest
from unimol_scale.engine.trainer import Outcome, Trainer
from unimol_scale.errors import ConfigError, UnimolScaleError
from unimol_scale.objectives.registry import OBJECTIVES

EXIT_FAILED = 1
# What gloo and NCCL say when the other end of a connection has died.
_LOST_CONNECTION = ("Connection closed by peer", "Connection reset by peer", "remote process exited", "Broken pipe")
_PATIENCE_SECONDS = 2.0


def build_parser() -> CommandParser:
    """Return the parser of the pretraining command."""
    parser = CommandParser(
        prog="pretrain.py",
        description="Pretrain a two-track Transformer on a conformer store, with DeepSpeed ZeRO.",
        epilog="Any setting can follow as key=value, for example train.steps=1000 train.learning_rate=3e-4.",
    )
    parser.add_argument(
        "--size",
        metavar="NAME",
        help="a preset: 0.03M … 4M, 42M … 1.1B; only --extend does without, it knows the run's",
    )
    parser.add_argument("--objective", metavar="NAME", help=f"what is learnt: {OBJECTIVES.listed}")
    parser.add_argument("--data", metavar="DIR", help="conformer store (default: the one store under data/)")
    parser.add_argument("--output", metavar="DIR", help="run folder (default: runs/SIZE-OBJECTIVE-seedN)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file of settings")
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on from the newest intact checkpoint of the run folder (default: on)",
    )
    parser.add_argument(
        "--override", action="store_true", help="go on from a checkpoint that was trained with other settings"
    )
    parser.add_argument(
        "--extend",
        type=int,
        metavar="STEPS",
        help="go on with the run in --output for STEPS more steps than it had, with its own settings. Its schedule is "
        "stretched to the new end, so the learning rate rises where the run goes on, and both rates are printed. After "
        "an interruption the same command goes on; once that is finished, it adds as many steps again",
    )
    parser.add_argument(
        "--init",
        metavar="MODEL",
        help="begin a new run from the weights of a run, a checkpoint, a model or a released file. The optimizer is "
        "new, the run starts at step 0 and the schedule with its warm-up; heads that the model lacks are drawn anew",
    )
    parser.add_argument("--profile", action="store_true", help="trace a few steps with torch's profiler")
    parser.add_argument("--dry-run", action="store_true", help="print parameters, memory and steps, and stop")
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)  # given by some launchers
    parser.add_argument("assignments", nargs="*", metavar="key=value", help="any setting, by its dotted path")
    parser.take_settings(lambda: (PretrainConfig, GIVEN_SETTINGS))
    return parser


def main(argv: Sequence[str] | None = None, stop: StopRequest | None = None) -> int:
    """Run the command; return the exit status of this rank.

    Args:
        argv: arguments; None: those of this process.
        stop: hears already that the run is to stop; None: it does so while training.
    """
    arguments = build_parser().parse_args(argv)
    is_main = os.environ.get("RANK", "0") == "0"
    try:
        config = with_init_named(with_teacher_named(_settings(arguments)))
        if arguments.dry_run:
            if is_main:
                print(describe(config, int(os.environ.get("WORLD_SIZE", "1"))))
            return 0
        if _is_done(config):
            if is_main:
                print(
                    f"{config.output} is finished already with these settings; nothing to do (--extend STEPS goes on, "
                    "another --output starts anew)"
                )
            return 0
        if is_main:
            require_folder(config.output)
        # A loader process and each batch on its way take a few, those of the validation as well.
        require_open_files(32 + 2 * config.data.workers * (config.data.prefetch + 4))
        with StopRequest() if stop is None else contextlib.nullcontext(stop) as stop:
            return _train(config, arguments, stop)
    except UnimolScaleError as error:
        if is_main:
            print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR


def _settings(arguments: argparse.Namespace) -> PretrainConfig:
    given = (arguments.config, flags_of(arguments), arguments.assignments)
    if arguments.extend is not None:
        if not arguments.resume:
            raise ConfigError("--extend goes on with a run, and --no-resume does not; give one of them")
        return resolve_extended(arguments.extend, arguments.size, *given)
    if arguments.size is None:
        raise ConfigError("--size is required: a preset, such as 0.1M or 84M")
    return resolve(arguments.size, *given)


def _is_done(config: PretrainConfig) -> bool:
    """Return whether the run's folder holds just this run, finished."""
    if not run_is_finished(config.output):
        return False
    return nothing_left(config, read_summary(config.output), open_store_of(config.data).manifest_sha256)


def _train(config: PretrainConfig, arguments: argparse.Namespace, stop: StopRequest) -> int:
    ranks = start_ranks(config.zero.timeout_minutes)
    try:
        outcome = Trainer(config, ranks).run(
            stop, resume=arguments.resume, override=arguments.override, profile=arguments.profile
        )
    except UnimolScaleError as error:
        # No rank may wait for another now. What all ranks raised alike, rank 0 says; the launcher ends the others.
        if not ranks.is_main:
            time.sleep(_PATIENCE_SECONDS)
        print(f"error: {error}", file=sys.stderr)
        abandon(EXIT_USER_ERROR)
    except BaseException as error:
        if any(sign in str(error) for sign in _LOST_CONNECTION):
            # Another rank died first, and what it said should be read first.
            time.sleep(_PATIENCE_SECONDS)
            print(f"rank {ranks.rank} stops: another rank is gone (see above for why): {error}", file=sys.stderr)
        elif (line := explain(error)) is not None:
            print(f"error: rank {ranks.rank}: {line}", file=sys.stderr)
            abandon(EXIT_USER_ERROR)
        else:
            print(f"rank {ranks.rank} failed:\n{traceback.format_exc()}", file=sys.stderr)
        abandon(EXIT_FAILED)
    part()
    if outcome is Outcome.STOPPED:
        return EXIT_STOPPED
    if ranks.is_main:
        summary = read_summary(config.output)
        final = summary["final"]["valid/loss"]
        with contextlib.suppress(OSError):  # the run is finished, whether or not anybody reads this
            print(
                f"{config.name}: {summary['steps']} steps, {summary['molecules']:,} molecules in "
                f"{summary['seconds']:.0f} s, validation loss {final:.4f} → {config.output / SUMMARY_NAME}",
                flush=True,
            )
    return 0
