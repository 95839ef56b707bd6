"""Measure what pretrained models are worth on tasks, for `unimol-scale fit-scaling-law RUNS --task TABLE`.

    python -m benchmarks.downstream.loss_to_task runs/* --qm9 data/qm9 --lipophilicity Lipophilicity.csv \
        --output results.parquet

Models are runs or checkpoints of runs. Each one's vectors of molecules are taken as they are, and a ridge regression of
them is fitted to the gap of QM9 and to the lipophilicity of MoleculeNet: on training molecules, its penalty chosen on
validation molecules, its error that of the test. No two parts share a scaffold; each seed deals the scaffolds anew.
--pooling says how atoms become the vector of a molecule.

Models named after --fine-tune are fine-tuned as well, each on one scaffold split with --fine-tuning-seeds seeds, at the
learning rate that is better on its validation molecules. Their rows have a task of their own, such as "QM9 gap,
fine-tuned". With --molecules, the training molecules are cut down by the same share.

The table has the columns run, checkpoint, loss, task, metric, value and seed, as scaling/tasks/task_table.py says. What
is measured is kept under --work, and the same command goes on after an interruption.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import get_args

# As every command has it, and before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.preprocessing import StandardScaler

from benchmarks.common import exit_status, module_parser
from unimol_scale.checkpoints.weights import find_checkpoint, identify, load_pretrained
from unimol_scale.common.files import commit_text
from unimol_scale.common.machine.devices import pick_device
from unimol_scale.common.machine.memory import keep_freed_memory
from unimol_scale.common.run_files import CHECKPOINTS
from unimol_scale.common.summary_file import read_summary
from unimol_scale.common.text.json_files import hash_json
from unimol_scale.downstream.config import FinetuneConfig, FinetuneTrainConfig, Pooling
from unimol_scale.downstream.data.splits import split_rows
from unimol_scale.downstream.embedding.representations import RepresentationConfig, represent_all
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.downstream.finetuning.labelled_rows import Rows, load_rows
from unimol_scale.downstream.finetuning.probe.linear_models import fit_ridge
from unimol_scale.errors import ConfigError
from unimol_scale.store.schema import Float32, Float64, Int64

COMMAND = "python -m benchmarks.downstream.loss_to_task"

PENALTIES = tuple(np.logspace(-3, 6, 19).tolist())  # for vectors whose entries have a standard deviation of 1
FINE_TUNING_RATES = (5e-4, 2e-3)  # small models want the larger one
FINE_TUNING_EPOCHS = 5
COLUMNS = ("run", "checkpoint", "loss", "task", "metric", "value", "seed")
Row = dict[str, str | int | float]
Load = Callable[[], tuple[Rows, Int64]]  # rows of a task, and which of them count


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task: label column and metric."""

    name: str
    target: str
    metric: str


QM9 = Task(name="QM9 gap", target="gap", metric="mae")
LIPOPHILICITY = Task(name="Lipophilicity", target="exp", metric="rmse")


@dataclass(frozen=True, kw_only=True)
class PretrainedModel:
    """A model, and where it comes from.

    Attributes:
        path: of the run or checkpoint.
        run: name of the run.
        step: optimiser steps it was trained for.
        loss: validation loss there.
        sha256: of its weights.
    """

    path: Path
    run: str
    step: int
    loss: float
    sha256: str


def model_at(path: Path) -> PretrainedModel:
    """Return what a run or a checkpoint is.

    Raises:
        CheckpointError: it is none, or damaged.
        ConfigError: it does not say its validation loss.
    """
    checkpoint = find_checkpoint(path)
    sha256 = str(identify(path).sha256)
    if checkpoint is None:
        summary = read_summary(path)
        loss = summary.group("final").number("valid/loss")
        return PretrainedModel(
            path=path, run=summary.value("name", str), step=summary.value("steps", int), loss=loss, sha256=sha256
        )
    folder = checkpoint.path
    run = folder.parent.parent if folder.parent.name == CHECKPOINTS else folder
    known = checkpoint.meta.get("validation_loss")
    if known is None:
        raise ConfigError(f"{folder} was not saved at a validation, and has no loss; give a checkpoint that was")
    return PretrainedModel(path=path, run=run.resolve().name, step=checkpoint.step, loss=float(known), sha256=sha256)


