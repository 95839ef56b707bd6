"""The eight sets of the benchmark, their epochs and learning rates, and the settings of a fine-tuning."""

import argparse
import dataclasses
from pathlib import Path

from unimol_scale.checkpoints.weights import identify
from unimol_scale.downstream.config import KFOLDS, FinetuneConfig, FinetuneTrainConfig
from unimol_scale.errors import ConfigError

SCRATCH = "scratch"
RATE = 5e-4
TOX21 = (
    "NR-AR", "NR-AR-LBD", "NR-AhR", "NR-Aromatase", "NR-ER", "NR-ER-LBD", "NR-PPAR-gamma", "SR-ARE", "SR-ATAD5",
    "SR-HSE", "SR-MMP", "SR-p53",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSet:
    """One set and how long it is fitted; the settings were fixed before any test score was looked at.

    Attributes:
        source: command-line option for its data.
        file: its file within --moleculenet; empty for a store.
        targets: label columns; if there are several, the mean score counts.
        metric: the usual metric for this set.
        epochs: maximal number of epochs; more for smaller sets.
        rates: learning rates; every start uses the one that is best on validation.
        repeats: repeats of a cross-validation: two for sets below 2,500 rows.
    """

    targets: tuple[str, ...]
    metric: str
    epochs: int
    repeats: int
    source: str = "moleculenet"
    file: str = ""
    rates: tuple[float, ...] = (RATE,)


SETS = {
    "ESOL": DataSet(
        file="ESOL_delaney-processed.csv",
        targets=("measured log solubility in mols per litre",),
        metric="rmse",
        epochs=30,
        repeats=2,
    ),
    "FreeSolv": DataSet(file="FreeSolv_SAMPL.csv", targets=("expt",), metric="rmse", epochs=40, repeats=2),
    "Lipophilicity": DataSet(file="Lipophilicity.csv", targets=("exp",), metric="rmse", epochs=6, repeats=1),
    "BACE": DataSet(
        file="bace.csv", targets=("Class",), metric="roc_auc", epochs=12, repeats=2, rates=(RATE, 1e-4)
    ),
    "BBBP": DataSet(file="BBBP.csv", targets=("p_np",), metric="roc_auc", epochs=10, repeats=2, rates=(RATE, 1e-4)),
    "Tox21": DataSet(file="tox21.csv", targets=TOX21, metric="roc_auc", epochs=4, repeats=1),
    "QM9 gap": DataSet(source="qm9", targets=("gap",), metric="mae", epochs=4, repeats=1),
    "PCQM4Mv2 gap": DataSet(source="pcqm4mv2", targets=("gap",), metric="mae", epochs=20, repeats=2),
}  # fmt: skip


def file_name(name: str) -> str:
    """Return the name of a set as files and folders have it."""
    return name.replace(" ", "-")


def chosen_sets(options: argparse.Namespace) -> list[str]:
    """Return the sets that are asked for: those named, or all whose data is given.

    Raises:
        ConfigError: the data of a requested set is not given.
    """
    given = {name for name, one in SETS.items() if getattr(options, one.source, None) is not None}
    for name in options.set or ():
        if name not in given:
            raise ConfigError(f"--set {name!r} needs its data: give --{SETS[name].source}")
    return options.set or [name for name in SETS if name in given]


def data_of(options: argparse.Namespace, name: str) -> Path:
    """Return the table or store of a set."""
    chosen = SETS[name]
    given: Path = getattr(options, chosen.source)
    return given / chosen.file if chosen.file else given


def fitting(epochs: int, rate: float) -> FinetuneTrainConfig:
    """Return how every model is fitted, pretrained or not."""
    return FinetuneTrainConfig(
        learning_rate=rate,
        batch_size=32,
        epochs=epochs,
        warm_up=0.1,
        patience=max(epochs // 2, 5),
    )


def settings(
    options: argparse.Namespace,
    name: str,
    model: str,
    fraction: float,
    *,
    reinitialise: bool,
    rate: float = RATE,
    data: Path | None = None,
) -> FinetuneConfig:
    """Return the fine-tuning of one cell of the table.

    Args:
        options: options of the command line.
        name: name of the set.
        model: model that provides the weights, or the dimensions.
        fraction: fraction of the training labels.
        reinitialise: use random weights.
        rate: learning rate.
        data: file to use instead of the set's own, such as a table of the rows that all starts share.
    """
    chosen = SETS[name]
    start = Path(model).name + (f"-{SCRATCH}" if reinitialise else "")
    chosen_rate = "" if rate == RATE else f"-{rate:g}"
    chosen_split = "" if options.split == "scaffold" else f"-{options.split}"
    return FinetuneConfig(
        data=data or data_of(options, name),
        pretrained=model,
        reinitialise=reinitialise,
        targets=chosen.targets,
        metric=chosen.metric,
        split=options.split,
        folds=options.folds,
        repeats=repeats_of(options, name),
        label_fraction=fraction,
        seeds=options.seeds,
        skip_bad=True,
        output=options.work / f"{file_name(name)}-{start}-{fraction:g}{chosen_rate}{chosen_split}",
        cache=options.cache,
        train=fitting(options.epochs or chosen.epochs, rate),
        baselines=False,  # they are the same for all starts and rates, and are fitted once
    )


def repeats_of(options: argparse.Namespace, name: str) -> int:
    """Return how often all rows of a set are dealt to folds."""
    return options.repeats or (SETS[name].repeats if options.split in KFOLDS else 1)


def twin(model: str) -> str:
    """Return what makes two models the same but for their weights."""
    return repr(identify(model)[0])
