"""Train one small model with several optimizers and schedules, at a few rates and seeds, and compare the final losses.

    python conformer_gen/build.py --source sample
    python -m benchmarks.training.recipes --output benchmarks/results/recipes.md

Every run is one of launch/pretrain.py on a single process, with the settings of ladder.yaml beside this file, the same
number of steps and, for one seed, the same initial weights and batches. A finished run is skipped, an unfinished
one is resumed: interrupt it and start the same command again. The defaults take about an hour of
one core.
"""

import argparse
import datetime
import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# As every command has it, and before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from scipy.stats import t as student

from benchmarks.common import REPOSITORY, RESULTS, as_started, deliver, module_parser, processor
from unimol_scale.common.machine.threads import usable_cores
from unimol_scale.common.report.markdown import markdown_table
from unimol_scale.common.run_files import SUMMARY_NAME
from unimol_scale.errors import UnimolScaleError
from unimol_scale.model.accounting import mean_flops, orthogonalisation_flops, training_flops
from unimol_scale.model.presets import PRESETS, ModelConfig, preset
from unimol_scale.scaling.ladder.ladder import LadderConfig, plan, read_ladder
from unimol_scale.scaling.ladder.launch import launch_ladder
from unimol_scale.store.shards import open_store

COMMAND = "python -m benchmarks.training.recipes"
LADDER = REPOSITORY / "benchmarks" / "training" / "ladder.yaml"
WARMUP_SHARE = 0.1
EXIT_INTERRUPTED = 130
BASELINE = "AdamW, linear"
_HEADER = ("recipe", "rate", "loss", f"less than that of {BASELINE}, paired", "seconds a step", "FLOPs more")
# Name → settings, and the tracks whose matrices Muon takes.
RECIPES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    BASELINE: ({}, ()),
    "AdamW, cosine": ({"train.schedule": "cosine"}, ()),
    "AdamW, wsd 1-sqrt": ({"train.schedule": "wsd"}, ()),
    "AdamW, wsd linear": ({"train.schedule": "wsd", "train.decay_shape": "linear"}, ()),
    "AdamW, inverse-sqrt": ({"train.schedule": "inverse_sqrt"}, ()),
    "Muon on atom track, linear": ({"train.optimizer": "muon", "train.muon_tracks": "atom"}, ("atom",)),
    "Muon on pair track, linear": ({"train.optimizer": "muon", "train.muon_tracks": "pair"}, ("pair",)),
    "Muon, linear": ({"train.optimizer": "muon"}, ("atom", "pair")),
    "Muon, wsd 1-sqrt": ({"train.optimizer": "muon", "train.schedule": "wsd"}, ("atom", "pair")),
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The runs of one recipe and one rate.

    Attributes:
        recipe: name.
        rate: peak learning rate.
        losses: validation loss of each seed after the last step; infinite: the run diverged.
        seconds: mean seconds per step.
    """

    recipe: str
    rate: float
    losses: tuple[float, ...]
    seconds: float


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and half the width of its 95 % interval by Student's t; NaN of fewer than two values."""
    if len(values) < 2:
        return float(np.mean(values)), math.nan
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(np.mean(values)), float(student.ppf(0.975, len(values) - 1)) * error


