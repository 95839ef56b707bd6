"""The verb ``plan``: arguments and printing. Imports the rest only when it runs."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unimol_scale.cli.command_line import as_sentence

# Argument → the setting that it stands for.
FLAGS = {"objective": "objective.name", "data": "data.path", "zero_stage": "zero.stage"}


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verb.

    Args:
        verbs: what ``ArgumentParser.add_subparsers`` returned.
    """
    text = "estimate what a pretraining run on a cluster needs: memory, micro-batches, FLOPs, days, disk"
    verb = verbs.add_parser("plan", help=text, description=as_sentence(text))
    verb.add_argument("--size", required=True, metavar="NAME", help="a preset: 0.03M … 4M, 42M … 1.1B")
    verb.add_argument("--gpus", type=int, required=True, metavar="N", help="number of GPUs, each running one rank")
    verb.add_argument(
        "--gpu-memory", metavar="SIZE", help="memory per GPU, such as 80GB or 74.5GiB (default: the device's)"
    )
    verb.add_argument("--data", metavar="DIR", help="conformer store (default: the one store under data/)")
    verb.add_argument(
        "--atoms", type=int, metavar="N", help="without a store: assume molecules of N atoms on average, such as 25"
    )
    verb.add_argument("--objective", metavar="NAME", help="pretraining objective (default: denoise)")
    verb.add_argument("--config", type=Path, metavar="FILE", help="YAML file of settings")
    verb.add_argument("--zero-stage", type=int, metavar="N", help="ZeRO stage, 0 to 3; the same as zero.stage=N")
    verb.add_argument(
        "--device",
        default="h100",
        metavar="NAME",
        help="a100, h100, h200, …; here: this machine, measured now (default: %(default)s)",
    )
    verb.add_argument("--peak-flops", type=float, metavar="F", help="peak FLOP/s per GPU (default: that of the device)")
    verb.add_argument(
        "--mfu", type=float, metavar="X", help="fraction of the peak FLOP/s that training reaches (default: estimated)"
    )
    verb.add_argument(
        "--network",
        default="25GB",
        metavar="SIZE",
        help="network bandwidth per GPU to other machines, in bytes per second (default: %(default)s)",
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
    from unimol_scale.engine.planning.plan_request import PlanRequest, plan_for
    from unimol_scale.engine.planning.plan_text import as_json, render

    names = ("gpus", "device", "gpu_memory", "peak_flops", "mfu", "network", "atoms")
    request = PlanRequest(**{name: getattr(arguments, name) for name in names})
    plan, config = plan_for(request, arguments.size, *settings_of(arguments, FLAGS))
    print(json.dumps(as_json(plan), indent=2) if arguments.json else render(plan, config))
    return 0
