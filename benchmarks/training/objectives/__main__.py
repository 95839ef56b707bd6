"""Train every objective on one store with the same budget, and report what each has learnt.

    python conformer_gen/build.py --source sample
    python -m benchmarks.training.objectives --data data/sample --size 1M --steps 400 --batch 32 --seeds 0

Each run is one of launch/pretrain.py, with the settings of training/ladder.yaml on a single process. A finished
run is skipped, an unfinished one is resumed: interrupt it and start the same command again. ``--only`` does a part, and
the report is then of that part. Writes OUTPUT.md, and pictures and results.json into the folder OUTPUT.

This file defines the runs and starts them; scores.py evaluates the trained models; report.py writes the results.
"""

import argparse
import dataclasses
import datetime
import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# As every command has it, and before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from benchmarks.common import REPOSITORY, RESULTS, module_parser, processor
from benchmarks.training.objectives import scores
from benchmarks.training.objectives.report import write_report
from unimol_scale.common.machine.threads import usable_cores
from unimol_scale.common.run_files import MODEL_FOLDER
from unimol_scale.data.dataset import DataConfig
from unimol_scale.errors import UnimolScaleError
from unimol_scale.model.presets import PRESETS
from unimol_scale.objectives.blend import BlendConfig
from unimol_scale.scaling.ladder.ladder import LadderConfig, plan, read_ladder
from unimol_scale.scaling.ladder.launch import launch_ladder
from unimol_scale.store.shards import open_store

COMMAND = "python -m benchmarks.training.objectives"

LADDER = REPOSITORY / "benchmarks" / "training" / "ladder.yaml"
# Of sizes that the ladder does not have; its rates fall from 8e-3 at 0.03M to 3e-3 at 0.5M.
LEARNING_RATE = 2.5e-3
WARMUP_SHARE = 0.1
VALIDATIONS = 8
TEACHER = "denoise"
EXIT_INTERRUPTED = 130


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One kind of run: its objective, and what differs from the common settings; ``view``: relation that pairs show."""

    objective: str
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    view: str | None = None


def _of_view(view: str) -> Run:
    """Return the run that learns the three relations of every pair from one kind of input."""
    shown = dataclasses.asdict(scores.blend_config(view))
    default = dataclasses.asdict(BlendConfig())
    changed = {key: value for key, value in shown.items() if value != default[key] or key == "ratio"}
    changed["ratio"] = list(shown["ratio"])
    return Run(objective="blend", view=view, overrides={f"objective.blend.{key}": v for key, v in changed.items()})


RUNS: dict[str, Run] = {
    TEACHER: Run(objective="denoise"),
    "denoise-chirality": Run(objective="denoise", overrides={"model.pair_type": "chirality"}),
    "denoise-padded": Run(objective="denoise", overrides={"model.normalize_by": "padded"}),
    "blend": Run(objective="blend"),
    **{f"relations-{view.replace(' ', '-')}": _of_view(view) for view in scores.VIEWS},
    "distill-node": Run(objective="distill", overrides={"objective.distill.target": "node"}),
    "distill-graph": Run(objective="distill", overrides={"objective.distill.target": "graph"}),
}


def ladder_of(name: str, seed: int, options: argparse.Namespace) -> LadderConfig:
    """Return the ladder of one run that trains it, resumes it or finds it finished."""
    common = read_ladder(LADDER)
    run, steps = RUNS[name], options.steps
    overrides: dict[str, Any] = {
        **{f"data.{key}": value for key, value in common.overrides["data"].items()},
        "data.validation_molecules": options.validation_molecules,
        "train.precision": common.overrides["train"]["precision"],
        "train.global_batch_size": options.batch,
        "train.learning_rate": options.learning_rate,
        "train.warmup_steps": int(WARMUP_SHARE * steps),
        "train.validate_every": max(1, steps // VALIDATIONS),
        "train.checkpoint_every": max(1, steps // 4),
        "zero.stage": 0,
        **run.overrides,
    }
    if run.objective == "distill":
        overrides["objective.distill.normalise"] = "layer_norm"  # errors are then shares of the teacher's own size
        overrides["objective.distill.teacher"] = str(folder_of(TEACHER, seed, options))
    return LadderConfig(
        name=name,
        data=options.data,
        sizes=(options.size,),
        steps=(steps,),
        seeds=(seed,),
        objective=run.objective,
        output=options.runs,
        launcher="python",
        script=REPOSITORY / "launch" / "pretrain.py",
        overrides=overrides,
    )


def folder_of(name: str, seed: int, options: argparse.Namespace) -> Path:
    """Return the folder of a run, as the ladder names it."""
    folder: Path = options.runs / f"{name}-{options.size}-{options.steps}steps-seed{seed}"
    return folder


def train(names: Sequence[str], options: argparse.Namespace) -> None:
    """Run or resume every run until it is finished, the teacher first.

    Raises:
        UnimolScaleError: a run failed, or its folder holds one with other settings.
    """
    jobs = [(name, seed) for seed in options.seeds for name in names]
    for number, (name, seed) in enumerate(jobs, start=1):
        print(f"objectives: run {number} of {len(jobs)}: {name}, seed {seed}", flush=True)
        config = ladder_of(name, seed, options)
        (rung,) = plan(config)
        assert rung.folder == folder_of(name, seed, options)
        if any(result.action == "stopped" for result in launch_ladder(config, [rung])):
            raise KeyboardInterrupt


def measure(names: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Read the logs of the runs and evaluate the trained models; results are keyed by seed (as text, as in JSON)."""
    loading = read_ladder(LADDER).overrides["data"]
    data = DataConfig(path=options.data, validation_molecules=options.validation_molecules, **loading)
    found: dict[str, Any] = {"runs": {}, "relations": {}, "denoised": {}, "baselines": {}}
    views = [view for name in names if (view := RUNS[name].view) is not None]
    for seed in options.seeds:
        folders = {name: folder_of(name, seed, options) for name in names}
        found["runs"][str(seed)] = {name: scores.read_run(folder) for name, folder in folders.items()}
        if views:
            of_view = {RUNS[name].view: folders[name] / MODEL_FOLDER for name in names if RUNS[name].view}
            found["relations"][str(seed)] = scores.relation_matrix(of_view, data)
        if TEACHER in names:
            print(f"objectives: denoised coordinates, seed {seed}", flush=True)
            found["denoised"][str(seed)] = scores.denoised(folders[TEACHER], data)
        if any(RUNS[name].objective == "distill" for name in names):
            print(f"objectives: baselines for distillation, seed {seed}", flush=True)
            found["baselines"][str(seed)] = scores.teacher_baselines(folders[TEACHER], data)
    return found


