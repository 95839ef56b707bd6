"""The verb ``pretrain``, which is also ``launch/pretrain.py``: arguments, printing and the end of a rank's process."""

import argparse
import contextlib
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unimol_scale.cli.command_line import CommandParser
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
# What gloo and NCCL say when the other end of a connection has died.
_LOST_CONNECTION = ("Connection closed by peer", "Connection reset by peer", "remote process exited", "Broken pipe")
_PATIENCE_SECONDS = 2.0
_TEXT = "pretrain a two-track Transformer on a conformer store, with DeepSpeed ZeRO"
_EPILOG = "Any setting can follow as key=value, for example train.steps=1000 train.learning_rate=3e-4."


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verb.

    Args:
        verbs: what ``ArgumentParser.add_subparsers`` returned.
    """
    verb = verbs.add_parser("pretrain", help=_TEXT, description=_description(), epilog=_EPILOG)
    _declare(verb)
    verb.set_defaults(run=_run)


def build_parser() -> CommandParser:
    """Return the parser of ``launch/pretrain.py``."""
    parser = CommandParser(prog="pretrain.py", description=_description(), epilog=_EPILOG)
    _declare(parser)
    return parser


def _description() -> str:
    return f"{_TEXT[0].upper()}{_TEXT[1:]}."


def _declare(parser: CommandParser) -> None:
    add = parser.add_argument
    add(
        "--size",
        metavar="NAME",
        help="a preset: 0.03M … 4M, 42M … 1.1B; only --extend does without, it knows the run's",
    )
    add("--objective", metavar="NAME", help=f"what is learnt: {OBJECTIVES.listed}")
    add("--data", metavar="DIR", help="conformer store (default: the one store under data/)")
    add("--output", metavar="DIR", help="run folder (default: runs/SIZE-OBJECTIVE-seedN)")
    add("--config", type=Path, metavar="FILE", help="YAML file of settings")
    add(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on from the newest intact checkpoint of the run folder (default: on)",
    )
    add("--override", action="store_true", help="go on from a checkpoint that was trained with other settings")
    add(
        "--extend",
        type=int,
        metavar="STEPS",
        help="go on with the run in --output for STEPS more steps than it had, with its own settings. Its schedule is "
        "stretched to the new end, so the learning rate rises where the run goes on, and both rates are printed. After "
        "an interruption the same command goes on; once that is finished, it adds as many steps again",
    )
    add(
        "--init",
        metavar="MODEL",
        help="begin a new run from the weights of a run, a checkpoint, a model or a released file. The optimizer is "
        "new, the run starts at step 0 and the schedule with its warm-up; heads that the model lacks are drawn anew",
    )
    add("--profile", action="store_true", help="trace a few steps with torch's profiler")
    add("--dry-run", action="store_true", help="print parameters, memory and steps, and stop")
    add("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)  # given by some launchers
    add("assignments", nargs="*", metavar="key=value", help="any setting, by its dotted path")
    parser.take_settings(_settings)


def _settings() -> tuple[type[Any], Mapping[str, str]]:
    from unimol_scale.engine.run.run_config import GIVEN_SETTINGS, PretrainConfig

    return PretrainConfig, GIVEN_SETTINGS


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status of this rank.

    Args:
        argv: arguments; None: those of this process.
    """
    return run_command(lambda: _run(build_parser().parse_args(argv)))


def _run(arguments: argparse.Namespace) -> int:
    with StopRequest() as stop:  # before what follows brings torch, which takes seconds
        try:
            return _pretrain(arguments, stop)
        except UnimolScaleError:
            if _is_main_rank():
                raise
            return EXIT_USER_ERROR  # ranks that have not met yet all raise it alike, and rank 0 says it


def _is_main_rank() -> bool:
    """Return whether this process speaks for its run."""
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
            f"{end.config.output} is finished already with these settings; nothing to do (--extend STEPS goes on, "
            "another --output starts anew)"
        )
    elif end.summary is not None:
        with contextlib.suppress(OSError):  # the run is finished, whether or not anybody reads this
            print(_result_line(end.config, end.summary), flush=True)
    return 0


def config_of(arguments: argparse.Namespace) -> "PretrainConfig":
    """Return the run that the arguments ask for."""
    from unimol_scale.engine.run.extension import resolve_extended
    from unimol_scale.engine.run.run_config import resolve

    if arguments.extend is not None and not arguments.resume:
        raise ConfigError("--extend goes on with a run, and --no-resume does not; give one of them")
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
    """End this rank, which failed: say why, once for all ranks, and let no rank wait for another."""
    from unimol_scale.engine.parallel.ranks import end_process

    if isinstance(error, UnimolScaleError):
        # What all ranks raised alike, rank 0 says; the launcher ends the others.
        if not ranks.is_main:
            time.sleep(_PATIENCE_SECONDS)
        print(f"error: {error}", file=sys.stderr)
        end_process(EXIT_USER_ERROR)
    elif any(sign in str(error) for sign in _LOST_CONNECTION):
        # Another rank died first, and what it said should be read first.
        time.sleep(_PATIENCE_SECONDS)
        print(f"rank {ranks.rank} stops: another rank is gone (see above for why): {error}", file=sys.stderr)
    elif (line := explain(error)) is not None:
        print(f"error: rank {ranks.rank}: {line}", file=sys.stderr)
        end_process(EXIT_USER_ERROR)
    else:
        trace = "".join(traceback.format_exception(error))
        print(f"rank {ranks.rank} failed:\n{trace}", file=sys.stderr)
    end_process(EXIT_FAILED)
