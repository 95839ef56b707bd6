"""All out-of-fold predictions in one Parquet file: one line per tested label, one column per result."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.downstream.folds.results_of_set import SetResults
from unimol_scale.common.files import commit_file
from unimol_scale.downstream.comparison.fold_results import FoldResult
from unimol_scale.store.schema import Float32, Float64

PREDICTIONS_NAME = "out_of_fold.parquet"
# Of the 23 of a fraction in fp32: errors below 0.4 % of a number and 0.8 % of a probability change an RMSE or a ROC-AUC
# by up to 0.02 % [measured], and eight sets, two shares of the labels and fourteen results take less than 5 MB.
KEPT_BITS, KEPT_BITS_OF_PROBABILITIES = 7, 6


def write_predictions(path: Path, results: Sequence[SetResults]) -> None:
    """Write the predictions of all sets, shares of the labels and results.

    Columns: set, fraction, row (from 1, of the rows that all results share), smiles, repeat, fold, target, label, and
    for each result its predictions, null where it has none: fp32 with 8 significant bits, of probabilities 7; of
    several seeds of a fold their mean. Lines without a label are left out. The scores of the exact predictions are in
    results.json.
    """
    names = list(dict.fromkeys(result.name for one in results for result in one.all_results))
    tables = [_table(one, names) for one in results if one.all_results]
    keys = ["set", "fraction", "smiles", "target", "repeat", "fold"]

    def write(temporary: Path) -> None:
        pq.write_table(
            pa.concat_tables(tables), temporary, compression="zstd", compression_level=19, use_dictionary=keys,
            column_encoding={name: "BYTE_STREAM_SPLIT" for name in names},
        )  # fmt: skip

    commit_file(path, write)


def _table(results: SetResults, names: Sequence[str]) -> pa.Table:
    own = {result.name: _by_row(result) for result in results.all_results}
    first = results.all_results[0].rows
    row_U, index_U = _first_of_seeds(results.all_results[0])
    label_UL = first.labels_TL[index_U]
    at_U, target_U = np.nonzero(~np.isnan(label_UL))
    number = len(at_U)
    smiles = np.array(first.smiles_T, dtype=object)[index_U]
    columns: dict[str, pa.Array] = {
        "set": pa.array([results.set] * number),
        "fraction": pa.array(np.full(number, results.fraction)),
        "row": pa.array(row_U[at_U, 2].astype(np.int32)),
        "smiles": pa.array(smiles[at_U].tolist(), pa.string()),
        "repeat": pa.array(row_U[at_U, 0].astype(np.int16)),
        "fold": pa.array(row_U[at_U, 1].astype(np.int16)),
        "target": pa.array([first.outputs.targets[at] for at in target_U.tolist()]),
        "label": pa.array(label_UL[at_U, target_U]),
    }
    is_regression = results.all_results[0].outcome.task == "regression"
    bits = KEPT_BITS if is_regression else KEPT_BITS_OF_PROBABILITIES
    for name in names:
        columns[name] = pa.nulls(number, pa.float32())
        if name in own:
            columns[name] = pa.array(_rounded(own[name][at_U, target_U], bits))
    return pa.table(columns)


def _first_of_seeds(result: FoldResult) -> tuple[np.ndarray, np.ndarray]:
    """Return repeat, fold and row [U, 3] of everything that was tested, in order, and where its first seed is [U]."""
    rows = result.rows
    found = np.unique(np.stack([rows.repeat_T, rows.fold_T, rows.row_T], axis=1), axis=0, return_index=True)
    return found[0], found[1]


def _by_row(result: FoldResult) -> Float64:
    """Return the predictions [U, L] in the order of ``_first_of_seeds``; several seeds of a fold are averaged."""
    rows = result.rows
    keys = np.stack([rows.repeat_T, rows.fold_T, rows.row_T], axis=1)
    _, place_T, count_U = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    total_UL = np.zeros((len(count_U), len(rows.outputs.targets)))
    np.add.at(total_UL, place_T.ravel(), rows.prediction_TL)
    mean_UL: Float64 = total_UL / count_U[:, None]
    return mean_UL


def _rounded(values: Float64, kept: int) -> Float32:
    """Return fp32 with fewer bits, which compress better."""
    dropped = 23 - kept
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64) + (1 << (dropped - 1))
    rounded: Float32 = (bits >> dropped << dropped).astype(np.uint32).view(np.float32)
    return rounded
