"""Time the training loop, compared with the bare model step: the cost of votes, logs, counters and loading.

    python -m benchmarks.training.trainer data/sample

Both sides do the same steps on the same molecules under the same DeepSpeed settings, in turns. The bare one holds its
batches ready in the memory of the device that computes, and does nothing but forward, backward and the optimizer's
step; the loop is what ``launch/pretrain.py`` runs, with loader processes, events and votes. Validation and saving are
left out.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

# As every command has it, and before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from benchmarks.common import RESULTS, module_parser, processor
from unimol_scale.common.metrics_file import read_metrics
from unimol_scale.common.run_files import METRICS_NAME
from unimol_scale.config import read_settings
from unimol_scale.data.dataset import training_loader
from unimol_scale.data.transfer import to_device
from unimol_scale.engine.objective_setup import objective_of
from unimol_scale.engine.parallel.deepspeed_model import DeepSpeedModel
from unimol_scale.engine.parallel.ranks import Ranks, leave_ranks, share_cores, start_ranks
from unimol_scale.engine.run.run_config import PretrainConfig, resolve
from unimol_scale.engine.run.schedule import learning_rate
from unimol_scale.engine.run.stopping import StopRequest
from unimol_scale.engine.trainer import Trainer
from unimol_scale.objectives.base import Sample, total_loss

COMMAND = "python -m benchmarks.training.trainer"

WARM_UP = 4  # steps of each turn that are not timed


def configure(arguments: argparse.Namespace, output: Path) -> PretrainConfig:
    """Return the run that both sides do."""
    steps = WARM_UP + arguments.steps
    settings = [
        f"train.steps={steps}",
        "train.warmup_steps=1",
        f"train.global_batch_size={arguments.batch}",
        f"train.log_every={arguments.log_every}",
        f"train.validate_every={steps}",
        f"train.checkpoint_every={steps}",
        f"train.precision={arguments.precision}",
        f"data.max_pairs={arguments.max_pairs}",
        "data.validation_molecules=32",
        f"zero.stage={arguments.stage}",
    ]
    return resolve(
        arguments.size, *read_settings(None, {"data": {"path": arguments.store}, "output": str(output)}, settings)
    )


def batches_of(config: PretrainConfig, ranks: Ranks) -> list[list[Sample]]:
    """Return all steps' micro-batches of this rank, where it computes."""
    loader = training_loader(
        config.data,
        objective_of(config).corrupt_at,
        batch_size=config.train.global_batch_size,
        seed=config.seed,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )
    return [[to_device(sample, ranks.device) for sample in samples] for samples in loader.steps(0, config.train.steps)]


def bare_seconds(config: PretrainConfig, ranks: Ranks, batches: Sequence[Sequence[Sample]]) -> float:
    """Return the seconds of one bare step, the mean after warm-up."""
    objective = objective_of(config)
    model = DeepSpeedModel(lambda: objective.build_model(config.model), config, ranks)
    start = time.perf_counter()
    for number, samples in enumerate(batches):
        if number == WARM_UP:
            ranks.barrier()
            start = time.perf_counter()
        counts = {name: sum(sample.counts[name] for sample in samples) for name in objective.weights}
        for slot, sample in enumerate(samples):
            sums = model.forward(sample)
            model.backward(total_loss(sums, counts, objective.weights), last=slot == len(samples) - 1)
        model.step(learning_rate(number, config.train))
    ranks.barrier()
    return (time.perf_counter() - start) / (len(batches) - WARM_UP)


def loop_seconds(config: PretrainConfig, ranks: Ranks) -> dict[str, float]:
    """Return the seconds of one step of the training loop, the mean after warm-up, and the share spent on data."""
    with StopRequest() as stop:
        Trainer(config, ranks).run(stop, resume=False)
    events = [event for event in read_metrics(config.output / METRICS_NAME).events if "loss" in event]
    first, last = next(event for event in events if event["step"] >= WARM_UP), events[-1]
    steps = last["step"] - first["step"]
    return {
        "seconds": (last["seconds"] - first["seconds"]) / steps,
        "data_wait": statistics.mean(event["data_wait"] for event in events[1:]),
    }


def report(arguments: argparse.Namespace, ranks: Ranks, rounds: Sequence[Mapping[str, float]]) -> str:
    """Return the table as Markdown."""
    bare = statistics.median(turn["bare"] for turn in rounds)
    loop = statistics.median(turn["loop"] for turn in rounds)
    ratios = sorted(turn["loop"] / turn["bare"] for turn in rounds)
    wait = statistics.median(turn["data_wait"] for turn in rounds)
    lines = [
        "# The training loop beside the bare model step",
        "",
        f"- {processor()}, {torch.get_num_threads()} threads a rank, {ranks.world_size} rank(s), no GPU used"
        if ranks.device.type == "cpu"
        else f"- {torch.cuda.get_device_name(ranks.device)}, {ranks.world_size} rank(s)",
        f"- {datetime.date.today()}, torch {torch.__version__}, Python {platform.python_version()}",
        f"- size {arguments.size}, {arguments.precision}, ZeRO stage {arguments.stage}, {arguments.batch} molecules a "
        f"step, {arguments.steps} steps a turn, {len(rounds)} turns of each side, an event every "
        f"{arguments.log_every} steps",
        f"- `{COMMAND} {' '.join(sys.argv[1:])}`",
        "",
        "| | seconds a step, median of turns |",
        "| --- | --- |",
        f"| bare: forward, backward, optimizer | {bare:.4f} |",
        f"| the training loop | {loop:.4f} |",
        f"| loop / bare, median of the turns' ratios (least … most) | **{statistics.median(ratios):.3f}** "
        f"({ratios[0]:.3f} … {ratios[-1]:.3f}) |",
        f"| of it waiting for data | {wait:.1%} |",
    ]
    return "\n".join(lines) + "\n"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("store", help="conformer store")
    parser.add_argument("--size", default="1M")
    parser.add_argument("--steps", type=int, default=30, help="timed steps of a turn")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--batch", type=int, default=32, help="molecules per step")
    parser.add_argument("--max-pairs", type=int, default=24_000)
    parser.add_argument("--log-every", type=int, default=2)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--stage", type=int, choices=range(4), default=3, help="of ZeRO")
    parser.add_argument("--output", type=Path, default=RESULTS / "trainer.md")
    return parser


def main() -> int:
    """Measure, print and write."""
    arguments = build_parser().parse_args()
    ranks = start_ranks()
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        config = configure(arguments, Path(folder))
        share_cores(ranks, objective_of(config).count_parameters(config.model).total)  # as the trainer does
        batches = batches_of(config, ranks)
        for turn in range(arguments.rounds):
            config = configure(arguments, Path(folder) / f"turn-{turn}")
            sides = {"bare": bare_seconds(config, ranks, batches)}
            measured = loop_seconds(config, ranks)
            sides |= {"loop": measured["seconds"], "data_wait": measured["data_wait"]}
            rounds.append(sides)
            if ranks.is_main:
                print(json.dumps(sides), flush=True)
    if ranks.is_main:
        text = report(arguments, ranks, rounds)
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text, encoding="utf-8")
        print(text)
    leave_ranks()
    return 0


if __name__ == "__main__":
    sys.exit(main())
