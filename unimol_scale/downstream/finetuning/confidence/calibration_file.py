"""The calibration rows of a fine-tuning: labels, and predictions by models that had not seen them.

``calibration.parquet`` is stored beside ``finetuned.json``, which records its hash and its use (``ConformalRule``).

Shapes: N calibration rows, R rows to be predicted, S models of all seeds and folds, L targets, W outputs (``Outputs``),
C classes of a target, G groups of calibration rows that the same models had not seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unimol_scale.common.files import commit_file, hash_file
from unimol_scale.common.run_files import FINETUNED_NAME
from unimol_scale.downstream.data.splitting.parts import Fold
from unimol_scale.downstream.finetuning.folds.fold_files import read_out_of_fold
from unimol_scale.downstream.finetuning.results import SeedResult, read_predictions
from unimol_scale.downstream.labels.outputs import Outputs
from unimol_scale.downstream.uncertainty.conformal import conformal_intervals, conformal_sets, rows_needed
from unimol_scale.downstream.uncertainty.rules import ConformalRule
from unimol_scale.errors import CheckpointError
from unimol_scale.store.schema import Float64, Int64

CALIBRATION_NAME = "calibration.parquet"
_LABEL, _PREDICTED, _SPREAD = "label ", "predicted ", "spread "


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """Calibration rows.

    Attributes:
        row_N: row of the data, from 1, int64.
        models: [G] indices in ``FinetunedConfig.members`` of the models that had not seen the rows of a group.
        group_N: group of each row, from 0, int64.
        labels_NL: labels; NaN if missing, or if the label is a bound, which has no residual.
        prediction_NW: predictions averaged over these models, in the units of the targets, or probabilities
            (``Outputs``).
        spread_NW: standard deviation over these models; NaN for a single model.
    """

    row_N: Int64
    models: tuple[tuple[int, ...], ...]
    group_N: Int64
    labels_NL: Float64
    prediction_NW: Float64
    spread_NW: Float64

    def take(self, chosen_N: "np.ndarray") -> "Calibration":
        """Return some rows, chosen by a mask or indices, as a single group."""
        return Calibration(
            row_N=self.row_N[chosen_N],
            models=((),),
            group_N=np.zeros(len(self.row_N[chosen_N]), np.int64),
            labels_NL=self.labels_NL[chosen_N],
            prediction_NW=self.prediction_NW[chosen_N],
            spread_NW=self.spread_NW[chosen_N],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ConformalRows:
    """Prediction intervals of rows, or prediction sets of classes.

    Attributes:
        coverage: fraction of the labels that they should contain.
        missing_L: number of calibration rows missing for that, per target; if it is not 0, there is no interval.
        low_RL: lower ends in the units of the targets, NaN where there is no interval; None for sets.
        high_RL: upper ends; NaN and None as for ``low_RL``.
        in_set_RLC: which classes are in the set of each target, bool; None for intervals.
    """

    coverage: float
    missing_L: tuple[int, ...]
    low_RL: Float64 | None = None
    high_RL: Float64 | None = None
    in_set_RLC: "np.ndarray | None" = None

    def class_words(self, target: int, names: Sequence[str]) -> list[str]:
        """Return the set of each row as text, such as "{0, 1}"; "" if there is none.

        Args:
            target: index of the target.
            names: [C] names of its classes.
        """
        assert self.in_set_RLC is not None, "sets"
        if self.missing_L[target]:
            return [""] * len(self.in_set_RLC)
        credible = [np.flatnonzero(one_C).tolist() for one_C in self.in_set_RLC[:, target]]
        return [f"{{{', '.join(names[at] for at in places)}}}" for places in credible]


def calibrate_on_part(folder: Path, seeds: Sequence[SeedResult], outputs: Outputs, row_N: Int64) -> Calibration:
    """Return calibration rows of a single split, on which no model was trained.

    Args:
        folder: folder with the predictions of every seed.
        seeds: all seeds.
        outputs: the outputs of the models.
        row_N: numbers of the rows from 0, ascending, int64.
    """
    value_SNW = np.stack([read_predictions(folder, seed.seed, outputs.names)[row_N] for seed in seeds])
    table = pq.read_table(folder / f"predictions-seed-{seeds[0].seed}.parquet", columns=list(outputs.targets))
    return Calibration(
        row_N=row_N + 1,
        models=(tuple(range(len(seeds))),),
        group_N=np.zeros(len(row_N), np.int64),
        labels_NL=outputs.read_labels(table)[row_N],
        prediction_NW=value_SNW.mean(0),
        spread_NW=seed_spread(value_SNW),
    )


def calibrate_out_of_fold(folder: Path, seeds: Sequence[SeedResult], outputs: Outputs) -> Calibration:
    """Return all rows of a cross-validation, predicted by the models of the folds in which they were tested.

    The predictions of several repeats and seeds are averaged, as they are for a new molecule (Kim, Xu and Barber 2020,
    arXiv 2002.09025).
    """
    found = read_out_of_fold(folder, outputs)
    place_of = {seed.seed: place for place, seed in enumerate(seeds)}
    row_N, at_T = np.unique(found.row_T, return_inverse=True)
    value_SNW = np.full((len(seeds), len(row_N), len(outputs.names)), np.nan)
    labels_NL = np.full((len(row_N), len(outputs.targets)), np.nan)
    place_T = np.array([place_of[seed] for seed in found.seed_T.tolist()], np.int64)
    value_SNW[place_T, at_T] = found.prediction_TL
    labels_NL[at_T] = found.labels_TL
    seen_SN = np.isnan(value_SNW[:, :, 0])
    unseen, group_N = np.unique(~seen_SN.T, axis=0, return_inverse=True)
    several_N = (~seen_SN).sum(0) > 1
    spread_NW = np.full(value_SNW.shape[1:], np.nan)
    spread_NW[several_N] = np.nanstd(value_SNW[:, several_N], axis=0, ddof=1)
    return Calibration(
        row_N=row_N,
        models=tuple(tuple(np.flatnonzero(each).tolist()) for each in unseen),
        group_N=group_N.reshape(-1).astype(np.int64),
        labels_NL=labels_NL,
        prediction_NW=np.nanmean(value_SNW, axis=0),
        spread_NW=spread_NW,
    )


def fold_of_rows(folder: Path, outputs: Outputs, fold: Fold) -> Int64:
    """Return the numbers of the rows that were tested in a fold, from 0, ascending, int64."""
    found = read_out_of_fold(folder, outputs)
    return np.unique(found.row_T[(found.repeat_T == fold.repeat) & (found.fold_T == fold.fold)]) - 1


def seed_spread(value_SRW: Float64) -> Float64:
    """Return the sample standard deviation over models, [R, W]; NaN for a single model."""
    if len(value_SRW) < 2:
        return np.full(value_SRW.shape[1:], np.nan)
    spread_RW: Float64 = value_SRW.std(axis=0, ddof=1)
    return spread_RW


def conformal_rows(
    calibration: Calibration,
    value_SRW: Float64,
    outputs: Outputs,
    coverage: float,
    floor_L: Sequence[float] = (),
) -> ConformalRows:
    """Return prediction intervals of a regression, or prediction sets of classes, for each target.

    Args:
        calibration: the calibration rows.
        value_SRW: predictions of all models, in the order of ``FinetunedConfig.members``.
        outputs: the outputs of the models.
        coverage: fraction of the labels that intervals or sets should contain.
        floor_L: floor of normalised residuals (``ConformalRule``); empty: residuals are not normalised.
    """
    value_GRW = np.stack([value_SRW[list(models) or slice(None)].mean(0) for models in calibration.models])
    R, L, C = value_SRW.shape[1], len(outputs.targets), outputs.classes_each
    missing_L = tuple(missing_rows(label_N, C, coverage) for label_N in calibration.labels_NL.T)
    low_RL, high_RL = np.full((R, L), np.nan), np.full((R, L), np.nan)
    in_set_RLC = np.zeros((R, L, C), bool)
    for at, missing in enumerate(missing_L):
        if missing:
            continue
        known_K = np.flatnonzero(~np.isnan(calibration.labels_NL[:, at]))
        label_K, group_K = calibration.labels_NL[known_K, at], calibration.group_N[known_K]
        if C:
            class_K = label_K.astype(np.int64)
            probability_KC = outputs.class_probabilities(at, calibration.prediction_NW[known_K])
            score_K = 1.0 - probability_KC[np.arange(len(class_K)), class_K]
            probability_GRC = outputs.class_probabilities(at, value_GRW)
            in_set_RLC[:, at] = conformal_sets(probability_GRC, score_K, class_K, group_K, coverage)
            continue
        score_K, scale_R = np.abs(label_K - calibration.prediction_NW[known_K, at]), None
        if floor_L:
            score_K = score_K / (calibration.spread_NW[known_K, at] + floor_L[at])
            scale_R = seed_spread(value_SRW)[:, at] + floor_L[at]
        low_RL[:, at], high_RL[:, at] = conformal_intervals(value_GRW[:, :, at], score_K, group_K, coverage, scale_R)
    if C:
        return ConformalRows(coverage=coverage, missing_L=missing_L, in_set_RLC=in_set_RLC)
    return ConformalRows(coverage=coverage, missing_L=missing_L, low_RL=low_RL, high_RL=high_RL)


def scarce_rows(label_N: Float64, num_classes: int) -> int:
    """Return the number of calibration rows with a label; for classes, the number of rows of the rarest class.

    Args:
        label_N: labels, NaN for missing ones.
        num_classes: number of classes C; 0 for a regression.
    """
    known = label_N[~np.isnan(label_N)]
    return min((int((known == label).sum()) for label in range(num_classes)), default=len(known))


def missing_rows(label_N: Float64, num_classes: int, coverage: float) -> int:
    """Return how many calibration rows are missing for a coverage; for classes, rows of the rarest class."""
    return max(0, rows_needed(coverage) - scarce_rows(label_N, num_classes))


def write_calibration(folder: Path, outputs: Outputs, calibration: Calibration) -> str:
    """Write ``calibration.parquet``; return its SHA-256, hexadecimal.

    Columns: ``row`` (int64, from 1); ``models`` (list of int64: indices from 0 of the models that had not seen the
    row); for each target "label TARGET" (class indices for classes); and for each output "predicted NAME" and "spread
    NAME". The latter are float64, null for missing values.
    """
    models = [list(calibration.models[group]) for group in calibration.group_N.tolist()]
    columns = {"row": pa.array(calibration.row_N), "models": pa.array(models, pa.list_(pa.int64()))}
    for prefix, names, values in (
        (_LABEL, outputs.targets, calibration.labels_NL),
        (_PREDICTED, outputs.names, calibration.prediction_NW),
        (_SPREAD, outputs.names, calibration.spread_NW),
    ):
        for at, name in enumerate(names):
            columns[f"{prefix}{name}"] = pa.array(values[:, at], from_pandas=True)
    path = folder / CALIBRATION_NAME
    commit_file(path, lambda temporary: pq.write_table(pa.table(columns), temporary))
    return hash_file(path)


def read_calibration(folder: Path, outputs: Outputs, rule: ConformalRule) -> Calibration:
    """Read the file that ``write_calibration`` wrote.

    Raises:
        CheckpointError: the hash of the file differs from that in ``finetuned.json``.
    """
    path = folder / CALIBRATION_NAME
    check_kept(path, rule.sha256)
    table = pq.read_table(path)
    each = [tuple(models) for models in table["models"].to_pylist()]
    groups = sorted(set(each))
    labels = [_floats(table, f"{_LABEL}{target}") for target in outputs.targets]
    return Calibration(
        row_N=table["row"].to_numpy().astype(np.int64),
        models=tuple(groups),
        group_N=np.array([groups.index(models) for models in each], np.int64),
        labels_NL=np.stack(labels, axis=1),
        prediction_NW=outputs.read_values(table, _PREDICTED),
        spread_NW=outputs.read_values(table, _SPREAD),
    )


def check_kept(path: Path, sha256: str) -> None:
    """Check that a file of a fine-tuned model is unchanged.

    Raises:
        CheckpointError: the file has changed.
    """
    if hash_file(path) != sha256:
        raise CheckpointError(f"{path} is damaged (its SHA-256 differs from {FINETUNED_NAME})")


def _floats(table: pa.Table, name: str) -> Float64:
    values: Float64 = table[name].to_numpy(zero_copy_only=False).astype(np.float64)
    return values
