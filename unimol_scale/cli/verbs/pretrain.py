"""The verb ``pretrain``, which ``launch/pretrain.py`` runs too: arguments, printing and how a rank's process ends."""

import argparse
import contextlib
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unimol_scale.cli.command_line import CommandParser, as_sentence
from unimol_scale.cli.entry import run_command
from unimol_scale.cli.settings import settings_of
from unimol_scale.common.exit_status import EXIT_FAILED, EXIT_STOPPED, EXIT_USER_ERROR
from unimol_scale.common.machine.system_limits import explain
from unimol_scale.common.run_files import SUMMARY_NAME
from unimol_scale.engine.run.stopping import StopRequest
from unimol_scale.errors import ConfigError, UnimolScaleError
from unimol_scale.objectives.registry import OBJECTIVES

if TYPE_CHECKING:
    from unimol_scale.engine.parallel.ranks import Ranks
    from unimol_scale.engine.run.run_config import PretrainConfig

# Argument → the setting that it stands for.
FLAGS = {"objective": "objective.name", "data": "data.path", "output": "output", "init": "init"}
# Phrases in the errors of gloo and NCCL when the process at the other end of a connection has died.
_LOST_CONNECTION = ("Connection closed by peer", "Connection reset by peer", "remote process exited", "Broken pipe")
_PATIENCE_SECONDS = 2.0
_TEXT = "pretrain a two-track Transformer on a conformer store, with DeepSpeed ZeRO"
_EPILOG = "Any setting can follow as key=value, for example train.steps=1000 train.learning_rate=3e-4."


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verb.

    Args:
        verbs: what ``ArgumentParser.add_subparsers`` returned.
    """
    verb = verbs.add_parser("pretrain", help=_TEXT, description=as_sentence(_TEXT), epilog=_EPILOG)
    _declare(verb)
    verb.set_defaults(run=_run)


def build_parser() -> CommandParser:
    """Return the argument parser of ``launch/pretrain.py``."""
    parser = CommandParser(prog="pretrain.py", description=as_sentence(_TEXT), epilog=_EPILOG)
    _declare(parser)
    return parser


def _declare(parser: CommandParser) -> None:
    add = parser.add_argument
    add(
        "--size",
        metavar="NAME",
        help="a preset: 0.03M … 4M, 42M … 1.1B; required unless --extend is given, which uses the run's size",
    )
    add("--objective", metavar="NAME", help=f"pretraining objective: {OBJECTIVES.listed}")
    add("--data", metavar="DIR", help="conformer store (default: the one store under data/)")
    add("--output", metavar="DIR", help="run folder (default: runs/SIZE-OBJECTIVE-seedN)")
    add("--config", type=Path, metavar="FILE", help="YAML file of settings")
    add(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="continue from the newest intact checkpoint of the run folder (default: yes)",
    )
    add("--override", action="store_true", help="continue from a checkpoint that was trained with other settings")
    add(
        "--extend",
        type=int,
        metavar="STEPS",
        help="train the run in --output for STEPS more steps, with its own settings. Its schedule is stretched to the "
        "new end, so the learning rate rises at the point of continuation; both rates are printed. After an "
        "interruption the same command continues; after it has finished, the same command adds STEPS steps again",
    )
    add(
        "--init",
        metavar="MODEL",
        help="start a new run from the weights of a run, a checkpoint, a model or a released file. The run has a new "
        "optimizer, starts at step 0 and begins with warm-up; heads that the model lacks get random weights",
    )
    add("--profile", action="store_true", help="trace a few steps with torch's profiler")
    add("--dry-run", action="store_true", help="print parameters, memory and steps, and exit")
    add("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)  # given by some launchers
    add("assignments", nargs="*", metavar="key=value", help="any setting, by its dotted path")
    parser.take_settings(_settings)


def _settings() -> tuple[type[Any], Mapping[str, str]]:
    from unimol_scale.engine.run.run_config import GIVEN_SETTINGS, PretrainConfig

    return PretrainConfig, GIVEN_SETTINGS


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status of this rank.

    Args:
        argv: command-line arguments; None uses those of this process.
    """
    return run_command(lambda: _run(build_parser().parse_args(argv)))


