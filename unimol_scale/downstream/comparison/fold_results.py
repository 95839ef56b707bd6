"""Reads finished cross-validations, and checks that they can be compared fold by fold and molecule by molecule.

Shapes: T tested rows, one for each repeat and seed, A results, J blocks (a fold of a repeat).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unimol_scale.downstream.finetuning import results
from unimol_scale.downstream.finetuning.finetuning_folder import RESULTS_NAME
from unimol_scale.downstream.finetuning.folds.fold_files import OutOfFold, read_out_of_fold
from unimol_scale.downstream.finetuning.results import FinetuneResult
from unimol_scale.errors import ConfigError
from unimol_scale.store.schema import Float64


@dataclass(frozen=True, kw_only=True, eq=False)
class FoldResult:
    """A finished cross-validation.

    Attributes:
        name: name in tables.
        folder: folder of the results.
        outcome: the scores.
        rows: the out-of-fold predictions, sorted by repeat, fold, row and seed.
    """

    name: str
    folder: Path
    outcome: FinetuneResult
    rows: OutOfFold

    @property
    def scores_J(self) -> Float64:
        """Score of each block, averaged over its seeds, float64 [J].

        Errors of targets without a common unit are in standard deviations of the training labels.
        """
        if self.outcome.has_mean:
            return np.array(self.outcome.fold_scores)
        of_seed = {seed.seed: self.outcome.standardised(seed) for seed in self.outcome.seeds}
        scores = [
            np.mean([of_seed[seed.seed] or np.nan for seed in self.outcome.seeds if seed.fold == fold])
            for fold in self.outcome.folds
        ]
        return np.array(scores)

    @property
    def unit(self) -> str:
        """Unit of the scores; "" if they have none."""
        return self.outcome.unit if self.outcome.has_mean else "standard deviations of the training labels"


def read_fold_results(folders: Sequence[Path]) -> tuple[FoldResult, ...]:
    """Read several cross-validations that were tested on the same rows.

    Args:
        folders: folders of the results. A result is named by the last part of its path; if two are the same, all are
            named by their whole paths.

    Raises:
        ConfigError: there are fewer than two folders, one is not a finished cross-validation, or they differ in
            targets, metric, molecules, labels or folds.
        SourceError: the out-of-fold predictions of a result are missing or damaged.
    """
    if len(folders) < 2:
        raise ConfigError("a comparison needs the folders of at least two fine-tunings")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError("a comparison needs different folders, but one is given twice")
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    found = tuple(read_fold_result(name, folder) for name, folder in zip(names, folders, strict=True))
    check_alike(found)
    return found


def read_fold_result(name: str, folder: Path) -> FoldResult:
    """Read a cross-validation.

    Args:
        name: name to give to the result.
        folder: folder of the result.

    Raises:
        ConfigError: the fine-tuning is not finished, or has a single split.
        SourceError: its out-of-fold predictions are missing or damaged.
    """
    outcome = results.read(folder)
    if outcome is None:
        raise ConfigError(f"{folder} has no finished fine-tuning: it has no {RESULTS_NAME}")
    if not outcome.folds:
        raise ConfigError(
            f"{folder} holds a fine-tuning with a single split, whose test set is too small to compare two models "
            "reliably; fine-tune with a cross-validation, such as --split scaffold-kfold --repeats 2"
        )
    return FoldResult(
        name=name, folder=folder, outcome=outcome, rows=_sorted(read_out_of_fold(folder, outcome.outputs))
    )


def _sorted(rows: OutOfFold) -> OutOfFold:
    order = np.lexsort((rows.seed_T, rows.row_T, rows.fold_T, rows.repeat_T))
    return OutOfFold(
        outputs=rows.outputs,
        row_T=rows.row_T[order],
        smiles_T=tuple(rows.smiles_T[at] for at in order.tolist()),
        repeat_T=rows.repeat_T[order],
        fold_T=rows.fold_T[order],
        seed_T=rows.seed_T[order],
        labels_TL=rows.labels_TL[order],
        prediction_TL=rows.prediction_TL[order],
    )


def check_alike(found: Sequence[FoldResult]) -> None:
    """Check that all results have the same rows in the same folds.

    Raises:
        ConfigError: results differ. The message says in what.
    """
    for other in found[1:]:
        _check_pair(found[0], other)


def _check_pair(one: FoldResult, other: FoldResult) -> None:
    """Check that two results have the same rows in the same folds.

    Raises:
        ConfigError: they differ. The message says in what.
    """
    what = f"{one.folder} and {other.folder} cannot be compared: "
    for key in ("targets", "metric", "task"):
        here, there = getattr(one.outcome, key), getattr(other.outcome, key)
        if here != there:
            raise ConfigError(f"{what}they have different {key}, {_shown(here)} and {_shown(there)}")
    if one.outcome.classes != other.outcome.classes:
        raise ConfigError(f"{what}they have different classes")
    if one.outcome.folds != other.outcome.folds:
        raise ConfigError(
            f"{what}one has {one.outcome.describe_folds()}, the other {other.outcome.describe_folds()}; give both the "
            "same --folds and --repeats"
        )
    mine, theirs = one.rows, other.rows
    smiles, others = (dict(zip(rows.row_T.tolist(), rows.smiles_T, strict=True)) for rows in (mine, theirs))
    if odd := sorted(smiles.keys() ^ others.keys()):
        raise ConfigError(
            f"{what}{len(odd):,} rows are tested in only one of them, the first is row {odd[0]}; use the same data"
        )
    if odd := [row for row, text in smiles.items() if others[row] != text]:
        raise ConfigError(
            f"{what}{len(odd):,} rows have different molecules, the first is row {odd[0]}; use the same data"
        )
    if _places(mine) != _places(theirs):
        raise ConfigError(f"{what}rows are tested in different folds; give both the same --split and --seed")
    if not np.array_equal(_labels_of_rows(mine), _labels_of_rows(theirs), equal_nan=True):
        raise ConfigError(f"{what}labels differ; use the same data and report_units")


def _places(rows: OutOfFold) -> set[tuple[int, int, int]]:
    """Return (repeat, fold, row) of all tested rows, independent of the number of seeds."""
    return set(zip(rows.repeat_T.tolist(), rows.fold_T.tolist(), rows.row_T.tolist(), strict=True))


def _labels_of_rows(rows: OutOfFold) -> Float64:
    labels: Float64 = rows.labels_TL[np.unique(rows.row_T, return_index=True)[1]]
    return labels


def _shown(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
