"""The rows and folds that all starts, probes, baselines and other tools share, and results made from their predictions.

Shapes: M rows of the shared table or of the store, R rows of a part, L targets, J folds of all repeats.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from unimol_scale.common.files import commit_file, hash_file
from unimol_scale.downstream.baselines.table_features import TableFeatures, table_features
from unimol_scale.downstream.comparison.fold_results import FoldResult, read_fold_result
from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.data.labelled_tables import read_table
from unimol_scale.downstream.data.molecule_files import is_store
from unimol_scale.downstream.data.splitting.parts import PARTS, DataSplit, Fold
from unimol_scale.downstream.finetuning import results
from unimol_scale.downstream.finetuning.cautions import trivial_scores
from unimol_scale.downstream.finetuning.finetuning_folder import RESULTS_NAME
from unimol_scale.downstream.finetuning.folds.fold_files import OUT_OF_FOLD_NAME, OutOfFold
from unimol_scale.downstream.finetuning.labelled_rows import PREDICTED, Rows, load_rows
from unimol_scale.downstream.finetuning.results import FinetuneResult, SeedResult
from unimol_scale.downstream.finetuning.row_parts import check_labels, split_labelled
from unimol_scale.downstream.metric import Metric
from unimol_scale.downstream.metrics import score
from unimol_scale.downstream.registry import METRICS
from unimol_scale.errors import ConfigError
from unimol_scale.store.schema import Float64

TABLES_NAME = "tables"
ANY_SIZE = "0.5M"  # settings need a model, which nothing here loads


def shared_table(source: Path, targets: Sequence[str], cache: Path, work: Path) -> Path:
    """Return the data that every start gets: a store as it is; of a table, the rows that have a label and a conformer.

    A model that sees the graph alone can use molecules without a conformer; it would be tested on other rows and other
    folds. The table is written once, and has the columns source_row (of the file, from 1), smiles and the targets.

    Args:
        source: table or store of the set.
        targets: label columns.
        cache: folder of the conformers, which are made here.
        work: the table goes into a folder there, which is named by the content of the source.
    """
    if is_store(source):
        return source
    path = work / TABLES_NAME / hash_file(source)[:8] / f"{source.name.split('.')[0]}.csv"
    if path.is_file():
        return path
    config = FinetuneConfig(
        data=source, size=ANY_SIZE, targets=tuple(targets), cache=cache, skip_bad=True, hydrogens=False
    )
    kept_R = np.flatnonzero(load_rows(config, geometry=True).usable_M)
    read = read_table(source, smiles_column=None, targets=tuple(targets))
    columns = {"source_row": pa.array(kept_R + 1), "smiles": pa.array([read.smiles[row] for row in kept_R.tolist()])}
    columns |= {name: pa.array(read.labels_ML[kept_R, at], from_pandas=True) for at, name in enumerate(targets)}
    path.parent.mkdir(parents=True, exist_ok=True)
    commit_file(path, lambda temporary: pyarrow.csv.write_csv(pa.table(columns), temporary))
    return path


class SetRows:
    """The rows of a set, which are read when they are first asked for.

    Args:
        name: of the set.
        config: a fine-tuning of it, whose model is not loaded.
    """

    def __init__(self, name: str, config: FinetuneConfig) -> None:
        self.name = name
        self.config = dataclasses.replace(
            config.with_choices, pretrained=None, reinitialise=False, size=ANY_SIZE, hydrogens=False
        )
        self.metric: Metric = METRICS[config.metric or ""]

    @functools.cache  # noqa: B019 - one object a set, as long as the program
    def seen(self, *, geometry: bool = True, hydrogens: bool = False) -> Rows:
        """Return the rows with molecules as a model sees them."""
        return load_rows(dataclasses.replace(self.config, hydrogens=hydrogens), geometry=geometry)

    @property
    def rows(self) -> Rows:
        """Rows with conformers of heavy atoms."""
        return self.seen()

    @functools.cached_property
    def features(self) -> TableFeatures:
        """Fingerprints and descriptors of all rows, [M]."""
        return table_features(self.rows.molecules.smiles)

    def at(self, fraction: float) -> "FoldData":
        """Return the folds with a share of their training rows; smaller shares are parts of larger ones.

        Raises:
            ConfigError: a fold cannot be learnt or judged.
        """
        config = dataclasses.replace(self.config, label_fraction=fraction)
        folds = tuple((fold, split) for fold, split in split_labelled(config, self.rows) if fold is not None)
        for _, split in folds:
            check_labels(config, self.rows, split, self.metric)  # as a fine-tuning does
        return FoldData(set=self.name, fraction=fraction, metric=self.metric, rows=self.rows, folds=folds)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FoldData:
    """A set, divided for a cross-validation.

    Attributes:
        set: its name.
        fraction: of the training labels that is used.
        metric: of validation and test.
        rows: labelled molecules.
        folds: [J] of all repeats in order, with the rows of their parts.
    """

    set: str
    fraction: float
    metric: Metric
    rows: Rows
    folds: tuple[tuple[Fold, DataSplit], ...]

    def result(
        self, name: str, folder: Path, predictions: Sequence[Float64], *, start: str, sha256: str | None = None
    ) -> FoldResult:
        """Return predictions as a cross-validation.

        Args:
            name: that it gets.
            folder: that it is of.
            predictions: [J] of each fold float64 [M, L], NaN outside of its test rows; validation rows may have some.
            start: what was fitted.
            sha256: of the weights, if there are any.

        Raises:
            ConfigError: a test row with a label has no prediction.
        """
        found = [
            self._seed_result(name, number, fold, split, prediction_ML)
            for number, ((fold, split), prediction_ML) in enumerate(zip(self.folds, predictions, strict=True))
        ]
        test = [(number, fold, np.sort(split.test)) for number, (fold, split) in enumerate(self.folds)]
        counts = [len(row_R) for _, _, row_R in test]
        row_T = np.concatenate([row_R for _, _, row_R in test])
        rows = OutOfFold(
            outputs=self.rows.outputs,
            row_T=row_T + 1,
            smiles_T=tuple(self.rows.molecules.smiles[row] for row in row_T.tolist()),
            repeat_T=np.repeat([fold.repeat for _, fold, _ in test], counts),
            fold_T=np.repeat([fold.fold for _, fold, _ in test], counts),
            seed_T=np.repeat([number for number, _, _ in test], counts),
            labels_TL=self.rows.labels_ML[row_T],
            prediction_TL=np.concatenate([predictions[number][row_R] for number, _, row_R in test]),
        )
        return FoldResult(name=name, folder=folder, outcome=self._outcome(start, sha256, found), rows=rows)

    def _seed_result(self, name: str, number: int, fold: Fold, split: DataSplit, prediction_ML: Float64) -> SeedResult:
        labels_ML = self.rows.labels_ML
        lacking = int((np.isnan(prediction_ML[split.test]) & ~np.isnan(labels_ML[split.test])).sum())
        if lacking:
            raise ConfigError(
                f"{name}, {self.set}, {fold}: {lacking:,} labels of test rows have no prediction; all must have one"
            )
        valid_RL = prediction_ML[split.valid]
        known_RL = np.where(np.isnan(valid_RL), np.nan, labels_ML[split.valid])
        valid = score(self.metric, known_RL, valid_RL).value
        test = score(self.metric, labels_ML[split.test], prediction_ML[split.test], self.rows.targets)
        if test.value is None:
            raise ConfigError(f"{self.set}, {fold}: {'; '.join(test.undefined[:3])}")
        return SeedResult(
            seed=number,
            valid=np.nan if valid is None else valid,
            test=test.value,
            test_by_target=test.per_target,
            undefined=test.undefined,
            best_epoch=1,
            losses=(),
            valid_scores=(),
            fold=fold,
            split_sizes={part: len(getattr(split, part)) for part in PARTS},
            trivial=trivial_scores(self.metric, labels_ML[split.train], labels_ML[split.test]),
        )

    def _outcome(self, start: str, sha256: str | None, seeds: Sequence[SeedResult]) -> FinetuneResult:
        rows, train = self.rows, self.folds[0][1].train
        return FinetuneResult(
            name=rows.name,
            start=start,
            start_sha256=sha256,
            task=rows.task,
            metric=self.metric.name,
            higher_is_better=self.metric.higher_is_better,
            in_label_units=self.metric.in_label_units,
            targets=rows.targets,
            units=rows.units,
            rows=len(rows.labels_ML),
            unlabelled=rows.num_unlabelled,
            skipped=len(rows.molecules.skipped),
            split_sizes=seeds[0].split_sizes,
            notes=(),
            leakage=None,
            seeds=tuple(seeds),
            label_std=tuple(np.nanstd(rows.labels_ML[train], axis=0).tolist()) if rows.task == "regression" else (),
        )


def write_fold_result(result: FoldResult) -> None:
    """Write a cross-validation into its folder, as a fine-tuning does: predictions, and then results.json."""
    rows, folder = result.rows, result.folder
    columns = {"row": pa.array(rows.row_T), "smiles": pa.array(rows.smiles_T, pa.string())}
    columns |= {"repeat": pa.array(rows.repeat_T), "fold": pa.array(rows.fold_T), "seed": pa.array(rows.seed_T)}
    for at, target in enumerate(rows.outputs.targets):
        columns[target] = pa.array(rows.labels_TL[:, at], from_pandas=True)
        columns[f"{PREDICTED}{target}"] = pa.array(rows.prediction_TL[:, at], from_pandas=True)
    folder.mkdir(parents=True, exist_ok=True)
    commit_file(folder / OUT_OF_FOLD_NAME, lambda temporary: pq.write_table(pa.table(columns), temporary))
    results.write(folder, result.outcome)


def kept_result(name: str, folder: Path, *, folds: int, sha256: str | None = None) -> FoldResult | None:
    """Return what ``write_fold_result`` wrote; None if it is not there, or of fewer folds or of other weights."""
    if not (folder / RESULTS_NAME).is_file():
        return None
    found = read_fold_result(name, folder)
    same = len(found.outcome.folds) == folds and found.outcome.start_sha256 == sha256
    return found if same else None