def vectors_of(model: PretrainedModel, rows: Rows, position_R: Int64, options: argparse.Namespace) -> Float32:
    """Return the vectors of molecules, float32 [R, D], which are shown as in pretraining."""
    loaded = load_pretrained(model.path).eval()
    backbone = loaded.backbone.to(pick_device(options.device))
    config = RepresentationConfig(pooling=options.pooling)
    return np.stack(represent_all(backbone, rows.molecules.split, position_R, config, seen=loaded.seen))


def ridge_error(task: Task, vector_RD: Float32, label_R: Float64, parts: Sequence[Int64]) -> float:
    """Return the error on test molecules of a ridge regression whose penalty is best on validation molecules.

    Args:
        task: whose metric it is.
        vector_RD: of all molecules.
        label_R: of all molecules.
        parts: rows of training, validation and test.
    """
    train, valid, test = parts
    scaler = StandardScaler().fit(vector_RD[train])
    scaled_RD = scaler.transform(vector_RD).astype(np.float64)
    centre, spread = label_R[train].mean(), label_R[train].std()

    fitted = fit_ridge(scaled_RD[train], (label_R[train] - centre) / spread, PENALTIES)

    def errors(part: Int64) -> Float64:
        """Return the error with each penalty."""
        difference_PR = fitted.outputs(scaled_RD[part])[..., 0] * spread + centre - label_R[part]
        errors_P: Float64 = (
            np.abs(difference_PR).mean(1) if task.metric == "mae" else np.sqrt((difference_PR**2).mean(1))
        )
        return errors_P

    return float(errors(test)[errors(valid).argmin()])


def load_task(task: Task, path: Path, options: argparse.Namespace) -> tuple[Rows, Int64]:
    """Return the rows of a task, and which of them count: usable ones, of which at most --molecules."""
    config = FinetuneConfig(
        data=path,
        pretrained=str(options.models[0]),
        targets=(task.target,),
        metric=task.metric,
        skip_bad=True,
        hydrogens=False,
        cache=options.cache,
        output=options.work / "none",
    )
    rows = load_rows(config, geometry=True)
    usable = np.flatnonzero(rows.usable_M)
    if options.molecules is not None and options.molecules < len(usable):
        usable = np.sort(np.random.default_rng(0).choice(usable, options.molecules, replace=False))
    return rows, usable


def measure(model: PretrainedModel, task: Task, load: Load, options: argparse.Namespace) -> list[Row]:
    """Return one row of the table for each split of the ridge regression."""
    rows, usable = load()
    vector_RD = vectors_of(model, rows, rows.molecules.position_M[usable], options)
    label_R = rows.labels_ML[usable, 0]
    scaffolds = [rows.molecules.scaffold_smiles[row] for row in usable.tolist()]
    table: list[Row] = []
    for seed in range(options.seeds):
        # A random split of scaffolds: rows of one text stay together.
        split = split_rows(
            "random",
            usable_M=np.ones(len(usable), bool),
            scaffold_smiles=scaffolds,
            smiles=scaffolds,
            splits=None,
            seed=seed,
        )
        value = ridge_error(task, vector_RD, label_R, (split.train, split.valid, split.test))
        table.append(
            {
                "run": model.run,
                "checkpoint": model.step,
                "loss": model.loss,
                "task": task.name,
                "metric": task.metric,
                "value": value,
                "seed": seed,
            }
        )
    return table


def measure_fine_tuned(
    model: PretrainedModel, task: Task, path: Path, load: Load, options: argparse.Namespace
) -> list[Row]:
    """Return one row of the table for each seed of a fine-tuning; ``path`` has the molecules of the task."""
    rows, usable = load()
    share = len(usable) / int(rows.usable_M.sum())
    outcomes = []
    for rate in FINE_TUNING_RATES:
        config = FinetuneConfig(
            data=path,
            pretrained=str(model.path),
            targets=(task.target,),
            metric=task.metric,
            skip_bad=True,
            hydrogens=False,
            label_fraction=share,
            seeds=options.fine_tuning_seeds,
            cache=options.cache,
            output=options.work / f"{model.run}-{model.step}-{task.target}-{share:g}-{rate:g}",
            train=FinetuneTrainConfig(learning_rate=rate, warm_up=0.1, epochs=FINE_TUNING_EPOCHS),
            baselines=False,
        )
        outcomes.append(finetune(config))
    best = min(outcomes, key=lambda one: sum(seed.valid for seed in one.seeds))
    return [
        {
            "run": model.run,
            "checkpoint": model.step,
            "loss": model.loss,
            "task": f"{task.name}, fine-tuned",
            "metric": task.metric,
            "value": float(seed.test if seed.test is not None else np.nan),
            "seed": seed.seed,
        }
        for seed in best.seeds
    ]


