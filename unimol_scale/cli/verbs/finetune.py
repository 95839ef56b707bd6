"""The verb ``finetune``: arguments and printing. Imports the rest only when it runs."""

import argparse
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from unimol_scale.checkpoints.shipped import DEFAULT_MODEL, MODEL_HELP
from unimol_scale.cli.command_line import as_sentence
from unimol_scale.cli.input_options import add_input_options
from unimol_scale.cli.settings import settings_of
from unimol_scale.common.exit_status import GOES_ON
from unimol_scale.common.machine.memory import keep_freed_memory
from unimol_scale.downstream.config import NO_MODEL, ClassWeights, Pooling, SplitKind, Task, Transform
from unimol_scale.downstream.registry import METRICS
from unimol_scale.downstream.trained_parts import Probe
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
        "coverage", "conformal", "calibration_fraction", "domain", "tune", "learning_curve", "models_at_once",
    )
} | {"probe": "train.probe", "lora": "train.lora_rank"}  # fmt: skip


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verb.

    Args:
        verbs: what ``ArgumentParser.add_subparsers`` returned.
    """
    text = "fine-tune a pretrained model on labelled molecules, evaluate it on a test split, and write a report"
    verb = verbs.add_parser(
        "finetune",
        help=text,
        description=as_sentence(text),
        usage="unimol-scale finetune --data FILE --target C [C ...] [option ...] [key=value ...]",
    )
    for title, declare in (
        ("model", _add_model),
        ("molecules and labels", _add_data),
        ("what the model sees of a molecule", _add_input),
        ("training, validation and test rows", _add_split),
        ("training", _add_training),
        ("report and error bars", _add_evaluation),
        ("files and machine", _add_place),
    ):
        declare(verb.add_argument_group(title).add_argument)
    verb.add_argument(
        "assignments", nargs="*", metavar="key=value", help="any other key, such as train.learning_rate=5e-5"
    )
    verb.set_defaults(run=_run, stopped=GOES_ON)
    verb.take_settings(_settings)


def _add_model(add: Callable[..., object]) -> None:
    """Declare the model that is fine-tuned."""
    add("--from", dest="pretrained", metavar="MODEL", help=f"{MODEL_HELP}, or none (default: {DEFAULT_MODEL})")
    add("--size", help="with --from none: the preset to train from random weights")
    add(
        "--reinitialise",
        action="store_true",
        default=None,
        help="replace the weights of --from by random ones, to see what pretraining contributes",
    )


def _add_data(add: Callable[..., object]) -> None:
    """Declare the molecules, their labels, and how both are read."""
    add(
        "--data",
        type=Path,
        metavar="FILE",
        help="table with SMILES, SDF with data fields, or a conformer store with labels",
    )
    add("--smiles-column", metavar="C", help="column of the SMILES (default: found by common names)")
    add("--target", nargs="+", dest="targets", metavar="C", help="label columns or data fields; all: every numeric one")
    add("--task", choices=get_args(Task), help="kind of labels (default: inferred from the labels)")
    add(
        "--positive",
        metavar="CLASS",
        help="with two named classes: the one whose probability is predicted (default: the alphabetically last)",
    )
    add(
        "--order",
        type=lambda text: text.split(","),
        metavar="A,B,C",
        help="with --task ordinal: all classes, lowest first",
    )
    add(
        "--censored",
        action="store_true",
        default=None,
        help="regression: treat labels such as >10 and <0.1 as bounds",
    )
    add("--weight-column", metavar="C", help="column of the rows' weights in the loss; scores are not weighted")
    add(
        "--fragments",
        choices=("largest", "reject"),
        help="for molecules of several fragments, such as salts: use the largest, or refuse them (default: largest)",
    )
    add("--skip-bad", action="store_true", default=None, help="list unusable molecules in skipped.csv and continue")


def _add_input(add: Callable[..., object]) -> None:
    """Declare the form in which the model gets a molecule."""
    add_input_options(add)
    add(
        "--conformers",
        type=int,
        metavar="K",
        help="conformers per molecule; training draws one each epoch, predictions average all (default: 1)",
    )
    add(
        "--pooling",
        choices=get_args(Pooling),
        help="how atoms become the vector of a molecule (default: layers for a probe, otherwise the mean of the atoms)",
    )


def _add_split(add: Callable[..., object]) -> None:
    """Declare which rows train, validate and test."""
    add(
        "--split",
        choices=get_args(SplitKind),
        metavar="KIND",
        help=f"{', '.join(get_args(SplitKind))}; kinds ending in -kfold are cross-validations (default: scaffold)",
    )
    add(
        "--split-column",
        metavar="C",
        help="column with train, valid and test (--split column), with folds (column-kfold) or with times (time)",
    )
    add("--folds", type=int, metavar="K", help="number of folds of a cross-validation (default: 5)")
    add(
        "--repeats",
        type=int,
        metavar="R",
        help="number of times that a cross-validation assigns rows to folds anew (default: 1)",
    )
    add("--label-fraction", type=float, metavar="F", help="fraction of the training rows to use (default: 1)")
    add("--seed", type=int, metavar="N", help="seed of the split and of the first model (default: 0)")


def _add_training(add: Callable[..., object]) -> None:
    """Declare how the models are trained."""
    add(
        "--seeds",
        type=int,
        metavar="K",
        help="number of models to train (default: 3; in a cross-validation 1 per fold)",
    )
    add(
        "--probe",
        choices=get_args(Probe),
        help="fit only a head, to vectors that are computed once; takes seconds (default: train the whole model)",
    )
    add(
        "--lora",
        type=int,
        metavar="RANK",
        help="train only the head and low-rank updates of the weights (default: train all weights)",
    )
    add(
        "--tune",
        type=int,
        metavar="N",
        help="try N settings by cross-validation within the training and validation rows, and use the best "
        "(default: 0)",
    )
    add("--loss", choices=("mse", "mae", "huber"), help="loss of a regression (default: mse)")
    add(
        "--transform",
        choices=get_args(Transform),
        help="regression: fit the logarithm of the labels (default: none)",
    )
    add(
        "--class-weights",
        choices=get_args(ClassWeights),
        help="balanced: all classes have the same total weight in the loss (default: none)",
    )
    add("--metric", metavar="M", help=f"score that chooses the best epoch and is reported: {METRICS.listed}")


def _add_evaluation(add: Callable[..., object]) -> None:
    """Declare what is measured beside the scores of the models."""
    add(
        "--baselines",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="compare with random forests and gradient boosting on fingerprints and descriptors (default: yes)",
    )
    add(
        "--coverage",
        type=float,
        metavar="C",
        help="target coverage of the intervals or class sets that predict writes (default: 0.9)",
    )
    add(
        "--conformal",
        choices=("plain", "normalised"),
        help="prediction intervals of one width, or normalised: wider where seeds disagree (default: plain)",
    )
    add(
        "--calibration-fraction",
        type=float,
        metavar="F",
        help="fraction of the training rows set aside to calibrate the intervals (default: 0)",
    )
    add(
        "--domain",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="save the training molecules, so that predict can name the nearest one (default: yes)",
    )
    add(
        "--learning-curve",
        action="store_true",
        default=None,
        help="also train on an eighth, a quarter and half of the labels, and plot the scores (default: no)",
    )
    add(
        "--pretraining-store",
        type=Path,
        metavar="DIR",
        help="report how many test molecules this store contains (default: the store of the pretraining run)",
    )


def _add_place(add: Callable[..., object]) -> None:
    """Declare where results go, and what computes them."""
    add("--output", type=Path, metavar="DIR", help="folder of the results (default: finetuned/<data>-<model>)")
    add("--cache", type=Path, metavar="DIR", help="folder in which conformers are kept (default: data/cache)")
    add(
        "--device",
        choices=("auto", "cpu", "cuda"),
        help="where to compute; auto uses a GPU if there is one (default: auto)",
    )
    add(
        "--models-at-once",
        type=int,
        metavar="N",
        help="models to train at the same time, each in a process of its own (default: as many as the cores and the "
        "memory allow on a CPU, 1 on a GPU)",
    )
    add(
        "--plan",
        metavar="DEVICE",
        help="print the memory and time needed on a device (rtx4090, h100, …; here: this machine) and exit",
    )
    add(
        "--config",
        type=Path,
        metavar="FILE",
        action="append",
        help="YAML file such as those in configs/downstream; may be repeated, and later files override earlier ones",
    )


def _settings() -> tuple[type[Any], Mapping[str, str]]:
    from unimol_scale.downstream.config import FinetuneConfig

    return FinetuneConfig, {"data": "set by --data", "targets": "set by --target", "pretrained": "set by --from"}


def config_of(arguments: argparse.Namespace) -> "FinetuneConfig":
    """Return the settings of the fine-tuning that the arguments ask for."""
    from unimol_scale.config import build
    from unimol_scale.downstream.config import FinetuneConfig

    for word in arguments.assignments:
        if "=" not in word and Path(word).exists():
            raise ConfigError(f"{word} needs its option: --data {word}")
    if arguments.targets:
        _tell_apart(arguments)
    tree, origin = settings_of(arguments, FLAGS)
    if "pretrained" not in tree:
        if "size" in tree:
            raise ConfigError("--size NAME is for models with random weights: add --from none")
        tree["pretrained"] = DEFAULT_MODEL
    if str(tree["pretrained"]).lower() == NO_MODEL:
        tree["pretrained"] = None
    if "data" not in tree:
        raise ConfigError("--data is required: a CSV or Parquet file with SMILES and labels, or a store with labels")
    if not tree.get("targets") and (columns := _columns(tree)):
        raise ConfigError(
            "no target: name the label columns with --target (--target all: every numeric column). The columns of "
            f"{tree['data']} are {', '.join(map(repr, columns))}"
        )
    return build(FinetuneConfig, tree, origin)


def _run(arguments: argparse.Namespace) -> int:
    config = config_of(arguments)
    if arguments.plan is not None:
        return _plan(config, arguments.plan)
    from unimol_scale.downstream.baselines.verdict_words import short_verdict
    from unimol_scale.downstream.compute import use_granted_cores
    from unimol_scale.downstream.finetuning.confidence.headline import short_headline
    from unimol_scale.downstream.finetuning.finetune import finetune, follow
    from unimol_scale.downstream.finetuning.results import read
    from unimol_scale.downstream.launched_ranks import launched_ranks
    from unimol_scale.engine.parallel.ranks import leave_ranks

    keep_freed_memory()
    use_granted_cores()
    ranks = launched_ranks(config.device)
    if ranks is not None and not ranks.is_main:
        follow(config, ranks)
        leave_ranks()
        return 0
    before = read(config.folder)
    outcome = finetune(config, ranks)
    if ranks is not None:
        ranks.told_by_main(None)  # the end
        leave_ranks()
    if outcome == before:
        print(f"{config.folder} already has the results of this fine-tuning; nothing was computed")
    print(outcome.describe())  # first, since it says what the score means
    if outcome.skipped:
        print(f"{outcome.skipped:,} of {outcome.rows:,} rows have no usable molecule: see {config.folder}/skipped.csv")
    for line in (*outcome.notes, outcome.leakage):
        if line:
            print(line)
    print(f"report: {config.folder}/report.md (with its pictures in one file: report.html)")
    if outcome.baselines is not None:
        print(short_verdict(outcome.baselines, outcome.metric))
    for line in short_headline(outcome):
        print(line)
    return 0


def _plan(config: "FinetuneConfig", device: str) -> int:
    from unimol_scale.downstream.finetuning.planning.finetune_plan import plan_finetuning
    from unimol_scale.downstream.finetuning.planning.finetune_plan_text import describe_plan

    for line in describe_plan(plan_finetuning(config, device)):
        print(line)
    return 0


def _tell_apart(arguments: argparse.Namespace) -> None:
    """Separate settings from the words after --target: a word with "=" is a setting unless a column has that name."""
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
    """Return the names that a target can have; none if the data cannot be read, which is reported later."""
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
