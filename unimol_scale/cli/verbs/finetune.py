"""The verbs ``finetune`` and ``predict``: arguments and printing. Imports the rest only when a verb runs."""

import argparse
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from unimol_scale.cli.entry import GOES_ON
from unimol_scale.common.machine.memory import keep_freed_memory
from unimol_scale.downstream.finetuning.registry import METRICS
from unimol_scale.errors import ConfigError, UnimolScaleError

NONE = "none"
# Flag → the setting that it stands for, where the names differ only by hyphens.
_FLAGS = (
    "data", "smiles_column", "task", "split", "split_column", "label_fraction", "inputs", "pooling", "loss", "metric",
    "seeds", "seed", "size", "fragments", "output", "cache", "device", "pretraining_store",
)  # fmt: skip


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verbs.

    Args:
        verbs: what ``ArgumentParser.add_subparsers`` returned.
    """
    _add_finetune(verbs)
    _add_predict(verbs)


def _add_finetune(verbs: Any) -> None:  # noqa: ANN401
    text = "fit a pretrained model to labelled molecules, judge it on a test split, and write a report"
    verb = verbs.add_parser("finetune", help=text, description=text)
    add = verb.add_argument
    add("--from", dest="pretrained", metavar="MODEL", help="run, checkpoint, owner/name of the hub, or none")
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
    add("--task", choices=("regression", "classification", "multilabel"), help="told from the labels if not given")
    add("--split", choices=("scaffold", "scaffold-similarity", "random", "column"), help="(default: scaffold)")
    add("--split-column", metavar="C", help="with --split column: holds train, valid or test")
    add("--label-fraction", type=float, metavar="F", help="share of the training rows that is used (default: 1)")
    add("--inputs", choices=("2d", "3d", "2d+3d"), help="what the model sees (default: all it can)")
    add("--pooling", choices=("mean", "virtual_node"), help="what stands for a molecule (default: mean of its atoms)")
    add("--loss", choices=("mse", "mae", "huber"), help="of a regression (default: mse)")
    add("--metric", metavar="M", help=METRICS.listed)
    add("--seeds", type=int, metavar="K", help="models that are fitted (default: 3)")
    add("--seed", type=int, metavar="N", help="of the split and of the first model (default: 0)")
    add("--fragments", choices=("largest", "reject"), help="of rows with several, as salts have (default: largest)")
    add("--skip-bad", action="store_true", default=None, help="list unusable molecules in skipped.csv and go on")
    add("--pretraining-store", type=Path, metavar="DIR", help="count test molecules in it (default: the run's own)")
    add("--output", type=Path, metavar="DIR", help="(default: finetuned/<data>-<model>)")
    add("--cache", type=Path, metavar="DIR", help="where conformers are kept (default: data/cache)")
    add("--device", choices=("auto", "cpu", "cuda"), help="(default: auto)")
    add("--config", type=Path, metavar="FILE", help="YAML such as those in configs/downstream")
    add("assignments", nargs="*", metavar="key=value", help="any other key, such as train.learning_rate=5e-5")
    verb.set_defaults(run=_finetune, stopped=GOES_ON)
    verb.take_settings(_finetune_settings)


def _add_predict(verbs: Any) -> None:  # noqa: ANN401
    text = "predict properties of molecules with a fine-tuned model; several seeds are averaged"
    columns = (
        "The output has all columns of the file, with row (from 1, without the header), smiles_used and changes (what "
        "was done to the molecule), and for each target its prediction and its seed_std. That is the spread of the "
        "seeds and no error bar: errors are larger, as a rule."
    )
    verb = verbs.add_parser("predict", help=text, description=f"{text}. {columns}")
    add = verb.add_argument
    add("file", type=Path, metavar="FILE", help="CSV, TSV, Parquet, SMILES lines, SDF, or a conformer store")
    add("--from", dest="folder", type=Path, required=True, metavar="DIR", help="folder that finetune wrote")
    add("--output", type=Path, required=True, metavar="FILE", help="CSV or Parquet")
    add("--smiles-column", metavar="C", help="found by the usual names if not given")
    add(
        "--fragments", choices=("largest", "reject"), help="of rows with several (default: as the model was fine-tuned)"
    )
    add("--skip-bad", action="store_true", help="leave unusable molecules empty and list them beside the output")
    add("--cache", type=Path, default=Path("data/cache"), metavar="DIR", help="of conformers (default: %(default)s)")
    add("--max-pairs", type=int, metavar="N", help="memory budget in padded pairs (default: what suits the device)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: %(default)s)")
    verb.set_defaults(run=_predict, stopped="Stopped. Conformers that are ready are kept; nothing else was written.")


def _finetune_settings() -> tuple[type[Any], Mapping[str, str]]:
    from unimol_scale.downstream.config import FinetuneConfig

    return FinetuneConfig, {"data": "set by --data", "targets": "set by --target", "pretrained": "set by --from"}


def _finetune(arguments: argparse.Namespace) -> int:
    from unimol_scale import config as strict
    from unimol_scale.downstream.config import FinetuneConfig

    tree, origin = strict.read_yaml(arguments.config) if arguments.config else ({}, strict.Origin(name="command line"))
    flags = {name: getattr(arguments, name) for name in (*_FLAGS, "targets", "reinitialise", "skip_bad")}
    if flags["targets"]:
        flags["targets"], settings = _told_apart(flags["targets"], arguments, tree)
        arguments.assignments += settings
    given = {name: value for name, value in flags.items() if value is not None}
    if arguments.pretrained is not None:
        given["pretrained"] = arguments.pretrained
    given = strict.merge(given, strict.parse_overrides(arguments.assignments))
    tree, origin = strict.merge(tree, given), origin.with_given(given)
    if "pretrained" not in tree:
        raise ConfigError("--from is required: a run, a checkpoint, or none together with --size NAME")
    if str(tree["pretrained"]).lower() == NONE:
        tree["pretrained"] = None
    if "data" not in tree:
        raise ConfigError("--data is required: a CSV or Parquet file with SMILES and labels, or a store with labels")
    config = strict.build(FinetuneConfig, tree, origin)
    from unimol_scale.downstream.compute import use_granted_cores
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
    print(f"report: {config.folder}/report.md")
    return 0


def _told_apart(
    words: Sequence[str], arguments: argparse.Namespace, tree: Mapping[str, Any]
) -> tuple[list[str] | None, list[str]]:
    """Return the columns and the settings behind --target: a word with "=" is a setting, unless it is a column."""
    from unimol_scale import config as strict

    doubtful = [word for word in words if "=" in word]
    if not doubtful:
        return list(words), []
    flags = {name: getattr(arguments, name) for name in ("data", "smiles_column")}
    given: Mapping[str, Any] = {name: value for name, value in flags.items() if value is not None}
    data = [word for word in doubtful if word.startswith("data=")]
    given = strict.merge(given, strict.parse_overrides([*arguments.assignments, *data]))
    columns = _columns(strict.merge(tree, given))
    settings = [word for word in doubtful if word not in columns]
    return [word for word in words if word not in settings] or None, settings


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


def _predict(arguments: argparse.Namespace) -> int:
    from unimol_scale.downstream.compute import use_granted_cores
    from unimol_scale.downstream.finetuning.predict import predict_file

    keep_freed_memory()
    use_granted_cores()
    summary = predict_file(
        arguments.file,
        arguments.folder,
        arguments.output,
        smiles_column=arguments.smiles_column,
        skip_bad=arguments.skip_bad,
        cache=arguments.cache,
        max_pairs=arguments.max_pairs,
        device_name=arguments.device,
        fragments=arguments.fragments,
    )
    print(summary)
    return 0
