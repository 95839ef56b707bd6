"""The verb ``plan``: arguments and printing. Imports the rest only when it runs."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Argument → the setting that it stands for.
FLAGS = {"objective": "objective.name", "data": "data.path", "zero_stage": "zero.stage"}


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verb.

    Args:
        verbs: what ``ArgumentParser.add_subparsers`` returned.
    """
    text = "say what a pretraining run on a cluster would need: memory, micro-batches, FLOPs, days, disk"
    verb = verbs.add_parser("plan", help=text, description=text)
    verb.add_argument("--size", required=True, metavar="NAME", help="a preset: 0.03M … 4M, 42M … 1.1B")
    verb.add_argument("--gpus", type=int, required=True, metavar="N", help="ranks: one for each GPU")
    verb.add_argument("--gpu-memory", metavar="SIZE", help="such as 80GB or 74.5GiB (default: the device's)")
    verb.add_argument("--data", metavar="DIR", help="conformer store (default: the one store under data/)")
    verb.add_argument(
        "--atoms", type=int, metavar="N", help="without a store: assume molecules of N atoms on average, such as 25"
    )
    verb.add_argument("--objective", metavar="NAME", help="what is learnt (default: denoise)")
    verb.add_argument("--config", type=Path, metavar="FILE", help="YAML file of settings")
    verb.add_argument("--zero-stage", type=int, metavar="N", help="0 to 3; the same as zero.stage=N")
    verb.add_argument("--device", default="h100", metavar="NAME", help="a100, h100, h200, … (default: %(default)s)")
    verb.add_argument("--peak-flops", type=float, metavar="F", help="FLOP/s of a GPU instead of the device's")
    verb.add_argument("--mfu", type=float, metavar="X", help="share of it reached (default: estimated)")
    verb.add_argument(
        "--network",
        default="25GB",
        metavar="SIZE",
        help="a second, of each GPU to other machines (default: %(default)s)",
    )
    verb.add_argument("--json", action="store_true", help="print the plan as JSON")
    verb.add_argument("assignments", nargs="*", metavar="key=value", help="any setting, by its dotted path")
    verb.set_defaults(run=_run)
    verb.take_settings(_settings)


def _settings() -> tuple[type[Any], Mapping[str, str]]:
    from unimol_scale.engine.run.run_config import GIVEN_SETTINGS, PretrainConfig

    return PretrainConfig, GIVEN_SETTINGS


def _run(arguments: argparse.Namespace) -> int:
    from unimol_scale.cli.settings import settings_of
    from unimol_scale.engine.objective_setup import with_teacher_named
    from unimol_scale.engine.planning.accelerators import named_target, parse_bytes
    from unimol_scale.engine.planning.plan_text import as_json, plan_of, render
    from unimol_scale.engine.run.run_config import resolve
    from unimol_scale.errors import ConfigError, StoreError

    if arguments.gpus < 1:
        raise ConfigError(f"--gpus must be at least 1, got {arguments.gpus}")
    no_store = None
    if arguments.atoms is not None:
        if arguments.atoms < 1:
            raise ConfigError(f"--atoms must be at least 1, got {arguments.atoms}")
        if arguments.data is not None:
            raise ConfigError("give either --data, whose molecules are counted, or --atoms, which assumes some")
        no_store = {"data": {"path": "(none)"}}
    try:
        config = with_teacher_named(resolve(arguments.size, *settings_of(arguments, FLAGS, no_store)))
    except StoreError as error:
        raise StoreError(f"{error}; without a store, --atoms 25 assumes molecules of that size") from error
    target = named_target(
        arguments.device,
        config.train.precision,
        memory=None if arguments.gpu_memory is None else parse_bytes(arguments.gpu_memory),
        peak_flops=arguments.peak_flops,
        mfu=arguments.mfu,
        network=parse_bytes(arguments.network, "--network"),
    )
    plan = plan_of(config, arguments.gpus, target, arguments.atoms)
    print(json.dumps(as_json(plan), indent=2) if arguments.json else render(plan, config))
    return 0
