"""The verb ``finetune``: arguments and printing. Imports the rest only when it runs."""

import argparse
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from unimol_scale.checkpoints.shipped import DEFAULT_MODEL, MODEL_HELP
from unimol_scale.cli.settings import settings_of
from unimol_scale.common.exit_status import GOES_ON
from unimol_scale.common.machine.memory import keep_freed_memory
from unimol_scale.downstream.config import NO_MODEL, ClassWeights, SplitKind, Task, Transform
from unimol_scale.downstream.registry import METRICS
from unimol_scale.errors import ConfigError, UnimolScaleError

if TYPE_CHECKING:
    from unimol_scale.downstream.config import FinetuneConfig

# Argument → the setting that it stands for.
FLAGS = {
    name: name
    for name in (
        "data", "smiles_column", "task", "split", "split_column", "label_fraction", "inputs", "pooling", "loss",
        "metric", "seeds", "seed", "size", "fragments", "output", "cache", "device", "pretraining_store", "targets",
        "reinitialise", "skip_bad", "pretrained", "hydrogens", "conformers", "folds", "repeats", "baselines",
        "positive", "class_weights", "order", "censored", "weight_column", "transform",
        "coverage", "conformal", "calibration_fraction", "domain", "learning_curve",
    )
}  # fmt: skip


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verb.

    Args:
        verbs: what ``ArgumentParser.add_subparsers`` returned.
    """
    text = "fit a pretrained model to labelled molecules, judge it on a test split, and write a report"
    verb = verbs.add_parser("finetune", help=text, description=text)
    add = verb.add_argument
    add("--from", dest="pretrained", metavar="MODEL", help=f"{MODEL_HELP}, or none (default: {DEFAULT_MODEL})")
    add("--size", help="with --from none: the preset that starts from random weights")
    add("--reinitialise", action="store_true", default=None, help="random weights in the dimensions of --from")
    add(
        "--data",
        type=Path,
        metavar="FILE",
        help="table with SMILES, SDF with data fields, or a conformer store with labels",
    )
    add("--smiles-column", metavar="C", help="found by the usual names if not given")
    add("--target", nargs="+", dest="targets", metavar="C", help="label columns or data fields; all: every numeric one")
    add("--task", choices=get_args(Task), help="told from the labels if not given")
    add("--positive", metavar="CLASS", help="of two classes with names (default: the last of the alphabet)")
    add("--order", type=lambda text: text.split(","), metavar="A,B,C", help="of task ordinal: the lowest class first")
    add("--censored", action="store_true", default=None, help="labels such as >10 and <0.1 are bounds (regression)")
    add("--weight-column", metavar="C", help="weights of the rows in the loss; scores are not weighted")
    add("--transform", choices=get_args(Transform), help="learn the logarithm of the labels (default: none)")
    add(
        "--class-weights",
        choices=get_args(ClassWeights),
        help="balanced: all classes weigh the same in the loss (default: none)",
    )
    add(
        "--split",
        choices=get_args(SplitKind),
        metavar="KIND",
        help=f"{', '.join(get_args(SplitKind))}; those ending in -kfold are cross-validations (default: scaffold)",
    )
    add(
        "--split-column",
        metavar="C",
        help="of train, valid, test (--split column), folds (column-kfold) or times (time)",
    )
    add("--folds", type=int, metavar="K", help="of a cross-validation (default: 5)")
    add("--repeats", type=int, metavar="R", help="of a cross-validation, dealing the rows anew (default: 1)")
    add("--label-fraction", type=float, metavar="F", help="share of the training rows that is used (default: 1)")
    add("--inputs", choices=("2d", "3d", "2d+3d"), help="what the model sees (default: all it can)")
    add(
        "--hydrogens",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="the model sees hydrogens as atoms (default: as it was pretrained)",
    )
    add("--conformers", type=int, metavar="K", help="one is drawn each epoch, predictions average all (default: 1)")
    add("--pooling", choices=("mean", "virtual_node"), help="what stands for a molecule (default: mean of its atoms)")
    add(
        "--baselines",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="compare with forests and boosting on fingerprints and descriptors (default: yes)",
    )
    add("--coverage", type=float, metavar="C", help="of the intervals or sets of classes of predict (default: 0.9)")
    add("--conformal", choices=("plain", "normalised"), help="normalised: wider where seeds disagree (default: plain)")
    add(
        "--calibration-fraction", type=float, metavar="F", help="of the training rows, for intervals alone (default: 0)"
    )
    add(
        "--domain",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="keep the training molecules, to name the nearest one of what is predicted (default: yes)",
    )
    add(
        "--learning-curve",
        action="store_true",
        default=None,
        help="fit to an eighth, a quarter and half of the labels, too, and draw the scores (default: no)",
    )
    add("--loss", choices=("mse", "mae", "huber"), help="of a regression (default: mse)")
    add("--metric", metavar="M", help=METRICS.listed)
    add("--seeds", type=int, metavar="K", help="models that are fitted (default: 3; of each fold 1)")
    add("--seed", type=int, metavar="N", help="of the split and of the first model (default: 0)")
    add("--fragments", choices=("largest", "reject"), help="of rows with several, as salts have (default: largest)")
    add("--skip-bad", action="store_true", default=None, help="list unusable molecules in skipped.csv and go on")
    add("--pretraining-store", type=Path, metavar="DIR", help="count test molecules in it (default: the run's own)")
    add("--output", type=Path, metavar="DIR", help="(default: finetuned/<data>-<model>)")
    add("--cache", type=Path, metavar="DIR", help="where conformers are kept (default: data/cache)")
    add("--device", choices=("auto", "cpu", "cuda"), help="(default: auto)")
    add(
        "--config",
        type=Path,
        metavar="FILE",
        action="append",
        help="YAML such as those in configs/downstream; given several times, the later files win",
    )
    add("assignments", nargs="*", metavar="key=value", help="any other key, such as train.learning_rate=5e-5")
    verb.set_defaults(run=_run, stopped=GOES_ON)
    verb.take_settings(_settings)


def _settings() -> tuple[type[Any], Mapping[str, str]]:
    from unimol_scale.downstream.config import FinetuneConfig

    return FinetuneConfig, {"data": "set by --data", "targets": "set by --target", "pretrained": "set by --from"}


def config_of(arguments: argparse.Namespace) -> "FinetuneConfig":
    """Return the fine-tuning that the arguments ask for."""
    from unimol_scale.config import build
    from unimol_scale.downstream.config import FinetuneConfig

    if arguments.targets:
        _tell_apart(arguments)
    tree, origin = settings_of(arguments, FLAGS)
    if "pretrained" not in tree:
        if "size" in tree:
            raise ConfigError("--size NAME is the size of a model with random weights: give --from none with it")
        tree["pretrained"] = DEFAULT_MODEL
    if str(tree["pretrained"]).lower() == NO_MODEL:
        tree["pretrained"] = None
    if "data" not in tree:
        raise ConfigError("--data is required: a CSV or Parquet file with SMILES and labels, or a store with labels")
    return build(FinetuneConfig, tree, origin)


def _run(arguments: argparse.Namespace) -> int:
    config = config_of(arguments)
    from unimol_scale.downstream.baselines.verdict_words import short_verdict
    from unimol_scale.downstream.compute import use_granted_cores
    from unimol_scale.downstream.finetuning.confidence.headline import short_headline
    from unimol_scale.downstream.finetuning.finetune import finetune
    from unimol_scale.downstream.finetuning.results import read

    keep_freed_memory()
    use_granted_cores()
    before = read(config.folder)
    outcome = finetune(config)
    if outcome == before:
        print(f"{config.folder} has the results of this fine-tuning already; nothing was computed")
    print(outcome.describe())  # first, with what must be known of the score
    if outcome.skipped:
        print(f"{outcome.skipped:,} of {outcome.rows:,} rows without a usable molecule: {config.folder}/skipped.csv")
    for line in (*outcome.notes, outcome.leakage):
        if line:
            print(line)
    print(f"report: {config.folder}/report.md (with its pictures in one file: report.html)")
    if outcome.baselines is not None:
        print(short_verdict(outcome.baselines, outcome.metric))
    for line in short_headline(outcome):
        print(line)
    return 0


def _tell_apart(arguments: argparse.Namespace) -> None:
    """Move the settings among the words behind --target: a word with "=" is a setting, unless it is a column."""
    doubtful = [word for word in arguments.targets if "=" in word]
    if not doubtful:
        return
    data = [word for word in doubtful if word.startswith("data=")]
    clear = argparse.Namespace(**{**vars(arguments), "assignments": [*arguments.assignments, *data]})
    columns = _columns(settings_of(clear, {"data": "data", "smiles_column": "smiles_column"})[0])
    settings = [word for word in doubtful if word not in columns]
    arguments.targets = [word for word in arguments.targets if word not in settings] or None
    arguments.assignments += settings


def _columns(tree: Mapping[str, Any]) -> Collection[str]:
    """Return the names that a target can have; none if the data cannot be read, which is told later."""
    from unimol_scale.downstream.data.labelled_tables import read_table
    from unimol_scale.downstream.data.molecule_files import is_store
    from unimol_scale.store.shards import open_store

    if "data" not in tree:
        return ()
    path = Path(str(tree["data"]))
    try:
        if is_store(path):
            return tuple(open_store(path).manifest.labels)
        names: list[str] = read_table(path, smiles_column=tree.get("smiles_column"), targets=()).columns.column_names
    except UnimolScaleError:
        return ()
    return [name.strip() for name in names]
