"""Searches for settings with Optuna: a tree-structured Parzen estimator, and a median rule that stops bad trials early.

Every finished trial is stored in a journal, one JSON object per line, from which an interrupted search continues. The
next settings depend only on the seed and the finished trials, so an interruption does not change the search.

Sources: TPE, Bergstra et al. 2011 (NeurIPS); Optuna, Akiba et al. 2019 (arXiv 1907.10902), with its median pruner.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.finetuning.tuning.journal import open_journal
from unimol_scale.downstream.finetuning.tuning.space import SearchSpace
from unimol_scale.downstream.finetuning.tuning.trials import TunedSettings, TuneTrial
from unimol_scale.downstream.finetuning.tuning.tuning_progress import TuningProgress
from unimol_scale.downstream.metric import Metric
from unimol_scale.errors import ConfigError, RunError

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

JOURNAL_NAME = "tuning.jsonl"
# Number of complete trials before one can be stopped early, and of random trials before the estimator is used.
_UNPRUNED, _RANDOM = 3, 6
_SETTINGS, _SCORES, _FAILED = "settings", "scores", "failed"


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search for settings.

    Attributes:
        space: values that can be tried.
        folds: number of folds that score a trial.
        judge: (settings, fold from 0) → score on the fold's held-out rows; raises RunError if training fails.
        metric: metric of the scores.
        journal: file of the finished trials.
        name: name of the search in that file, which differs for other data or settings.
        seed: seed of the suggested settings.
        on_start: called with the number of finished trials before the first missing one.
    """

    space: SearchSpace
    folds: int
    judge: Callable[[FinetuneConfig, int], float]
    metric: Metric
    journal: Path
    name: str
    seed: int
    on_start: Callable[[int], None] = lambda _: None

    def run(self, trials: int, label: str) -> tuple[TuneTrial, ...]:
        """Run the missing trials, and return all finished ones.

        Args:
            trials: total number of trials.
            label: names the search in its progress.

        Raises:
            ConfigError: Optuna is not installed.
            RunError: every trial failed.
        """
        study = self._open()
        finished = _finished(study)
        if len(finished) < trials:
            self.on_start(len(finished))
        with TuningProgress(label, trials, self.folds, done=min(trials, len(finished))) as progress:
            while len(finished) < trials:
                self._try(study, len(finished), progress)
                finished = _finished(study)
        found = tuple(_read(trial) for trial in finished[:trials])
        if not any(trial.state == "complete" for trial in found):
            why = finished[trials - 1].user_attrs.get(_FAILED, "")
            raise RunError(f"all {len(found)} trials of the search failed, the last one with: {why}")
        return found

    def best(self, found: Sequence[TuneTrial]) -> int:
        """Return the index of the best complete trial; among equals, the first."""
        sign = 1.0 if self.metric.higher_is_better else -1.0
        complete = [at for at, trial in enumerate(found) if trial.state == "complete"]
        return max(complete, key=lambda at: sign * found[at].mean)

    def _open(self) -> "Study":
        optuna = require_optuna()
        study: Study = optuna.create_study(
            storage=optuna.storages.JournalStorage(open_journal(self.journal)),
            study_name=self.name,
            direction="maximize" if self.metric.higher_is_better else "minimize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_UNPRUNED),
            load_if_exists=True,
        )
        for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # interrupted; it will be tried again
        return study

    def _try(self, study: "Study", number: int, progress: TuningProgress) -> None:
        """Try the next settings, and write the outcome to the journal."""
        optuna = require_optuna()
        states = optuna.trial.TrialState
        if number == 0 and not study.get_trials(deepcopy=False, states=(states.WAITING,)):
            study.enqueue_trial(self.space.given)
        seed = zlib.crc32(f"{self.name} {self.seed} {number}".encode())
        study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_RANDOM)
        trial = study.ask()
        settings = self.space.suggest(trial)
        trial.set_user_attr(_SETTINGS, vars(settings))
        scores: list[float] = []
        state = states.COMPLETE
        for fold in range(self.folds):
            try:
                scores.append(self.judge(settings.apply(self.space.config), fold))
            except RunError as error:
                trial.set_user_attr(_FAILED, str(error))
                state = states.PRUNED
                break
            trial.report(float(np.mean(scores)), fold)
            progress.fold_done()
            if fold + 1 < self.folds and trial.should_prune():
                state = states.PRUNED
                break
        trial.set_user_attr(_SCORES, scores)
        complete = state == states.COMPLETE
        study.tell(trial, float(np.mean(scores)) if complete else None, state=state)
        progress.trial_done(number + 1, float(np.mean(scores)) if complete else None, self.metric)


def _finished(study: "Study") -> "list[FrozenTrial]":
    states = require_optuna().trial.TrialState
    finished: list[FrozenTrial] = study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED))
    return finished


def _read(trial: "FrozenTrial") -> TuneTrial:
    """Return a trial from its entry in the journal."""
    attributes: dict[str, Any] = trial.user_attrs
    complete = trial.state == require_optuna().trial.TrialState.COMPLETE
    return TuneTrial(
        settings=TunedSettings(**attributes[_SETTINGS]),
        scores=tuple(attributes[_SCORES]),
        state="complete" if complete else "failed" if _FAILED in attributes else "pruned",
    )


def require_optuna() -> Any:  # noqa: ANN401 - a module without types
    """Return the module Optuna with its own log messages turned off.

    Raises:
        ConfigError: Optuna is not installed.
    """
    try:
        import optuna
        import optuna.storages.journal
    except ImportError as error:
        raise ConfigError(
            "--tune needs Optuna, which is not installed: pip install 'unimol-scale[tune]', or pip install optuna"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
