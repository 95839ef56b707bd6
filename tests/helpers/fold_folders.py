"""Finished cross-validations without a training: folders with scores and out-of-fold predictions."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unimol_scale.downstream.data.splitting.parts import Fold
from unimol_scale.downstream.finetuning import results
from unimol_scale.downstream.finetuning.folds.fold_files import OUT_OF_FOLD_NAME
from unimol_scale.downstream.finetuning.labelled_rows import PREDICTED
from unimol_scale.downstream.metrics import score
from unimol_scale.downstream.registry import METRICS

SIZES = {"train": 80, "valid": 10, "test": 30}


def fold_of_rows(rows: int, folds: int, repeat: int, seed: int = 0) -> np.ndarray:
    """Return the fold, from 1, in which each row is tested in a repeat."""
    return np.random.default_rng([seed, repeat]).permutation(rows) % folds + 1


def write_folds(
    folder: Path,
    labels: np.ndarray,
    noise: float,
    *,
    metric: str = "rmse",
    folds: int = 3,
    repeats: int = 2,
    seeds: int = 1,
    dealt: int = 0,
    chance: int = 0,
    smiles: list[str] | None = None,
) -> Path:
    """Write the folder of a cross-validation that predicts labels with an error.

    Args:
        folder: of the results.
        labels: of the rows.
        noise: standard deviation of the error.
        metric: rmse, mae or roc_auc.
        folds: number of folds.
        repeats: number of repeats.
        seeds: of every fold.
        dealt: seed of the folds.
        chance: seed of the errors.
        smiles: of the rows; None: all are different.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True)
    names = smiles or [f"mol{row}" for row in range(len(labels))]
    random = np.random.default_rng(chance)
    tables, found = [], []
    for repeat in range(1, repeats + 1):
        place = fold_of_rows(len(labels), folds, repeat, dealt)
        for fold in range(1, folds + 1):
            rows = np.flatnonzero(place == fold)
            for _ in range(seeds):
                predicted = labels[rows] + noise * random.normal(size=len(rows))
                value = score(METRICS[metric], labels[rows, None], predicted[:, None]).value
                number = len(found)
                found.append(
                    results.SeedResult(
                        seed=number, valid=0.0, test=value, test_by_target=(value,), undefined=(), best_epoch=1,
                        losses=(1.0,), valid_scores=(0.0,), fold=Fold(repeat=repeat, fold=fold), split_sizes=SIZES,
                        trivial=(1.0,),
                    )
                )  # fmt: skip
                columns = {"row": rows + 1, "smiles": [names[row] for row in rows.tolist()]}
                columns |= {"repeat": [repeat] * len(rows), "fold": [fold] * len(rows), "seed": [number] * len(rows)}
                tables.append(pa.table({**columns, "y": labels[rows], f"{PREDICTED}y": predicted}))
    pq.write_table(pa.concat_tables(tables), folder / OUT_OF_FOLD_NAME)
    outcome = results.FinetuneResult(
        name="set", start="scratch", start_sha256=None, task="classification" if metric == "roc_auc" else "regression",
        metric=metric, targets=("y",), units={}, rows=len(labels), unlabelled=0, skipped=0, split_sizes=SIZES, notes=(),
        leakage=None, seeds=tuple(found), label_std=(1.0,),
    )  # fmt: skip
    results.write(folder, outcome)
    return folder
