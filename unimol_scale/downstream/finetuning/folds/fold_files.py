"""Writes and reads files about the rows of a split: the part of each row, and out-of-fold predictions.

Shapes: M rows of the data, T tested rows, one for each repeat and seed, R distinct tested rows, L targets, W outputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from unimol_scale.common.files import commit_file
from unimol_scale.downstream.data.splitting.parts import DataSplit, Fold
from unimol_scale.downstream.finetuning.labelled_rows import CONFORMER_SPREAD, PREDICTED, SPREAD
from unimol_scale.downstream.finetuning.results import SeedResult
from unimol_scale.downstream.labels.outputs import Outputs
from unimol_scale.errors import ConfigError, SourceError
from unimol_scale.store.schema import Float64, Int64

SPLITS_NAME = "splits.parquet"
OUT_OF_FOLD_NAME = "out_of_fold.parquet"


def write_splits(folder: Path, smiles: Sequence[str], splits: Sequence[tuple[Fold | None, DataSplit]]) -> None:
    """Write the part of every used row to ``splits.parquet``, for other tools.

    Columns: ``row`` of the data (int64, from 1, without the header), ``smiles`` (canonical, as the model sees it),
    ``repeat`` and ``fold`` (int64, from 1; both 1 for a single split) and ``part`` (train, valid, test, or
    calibration). There is one line for each row of each fold of each repeat.

    Args:
        folder: folder of the results.
        smiles: [M] canonical SMILES.
        splits: (fold, its split), for each fold; the fold is None for a single split.
    """
    tables = []
    for fold, split in splits:
        place = fold or Fold(repeat=1, fold=1)
        parts = np.concatenate([np.full(len(rows), part) for part, rows in split.parts.items()])
        row_R = np.concatenate(list(split.parts.values()))
        order = np.argsort(row_R)
        row_R = row_R[order]
        columns = {
            "row": pa.array(row_R + 1),
            "smiles": pa.array([smiles[row] for row in row_R.tolist()], pa.string()),
            "repeat": pa.array(np.full(len(row_R), place.repeat)),
            "fold": pa.array(np.full(len(row_R), place.fold)),
            "part": pa.array(parts[order].tolist(), pa.string()),
        }
        tables.append(pa.table(columns))
    commit_file(folder / SPLITS_NAME, lambda temporary: pq.write_table(pa.concat_tables(tables), temporary))


def write_out_of_fold(folder: Path, seeds: Sequence[SeedResult]) -> None:
    """Write the predictions for every row by models that were not trained on it to ``out_of_fold.parquet``.

    Columns: ``row``, ``smiles``, ``repeat``, ``fold``, ``seed`` (of the model, int64), and the columns of the targets
    as in ``write_predictions``. There is one line for each labelled row, repeat and seed.

    Args:
        folder: folder of the results, with the predictions of every seed.
        seeds: seeds of all folds.
    """
    tables = []
    for seed in seeds:
        assert seed.fold is not None, "a cross-validation"
        table = pq.read_table(folder / f"predictions-seed-{seed.seed}.parquet")
        test = table.filter(pa.array([part == "test" for part in table["split"].to_pylist()]))
        numbers = {"repeat": seed.fold.repeat, "fold": seed.fold.fold, "seed": seed.seed}
        said = {name: pa.array(np.full(len(test), number, np.int64)) for name, number in numbers.items()}
        labels = {name: test[name] for name in test.column_names if name not in ("row", "smiles", "split")}
        tables.append(pa.table({"row": test["row"], "smiles": test["smiles"], **said, **labels}))
    together = pa.concat_tables(tables)
    commit_file(folder / OUT_OF_FOLD_NAME, lambda temporary: pq.write_table(together, temporary))


@dataclass(frozen=True, kw_only=True, eq=False)
class OutOfFold:
    """Out-of-fold predictions.

    Attributes:
        outputs: the outputs of the models.
        row_T: row of the data, from 1, int64.
        smiles_T: canonical SMILES.
        repeat_T: repeat, from 1, int64.
        fold_T: fold, from 1, int64.
        seed_T: seed of the model, int64.
        labels_TL: labels, NaN for missing ones.
        prediction_TL: predictions in the units of the labels, or probabilities of class 1 or of each class
            (``Outputs``).
    """

    outputs: Outputs
    row_T: Int64
    smiles_T: tuple[str, ...]
    repeat_T: Int64
    fold_T: Int64
    seed_T: Int64
    labels_TL: Float64
    prediction_TL: Float64

    def by_repeat(self) -> tuple[Float64, list[Float64]]:
        """Return the labels [R, L] of the tested rows in ascending order, and the predictions [R, W] of each repeat.

        The seeds of a fold are averaged.
        """
        row_R, place_T = np.unique(self.row_T, return_inverse=True)
        labels_RL = np.full((len(row_R), len(self.outputs.targets)), np.nan)
        labels_RL[place_T] = self.labels_TL
        predictions = []
        for repeat in np.unique(self.repeat_T).tolist():
            here = self.repeat_T == repeat
            total_RW = np.zeros((len(row_R), self.prediction_TL.shape[1]))
            np.add.at(total_RW, place_T[here], self.prediction_TL[here])
            predictions.append(total_RW / np.bincount(place_T[here], minlength=len(row_R))[:, None])
        return labels_RL, predictions


def read_out_of_fold(folder: Path, outputs: Outputs) -> OutOfFold:
    """Read the file that ``write_out_of_fold`` wrote.

    Raises:
        SourceError: the file is missing or damaged.
    """
    path = folder / OUT_OF_FOLD_NAME
    try:
        table = pq.read_table(path)
        numbers = {name: table[name].to_numpy().astype(np.int64) for name in ("row", "repeat", "fold", "seed")}
        labels_TL, prediction_TL = outputs.read_labels(table), outputs.read_values(table, PREDICTED)
        smiles = tuple(table["smiles"].to_pylist())
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise SourceError(f"{path}, with the predictions of a cross-validation, cannot be read: {error}") from error
    return OutOfFold(
        outputs=outputs,
        row_T=numbers["row"],
        smiles_T=smiles,
        repeat_T=numbers["repeat"],
        fold_T=numbers["fold"],
        seed_T=numbers["seed"],
        labels_TL=labels_TL,
        prediction_TL=prediction_TL,
    )


def out_of_fold_columns(folder: Path, outputs: Outputs, split: str | None) -> dict[str, npt.NDArray[Any]]:
    """Return the tested rows with labels and out-of-fold predictions, averaged over repeats, and their spread.

    Args:
        folder: folder of the results.
        outputs: the outputs of the models.
        split: "test" or None, which are equivalent here.

    Returns:
        Columns [R]: "row" (int64, from 1), "smiles", "split" (all "test"), and those of ``prediction_columns``, where
        "seed_std" is the spread over repeats.

    Raises:
        ConfigError: the rows of another part were requested.
        SourceError: the file is missing or damaged.
    """
    if split not in ("test", None):
        raise ConfigError(
            f"split={split!r}: in a cross-validation every row is in each part in turn; request split='test', or read "
            f"predictions-seed-N.parquet in {folder}, which has all rows of each model"
        )
    found = read_out_of_fold(folder, outputs)
    labels_RL, predictions = found.by_repeat()
    row_R, first_R = np.unique(found.row_T, return_index=True)
    columns: dict[str, npt.NDArray[Any]] = {
        "row": row_R,
        "smiles": np.array(found.smiles_T, dtype=object)[first_R],
        "split": np.full(len(row_R), "test", dtype=object),
    }
    return columns | prediction_columns(outputs, labels_RL, np.stack(predictions))


def prediction_columns(
    outputs: Outputs, labels_RL: Float64, value_SRW: Float64, conformer_std_RW: Float64 | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Return labels and predictions as columns of float64, or of class names (None for missing ones).

    For each target there are its label, "predicted TARGET" (mean over seeds) and "TARGET seed_std" (sample standard
    deviation, NaN for a single seed). For named classes "predicted TARGET" is a class name, and "predicted TARGET
    p(CLASS)" and "TARGET p(CLASS) seed_std" are its probability and spread. ``conformer_std_RW`` adds "…
    conformer_std".
    """
    mean_RW = value_SRW.mean(axis=0)
    spread_RW = value_SRW.std(axis=0, ddof=1) if len(value_SRW) > 1 else np.full(mean_RW.shape, np.nan)
    decided = outputs.decide(mean_RW)
    columns: dict[str, npt.NDArray[Any]] = {}
    for at, target in enumerate(outputs.targets):
        columns[target] = labels_RL[:, at]
        if target in decided:
            columns[target] = np.array(outputs.write_labels(at, labels_RL[:, at]).to_pylist(), object)
            columns[f"{PREDICTED}{target}"] = decided[target]
        for place in outputs.places(at):
            name = outputs.names[place]
            columns[f"{PREDICTED}{name}"] = mean_RW[:, place]
            columns[f"{name}{SPREAD}"] = spread_RW[:, place]
            if conformer_std_RW is not None:
                columns[f"{name}{CONFORMER_SPREAD}"] = conformer_std_RW[:, place]
    return columns