def ladder_of(recipe: str, rate: float, options: argparse.Namespace) -> LadderConfig:
    """Return the ladder of one recipe and rate, with a rung for each seed."""
    common, steps = read_ladder(LADDER), options.steps
    name = f"{recipe.replace(',', '').replace(' ', '-').lower()}-{rate:.3g}"
    return LadderConfig(
        name=name,
        data=options.data,
        sizes=(options.size,),
        steps=(steps,),
        seeds=tuple(options.seeds),
        objective="denoise",
        output=options.runs,
        launcher="python",
        script=REPOSITORY / "launch" / "pretrain.py",
        overrides={
            **{f"data.{key}": value for key, value in common.overrides["data"].items()},
            "train.precision": common.overrides["train"]["precision"],
            "train.global_batch_size": options.batch,
            "train.learning_rate": rate,
            "train.warmup_steps": int(WARMUP_SHARE * steps),
            "train.validate_every": steps,
            "train.checkpoint_every": max(1, steps // 2),
            "zero.stage": 0,
            **RECIPES[recipe][0],
        },
    )


def trained(recipe: str, rate: float, options: argparse.Namespace) -> Cell:
    """Run or resume the runs of one recipe and rate until they are finished.

    Raises:
        UnimolScaleError: a run failed, or its folder holds one with other settings.
    """
    config = ladder_of(recipe, rate, options)
    rungs = plan(config)
    if any(result.action == "stopped" for result in launch_ladder(config, rungs)):
        raise KeyboardInterrupt
    summaries = [json.loads((rung.folder / SUMMARY_NAME).read_text(encoding="utf-8")) for rung in rungs]
    return Cell(
        recipe=recipe,
        rate=rate,
        losses=tuple(math.inf if it["diverged"] else it["final"]["valid/loss"] for it in summaries),
        seconds=float(np.mean([it["seconds"] / it["steps"] for it in summaries])),
    )


def best_of(cells: Sequence[Cell]) -> dict[str, Cell]:
    """Return for each recipe the rate with the lowest mean loss."""
    best: dict[str, Cell] = {}
    for cell in cells:
        other = best.get(cell.recipe)
        if other is None or np.mean(cell.losses) < np.mean(other.losses):
            best[cell.recipe] = cell
    return best


def report(cells: Sequence[Cell], options: argparse.Namespace) -> str:
    """Return everything as Markdown."""
    store = open_store(options.data)
    split = store.manifest.splits["train"]
    histogram = {int(n): rows for n, rows in split.size_histogram.items()}
    model = preset(options.size)
    step_flops = options.batch * mean_flops(lambda n: training_flops(model, n), histogram)
    rates = sorted({cell.rate for cell in cells})
    by_place = {(cell.recipe, cell.rate): cell for cell in cells}
    names = [name for name in RECIPES if any(cell.recipe == name for cell in cells)]
    losses = [[name, *(_loss(by_place[name, rate].losses) for rate in rates)] for name in names]
    best = best_of(cells)
    compared = [_compared(best[name], best.get(BASELINE), step_flops, model) for name in names]
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return "\n".join(
        [
            "# Optimizers and schedules at equal compute\n",
            f"- {datetime.datetime.now(datetime.timezone.utc).date()}, {processor()}, {usable_cores()} cores, no GPU "
            f"used; {versions}",
            f"- `{as_started(COMMAND)}`",
            f"- every run: denoise, size {options.size}, {options.steps} steps of {options.batch} molecules, fp32; "
            f"seeds {', '.join(map(str, options.seeds))}; store of {split.rows:,} molecules, manifest "
            f"{store.manifest_sha256[:12]}",
            "- Muon's steps are scaled to the size of AdamW's (0.2·√max(rows, columns)), so that a rate means the same",
            "- mean ± half of the 95 % interval over seeds (Student's t); a seed's batches are all the same",
            "",
            "## Validation loss by peak rate\n",
            *markdown_table(["recipe", *(f"{rate:.3g}" for rate in rates)], losses),
            "",
            "## Each at its best rate\n",
            *markdown_table(_HEADER, compared),
            "",
            "For every recipe, the best rate was chosen by these same losses. *FLOPs more* is the work of "
            "making steps orthogonal, as a share of the model's own.\n",
        ]
    )


def _loss(losses: Sequence[float]) -> str:
    if any(math.isinf(loss) for loss in losses):
        return f"{sum(map(math.isinf, losses))} of {len(losses)} diverged"
    return _with_interval(losses)


def _with_interval(values: Sequence[float]) -> str:
    mean, half = interval(values)
    return f"{mean:.4f}" if math.isnan(half) else f"{mean:.4f} ± {half:.4f}"


def _compared(cell: Cell, baseline: Cell | None, step_flops: float, model: ModelConfig) -> list[str]:
    more = orthogonalisation_flops(model, RECIPES[cell.recipe][1], 5) / step_flops
    finite = all(map(math.isfinite, cell.losses)) and baseline is not None and all(map(math.isfinite, baseline.losses))
    less = ""
    if baseline is not None and finite and cell.recipe != BASELINE:
        less = _with_interval([one - other for one, other in zip(baseline.losses, cell.losses, strict=True)])
    return [cell.recipe, f"{cell.rate:.3g}", _loss(cell.losses), less, f"{cell.seconds:.3f}", f"{more:.2%}"]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the benchmark."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("--data", type=Path, default=Path("data/sample"), metavar="DIR", help="the conformer store")
    parser.add_argument("--size", choices=list(PRESETS), default="0.1M")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=32, help="molecules per step")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--rates", type=float, nargs="+", help="learning rates (default: half, once and twice the ladder's)"
    )
    parser.add_argument("--only", nargs="+", choices=list(RECIPES), default=list(RECIPES), metavar="NAME")
    parser.add_argument("--runs", type=Path, default=Path("runs/recipes"), metavar="DIR", help="run folders")
    parser.add_argument("--output", type=Path, default=RESULTS / "recipes.md", metavar="FILE.md")
    return parser


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options, complete."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.rates is None:
        known: Mapping[str, Any] = read_ladder(LADDER).size_overrides
        if options.size not in known:
            parser.error(f"--rates is needed: {LADDER.name} has none for {options.size}")
        options.rates = [factor * known[options.size]["train"]["learning_rate"] for factor in (0.5, 1.0, 2.0)]
    return options


def main() -> int:
    """Train, compare, write."""
    options = parse(sys.argv[1:])
    try:
        cells = [trained(name, rate, options) for name in options.only for rate in options.rates]
    except UnimolScaleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped; go on with: {COMMAND} {shlex.join(sys.argv[1:])}", file=sys.stderr)
        return EXIT_INTERRUPTED
    text = report(cells, options)
    deliver(text, options.output)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