def _run(arguments: argparse.Namespace) -> int:
    with StopRequest() as stop:  # first, because the following imports torch, which takes seconds
        try:
            return _pretrain(arguments, stop)
        except UnimolScaleError:
            if _is_main_rank():
                raise
            return EXIT_USER_ERROR  # before ranks are connected all raise the same error, and rank 0 prints it


def _is_main_rank() -> bool:
    """Return whether this process is rank 0, which prints messages for the run."""
    return os.environ.get("RANK", "0") == "0"


def _pretrain(arguments: argparse.Namespace, stop: StopRequest) -> int:
    from unimol_scale.engine.parallel.ranks import leave_ranks
    from unimol_scale.engine.planning.plan_text import describe
    from unimol_scale.engine.pretraining import pretrain, with_sources_named

    config, is_main = config_of(arguments), _is_main_rank()
    if arguments.dry_run:
        config = with_sources_named(config)
        if is_main:
            print(describe(config, int(os.environ.get("WORLD_SIZE", "1"))))
        return 0
    end = pretrain(
        config,
        stop,
        resume=arguments.resume,
        override=arguments.override,
        profile=arguments.profile,
        failed=_leave,
    )
    leave_ranks()
    if end.how == "stopped":
        return EXIT_STOPPED
    if is_main and end.how == "finished before":
        print(
            f"{end.config.output} is already finished with these settings; nothing to do (--extend STEPS continues it, "
            "another --output starts a new run)"
        )
    elif end.summary is not None:
        with contextlib.suppress(OSError):  # the run is finished, even if standard output is closed
            print(_result_line(end.config, end.summary), flush=True)
    return 0


def config_of(arguments: argparse.Namespace) -> "PretrainConfig":
    """Return the settings of the run that the arguments ask for."""
    from unimol_scale.engine.run.extension import resolve_extended
    from unimol_scale.engine.run.run_config import resolve

    if arguments.extend is not None and not arguments.resume:
        raise ConfigError("--extend continues a run, but --no-resume starts anew; give only one of them")
    if arguments.extend is None and arguments.size is None:
        raise ConfigError("--size is required: a preset, such as 0.1M or 84M")
    chosen, origin = settings_of(arguments, FLAGS)
    if arguments.extend is not None:
        return resolve_extended(arguments.extend, arguments.size, chosen, origin)
    return resolve(arguments.size, chosen, origin)


def _result_line(config: "PretrainConfig", summary: Mapping[str, Any]) -> str:
    return (
        f"{config.name}: {summary['steps']} steps, {summary['molecules']:,} molecules in {summary['seconds']:.0f} s, "
        f"validation loss {summary['final']['valid/loss']:.4f} → {config.output / SUMMARY_NAME}"
    )


def _leave(ranks: "Ranks", error: BaseException) -> None:
    """End this failed rank: print the reason once for all ranks, and exit so that no rank waits for another."""
    from unimol_scale.engine.parallel.ranks import end_process

    if isinstance(error, UnimolScaleError):
        # Rank 0 prints an error that all ranks raised; the launcher ends the others.
        if not ranks.is_main:
            time.sleep(_PATIENCE_SECONDS)
        print(f"error: {error}", file=sys.stderr)
        end_process(EXIT_USER_ERROR)
    elif any(sign in str(error) for sign in _LOST_CONNECTION):
        # Another rank died first, and its message should be printed first.
        time.sleep(_PATIENCE_SECONDS)
        print(f"rank {ranks.rank} stops: another rank has died (see above for why): {error}", file=sys.stderr)
    elif (line := explain(error)) is not None:
        print(f"error: rank {ranks.rank}: {line}", file=sys.stderr)
        end_process(EXIT_USER_ERROR)
    else:
        trace = "".join(traceback.format_exception(error))
        print(f"rank {ranks.rank} failed:\n{trace}", file=sys.stderr)
    end_process(EXIT_FAILED)