def kept_rows(
    model: PretrainedModel, task: Task, depends_on: Sequence[object], measured: Callable[[], list[Row]], work: Path
) -> list[Row]:
    """Return the rows of one model and task, measured now or before, and print their mean.

    Args:
        model: that is measured.
        task: that it is measured on.
        depends_on: everything else that the rows depend on.
        measured: measures them.
        work: folder of what is measured.
    """
    made_of = [model.sha256, task.name, *depends_on]
    kept = work / f"{model.run}-{model.step}-{task.target}-{hash_json(made_of)[:12]}.json"
    if not kept.is_file():
        commit_text(kept, json.dumps(measured()))
    found: list[Row] = json.loads(kept.read_text(encoding="utf-8"))
    name, mean = found[0]["task"], np.mean([float(row["value"]) for row in found])
    print(f"{model.run}, step {model.step}, loss {model.loss:.4g}: {name} {task.metric} {mean:.4g}", flush=True)
    return found


def run(options: argparse.Namespace) -> None:
    """Measure what is not measured yet, and write the table.

    Raises:
        UnimolScaleError: a model or a data set is missing or damaged.
    """
    given = [(QM9, options.qm9), (LIPOPHILICITY, options.lipophilicity)]
    tasks = [(task, path) for task, path in given if path is not None]
    if not tasks:
        raise ConfigError("give at least one of --qm9 and --lipophilicity")
    models = [model_at(path) for path in options.models]
    tuned = [model_at(path) for path in options.fine_tune]
    options.work.mkdir(parents=True, exist_ok=True)
    table: list[Row] = []
    for task, path in tasks:
        load = cache(partial(load_task, task, path, options))  # only where something is to be measured
        rows_of = [str(path.resolve()), options.molecules]
        vectors = [] if options.pooling == "mean" else [options.pooling]  # the mean was the first pooling
        for model in models:
            probe = partial(measure, model, task, load, options)
            table += kept_rows(model, task, [*rows_of, options.seeds, *vectors], probe, options.work)
        for model in tuned:
            fine_tuned = partial(measure_fine_tuned, model, task, path, load, options)
            table += kept_rows(
                model, task, [*rows_of, options.fine_tuning_seeds, "fine-tuned"], fine_tuned, options.work
            )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: [row[name] for row in table] for name in COLUMNS}), options.output)
    print(options.output)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="a run, or a checkpoint of one")
    parser.add_argument("--qm9", type=Path, metavar="STORE", help="of configs/build/qm9.yaml")
    parser.add_argument("--lipophilicity", type=Path, metavar="FILE", help="Lipophilicity.csv of MoleculeNet")
    parser.add_argument(
        "--pooling", choices=get_args(Pooling), default="mean", help="of the vectors (default: %(default)s)"
    )
    parser.add_argument("--seeds", type=int, default=5, help="splits (default: %(default)s)")
    parser.add_argument(
        "--fine-tune", type=Path, nargs="+", default=[], metavar="MODEL", help="models that are fine-tuned as well"
    )
    parser.add_argument(
        "--fine-tuning-seeds", type=int, default=2, metavar="N", help="of each of them (default: %(default)s)"
    )
    parser.add_argument("--molecules", type=int, metavar="N", help="of each set at most (default: all)")
    parser.add_argument("--work", type=Path, default=Path("loss_to_task"), metavar="DIR", help="what is measured")
    parser.add_argument("--cache", type=Path, default=Path("data/cache"), metavar="DIR", help="of conformers")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.parquet")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 2 for an error that the user can mend."""
    keep_freed_memory()
    return exit_status(lambda: run(build_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
