"""Searches for settings within the training and validation rows of a split. Shapes: M rows."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

import unimol_scale.config as strict
from unimol_scale.common.text.json_files import hash_json
from unimol_scale.common.trees import flatten
from unimol_scale.downstream.config import FinetuneConfig, SplitKind
from unimol_scale.downstream.data.splitting.folds import split_folds
from unimol_scale.downstream.data.splitting.parts import DataSplit
from unimol_scale.downstream.finetuning.finetuning_folder import FREE
from unimol_scale.downstream.finetuning.problem.seed_problem import SeedProblem
from unimol_scale.downstream.finetuning.problem.training_forecast import SearchAmount, TrainingForecast
from unimol_scale.downstream.finetuning.tuning.search import JOURNAL_NAME, Search
from unimol_scale.downstream.finetuning.tuning.space import SearchSpace
from unimol_scale.downstream.finetuning.tuning.trials import TuneResult
from unimol_scale.downstream.metrics import undefined
from unimol_scale.errors import ConfigError

# Settings that do not affect a trial: an interrupted search continues even if they have changed.
_NO_TRIALS = FREE | {"tune", "seeds", "repeats"}


def tune_problem(problem: SeedProblem, judge: Callable[[SeedProblem, TrainingForecast | None], float]) -> TuneResult:
    """Search for the best settings on the training and validation rows of a split, without its test rows.

    Args:
        problem: the data, the split and the settings as given.
        judge: trains a model for a problem, and returns its score on the problem's test rows; it counts its steps for
            the forecast.

    Raises:
        ConfigError: there are too few rows for the folds, or Optuna is not installed.
        RunError: every trial failed.
    """
    config = problem.config
    splits = inner_splits(problem)
    forecast: TrainingForecast | None = None

    def tell_amount(finished: int) -> None:
        nonlocal forecast
        if config.train.probe is None:  # a probe has no steps to judge by, and takes seconds
            forecast = TrainingForecast(_amount(config, splits, finished))

    def judge_fold(tried: FinetuneConfig, fold: int) -> float:
        return judge(replace(problem, config=tried, split=splits[fold]), forecast)

    search = Search(
        space=SearchSpace(config=config, layers=problem.start.model.layers),
        folds=len(splits),
        judge=judge_fold,
        metric=problem.metric,
        journal=config.folder / JOURNAL_NAME,
        name=_name(problem),
        seed=config.seed,
        on_start=tell_amount,
    )
    label = problem.rows.name if problem.fold is None else f"{problem.rows.name}, {problem.fold}"
    trials = search.run(config.tune, label)
    return TuneResult(
        fold=problem.fold,
        rows=len(problem.split.train) + len(problem.split.valid),
        folds=len(splits),
        searched=search.space.searched,
        trials=trials,
        chosen=search.best(trials),
    )


def _amount(config: FinetuneConfig, splits: Sequence[DataSplit], finished: int) -> SearchAmount:
    """Return what remains to be trained after so many trials."""
    first = splits[0]
    return SearchAmount(
        trials=config.tune - finished,
        finished=finished,
        folds=len(splits),
        train=len(first.train),
        valid=len(first.valid) * config.conformers,
        config=config.train,
    )


def inner_splits(problem: SeedProblem) -> list[DataSplit]:
    """Divide training and validation rows into folds, with the same kind of groups as the outer split.

    If the outer split is by time, by column or by file, only rows of the same molecule are kept together.

    Raises:
        ConfigError: there are too few rows or groups, or the score of a fold would be undefined.
    """
    config, rows = problem.config, problem.rows
    inside_M = np.zeros(len(rows.usable_M), bool)
    for row_R in (problem.split.train, problem.split.valid):
        inside_M[row_R] = True
    try:
        dealt = split_folds(
            _kind(config.split),
            usable_M=inside_M,
            scaffold_smiles=rows.molecules.scaffold_smiles,
            smiles=rows.molecules.smiles,
            splits=None,
            folds=config.tune_folds,
            repeats=1,
            fractions=config.fractions,
            seed=config.seed,
        )
        for fold, split in dealt:
            for part, row_R in split.parts.items():
                labels_RL = rows.learnt_ML[row_R]
                problems = undefined(problem.metric, labels_RL, rows.targets)
                if len(problems) == len(rows.targets):
                    raise ConfigError(f"{fold}: its {len(labels_RL)} {part} rows cannot be judged: {problems[0]}")
    except ConfigError as error:
        raise ConfigError(f"search within the training and validation rows: {error} (tune_folds)") from error
    return [split for _, split in dealt]


def _kind(split: SplitKind) -> SplitKind:
    if split.startswith("scaffold"):
        return "scaffold-kfold"
    return "cluster-kfold" if split.startswith("cluster") else "random-kfold"


def _name(problem: SeedProblem) -> str:
    """Return a name that differs if the data, weights, rows or settings differ."""
    settings = flatten(strict.to_tree(problem.config))
    tree = {
        "settings": {key: value for key, value in settings.items() if key not in _NO_TRIALS},
        "hashes": strict.to_tree(problem.hashes),
        "train": problem.split.train.tolist(),
        "valid": problem.split.valid.tolist(),
    }
    where = "split" if problem.fold is None else str(problem.fold)
    return f"{where} {hash_json(tree)[:16]}"
