"""Forests and boosting on fingerprints and descriptors, cross-validated on the folds of the starts."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.downstream.folds.fold_data import FoldData, kept_result, write_fold_result
from unimol_scale.downstream.baselines.fitted_baselines import TableRows, kept_baselines
from unimol_scale.downstream.baselines.table_features import TableFeatures
from unimol_scale.downstream.baselines.table_models import TABLE_MODELS
from unimol_scale.downstream.comparison.fold_results import FoldResult

BEST = "best fingerprint baseline"
_FOLDER_OF = {BEST: "best", **{model.shown: model.name for model in TABLE_MODELS}}


def kept_fold_baselines(folder: Path, folds: int) -> list[FoldResult] | None:
    """Return the baselines that a folder has, the best ones first; None if it has not all of so many folds."""
    found = [kept_result(name, folder / place, folds=folds) for name, place in _FOLDER_OF.items()]
    whole = [one for one in found if one is not None]
    return whole if len(whole) == len(found) else None


def fit_fold_baselines(folder: Path, data: FoldData, features: Callable[[], TableFeatures]) -> list[FoldResult]:
    """Fit what a folder has not yet, fold by fold, and write the results there.

    Args:
        folder: of one set and share of the labels; gets ``baselines-seed-N.*`` of fold N, counted from 0 over all
            repeats, and a folder of each kind of baseline with what a fine-tuning by cross-validation writes.
        data: rows and folds.
        features: computes them for all rows; is called only if needed.

    Returns:
        First that which takes, in each fold, the model that is best on the fold's validation rows; then each model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fitted = []
    for number, (_, split) in enumerate(data.folds):
        rows = TableRows(
            smiles=data.rows.molecules.smiles,
            targets=data.rows.targets,
            task=data.rows.task,
            metric=data.metric,
            split=split,
            learnt_ML=data.rows.labels_ML,
        )
        fitted.append(kept_baselines(folder, rows, features, (number,)))
    found = []
    for name, place in _FOLDER_OF.items():
        predictions = [of[member.chosen if name == BEST else place] for member, of in fitted]
        found.append(data.result(name, folder / place, predictions, start=name))
        write_fold_result(found[-1])
    return found
