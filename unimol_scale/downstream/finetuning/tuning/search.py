"""Searches settings with Optuna: a tree-structured Parzen estimator, and a median rule that gives trials up.

Every finished trial is in a journal, one JSON object a line, and a search that was stopped goes on with it. What is
tried next depends on the seed and on the finished trials alone, so that it is the same with and without a stop.

Sources: TPE, Bergstra et al. 2011 (NeurIPS); Optuna, Akiba et al. 2019 (arXiv 1907.10902), with its median pruner.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.finetuning.tuning.space import SearchSpace
from unimol_scale.downstream.finetuning.tuning.trials import TunedSettings, TuneTrial
from unimol_scale.downstream.finetuning.tuning.tuning_progress import TuningProgress
from unimol_scale.downstream.metric import Metric
from unimol_scale.errors import ConfigError, RunError

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

JOURNAL_NAME = "tuning.jsonl"
# Complete trials before the first one can be given up, and random ones before the estimator suggests.
_UNPRUNED, _RANDOM = 3, 6
_SETTINGS, _SCORES, _FAILED = "settings", "scores", "failed"


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is searched, and how.

    Attributes:
        space: of the settings.
        folds: number of folds that judge a trial.
        judge: (settings, fold from 0) → score of its held-out rows; raises RunError where training fails.
        metric: of the scores.
        journal: file of the finished trials.
        name: of this search in that file; another name for other data or settings.
        seed: of what is tried.
    """

    space: SearchSpace
    folds: int
    judge: Callable[[FinetuneConfig, int], float]
    metric: Metric
    journal: Path
    name: str
    seed: int

    def run(self, trials: int, label: str) -> tuple[TuneTrial, ...]:
        """Return the finished trials, after as many as are missing were tried.

        Args:
            trials: how many there are to be.
            label: of the progress.

        Raises:
            ConfigError: Optuna is not installed.
            RunError: every trial failed.
        """
        study = self._open()
        finished = _finished(study)
        with TuningProgress(label, trials, self.folds, done=min(trials, len(finished))) as progress:
            while len(finished) < trials:
                self._try(study, len(finished), progress)
                finished = _finished(study)
        found = tuple(_read(trial) for trial in finished[:trials])
        if not any(trial.state == "complete" for trial in found):
            why = finished[trials - 1].user_attrs.get(_FAILED, "")
            raise RunError(f"all {len(found)} trials of the search failed, the last one so: {why}")
        return found

    def best(self, found: Sequence[TuneTrial]) -> int:
        """Return the place of the best complete trial; of equals, the first."""
        sign = 1.0 if self.metric.higher_is_better else -1.0
        complete = [at for at, trial in enumerate(found) if trial.state == "complete"]
        return max(complete, key=lambda at: sign * found[at].mean)

    def _open(self) -> "Study":
        optuna = require_optuna()
        backend = optuna.storages.journal.JournalFileBackend(str(self.journal))
        study: Study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name=self.name,
            direction="maximize" if self.metric.higher_is_better else "minimize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_UNPRUNED),
            load_if_exists=True,
        )
        for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # it was stopped, and is tried again
        return study

    def _try(self, study: "Study", number: int, progress: TuningProgress) -> None:
        """Try the next settings, and keep what came of it in the journal."""
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
    """Return a trial as the journal has it."""
    attributes: dict[str, Any] = trial.user_attrs
    complete = trial.state == require_optuna().trial.TrialState.COMPLETE
    return TuneTrial(
        settings=TunedSettings(**attributes[_SETTINGS]),
        scores=tuple(attributes[_SCORES]),
        state="complete" if complete else "failed" if _FAILED in attributes else "pruned",
    )


def require_optuna() -> Any:  # noqa: ANN401 - a module without types
    """Return Optuna, which says nothing of its own.

    Raises:
        ConfigError: it is not installed.
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