def describe_setting(options: argparse.Namespace) -> dict[str, Any]:
    """Return what a reader must know of the measurement."""
    store = open_store(options.data)
    num_validated = min(len(store.split("valid")), options.validation_molecules)
    cores = usable_cores()
    return {
        "date": str(datetime.datetime.now(datetime.timezone.utc).date()),
        "machine": f"{processor()}, {cores} cores, no GPU used",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}",
        "command": f"{COMMAND} {shlex.join(options.given)}",
        "size": options.size,
        "steps": options.steps,
        "batch": options.batch,
        "learning_rate": options.learning_rate,
        "seeds": options.seeds,
        "molecules": len(store.split("train")),
        "validation_molecules": num_validated,
        "validation_repeats": read_ladder(LADDER).overrides["data"]["validation_repeats"],
        "manifest_sha256": store.manifest_sha256,
        "views": {view: list(shown) for view, shown in scores.VIEWS.items()},
    }


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("--data", type=Path, default=Path("data/sample"), metavar="DIR", help="the conformer store")
    parser.add_argument("--size", choices=list(PRESETS), default="1M")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=32, help="molecules per step")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=list(RUNS), metavar="NAME", help=", ".join(RUNS))
    parser.add_argument(
        "--learning-rate", type=float, help="learning rate of every run (default: the ladder's for the size)"
    )
    parser.add_argument(
        "--validation-molecules", type=int, default=10_000, metavar="N", help="maximal number of molecules to score"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/objectives"), metavar="DIR", help="run folders")
    parser.add_argument("--output", type=Path, default=RESULTS / "objectives")
    return parser


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options, complete."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    options.given = arguments
    if options.steps < VALIDATIONS:
        parser.error(f"--steps must be at least {VALIDATIONS}")
    if options.learning_rate is None:
        of_size = read_ladder(LADDER).size_overrides.get(options.size)
        options.learning_rate = of_size["train"]["learning_rate"] if of_size else LEARNING_RATE
    return options


def main() -> int:
    """Train, measure, write."""
    options = parse(sys.argv[1:])
    wanted = set(options.only or RUNS)
    if any(RUNS[name].objective == "distill" for name in wanted):
        wanted.add(TEACHER)
    names = [name for name in RUNS if name in wanted]
    try:
        train(names, options)
        results = {"setting": describe_setting(options), **measure(names, options)}
    except UnimolScaleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped; go on with: {COMMAND} {shlex.join(options.given)}", file=sys.stderr)
        return EXIT_INTERRUPTED
    options.output.mkdir(parents=True, exist_ok=True)
    text, claims = write_report(results, options.output)
    (options.output / "results.json").write_text(json.dumps({**results, "claims": claims}, indent=1) + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
