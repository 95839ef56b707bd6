"""Time a fine-tuning that trains its models one after another, and one that trains several at a time in processes.

    python -m benchmarks.downstream.models_at_once solubility.csv --target logS --output models_at_once.md

Each turn is a command of its own, timed by the clock from its start to its end. Conformers are made before, and no
baselines are fitted, since both take the same time either way. The two ways take turns, so that drift of the machine
cancels. Every model trains the same number of epochs.
"""

import argparse
import datetime
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import again, as_started, deliver, module_parser, processor
from unimol_scale.checkpoints.shipped import DEFAULT_MODEL
from unimol_scale.common.machine.threads import usable_cores

COMMAND = "python -m benchmarks.downstream.models_at_once"
ONE, SEVERAL = "one after another", "at the same time"


def finetuning_seconds(arguments: argparse.Namespace, folder: Path, settings: list[str]) -> float:
    """Return the seconds that a fine-tuning takes from start to end; its folder is made below ``folder``."""
    command, environment = again(
        "python -m unimol_scale.cli",
        ["finetune", "--data", str(arguments.table), "--target", arguments.target, "--from", arguments.model,
         "--seeds", str(arguments.models), "--cache", str(folder / "cache"), "--no-baselines", "--output",
         tempfile.mkdtemp(dir=folder), *settings],
    )  # fmt: skip
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return time.perf_counter() - start


def report(arguments: argparse.Namespace) -> str:
    """Run the benchmark and return its report."""
    load = os.getloadavg()[0]
    epochs = [f"train.epochs={arguments.epochs}", f"train.patience={arguments.epochs}"]
    ways = {ONE: ["--models-at-once", "1"], SEVERAL: []}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        finetuning_seconds(arguments, folder, ["--probe", "linear", "--seeds", "1"])  # makes the conformers
        for turn in range(arguments.turns):
            order = list(ways) if turn % 2 == 0 else list(ways)[::-1]
            for way in order:
                seconds[way].append(finetuning_seconds(arguments, folder, [*ways[way], *epochs]))
    middle = {way: statistics.median(values) for way, values in seconds.items()}
    each = {way: ", ".join(f"{value:.1f}" for value in values) for way, values in seconds.items()}
    return "\n".join(
        [
            "# Models trained one after another, and at the same time",
            "",
            f"- {datetime.datetime.now(datetime.UTC).date()}, {processor()}, {usable_cores()} cores",
            f"- `{as_started(COMMAND)}`",
            f"- {arguments.models} models of {arguments.model}, {arguments.epochs} epochs each",
            "- conformers were made before; no baselines were fitted",
            f"- load of the machine when this began: {load:.1f}; medians of {arguments.turns} turns",
            "",
            "| models are trained | s | turns, s |",
            "|---|---|---|",
            *(f"| {way} | {middle[way]:.1f} | {each[way]} |" for way in ways),
            "",
            f"At the same time they take {middle[SEVERAL] / middle[ONE]:.2f} of the time.",
            "",
        ]
    )


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("table", type=Path, help="table with SMILES and labels")
    parser.add_argument("--target", required=True, help="column of the labels")
    parser.add_argument("--model", default=DEFAULT_MODEL, help=f"model to fine-tune (default: {DEFAULT_MODEL})")
    parser.add_argument("--models", type=int, default=3, help="models of each fine-tuning (default: 3)")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of each model (default: 10)")
    parser.add_argument("--turns", type=int, default=3, help="times that each way is timed (default: 3)")
    parser.add_argument("--output", type=Path, metavar="FILE.md", help="file of the report")
    return parser


def main() -> None:
    """Run the benchmark and print, or write, its report."""
    arguments = build_parser().parse_args()
    deliver(report(arguments), arguments.output)


if __name__ == "__main__":
    main()
