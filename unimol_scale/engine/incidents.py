"""Handles steps that go wrong: skips those that are not finite, and asks for a rollback after a loss spike."""

import json
from collections.abc import Mapping, Sequence

import numpy as np

from unimol_scale.common.run_files import SKIPPED_NAME
from unimol_scale.engine.log.sinks import Teller
from unimol_scale.engine.optimizer_step import StepResult
from unimol_scale.engine.parallel.ranks import Ranks
from unimol_scale.engine.run.run_config import PretrainConfig
from unimol_scale.engine.run.run_progress import Progress
from unimol_scale.engine.spikes import SpikeDetector
from unimol_scale.errors import RunError
from unimol_scale.store.shards import StoreSplit

_NAMED = 8  # molecules named in a message; the file lists all of them
_ADVICE = "The checkpoints are untouched; a lower train.learning_rate often helps"


class Incidents:
    """Checks every step of a run. All ranks reach the same decision, since they see the same numbers.

    Args:
        config: configuration of the run.
        split: the training molecules, for their names.
        ranks: this process among the others.
    """

    def __init__(self, config: PretrainConfig, split: StoreSplit, ranks: Ranks) -> None:
        self._config = config
        self._split = split
        self._ranks = ranks
        self._spikes = SpikeDetector(config.train.spike_window, config.train.spike_factor)

    def call_for_rollback(self, result: StepResult, progress: Progress, log: Teller) -> bool:
        """Report and record anything that went wrong in a step; return whether the run must go back to a checkpoint.

        Raises:
            RunError: too many steps in a row were skipped, or one more rollback would be too many.
        """
        if result.skipped:
            self._skip(result, progress, log)
            return False
        train = self._config.train
        part = "+".join(result.terms)
        if train.spikes == "ignore" or not self._spikes.observe(result.loss, part):
            return False
        log.warn(f"step {progress.step}  warning: the loss has risen suddenly, to {result.loss:.4f}")
        if train.spikes == "warn":
            return False
        if progress.rollbacks == train.max_rollbacks:
            raise RunError(
                f"the loss rose suddenly at step {progress.step}, after {progress.rollbacks} rollbacks "
                f"(train.max_rollbacks). {_ADVICE}"
            )
        return True

    def state(self) -> dict[str, list[float]]:
        """Return the state to store in a checkpoint."""
        return self._spikes.state()

    def restore(self, state: Mapping[str, Sequence[float]]) -> None:
        """Continue from a checkpoint's state."""
        train = self._config.train
        self._spikes = SpikeDetector.from_state(state, window=train.spike_window, factor=train.spike_factor)

    def _skip(self, result: StepResult, progress: Progress, log: Teller) -> None:
        ids = self._split.ids(np.array(result.suspects, dtype=np.int64))
        place = self._config.output / SKIPPED_NAME
        named = f"{', '.join(ids[:_NAMED])}{' …' if len(ids) > _NAMED else ''}"
        log.warn(
            f"step {progress.step}  skipped: the {result.what_failed} is not finite. The cause is among these "
            f"{len(ids)} molecules: {named} → {place}"
        )
        if self._ranks.is_main:
            record = {
                "step": progress.step,
                "not_finite": result.what_failed,
                "molecules": list(result.suspects),
                "ids": ids,
            }
            try:
                with place.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
            except OSError as error:
                log.warn(f"warning: {place} cannot be written: {error}")
        if progress.skipped_in_a_row >= self._config.train.max_skipped:
            raise RunError(
                f"{progress.skipped_in_a_row} steps in a row were skipped, the last at step {progress.step}, because "
                f"the {result.what_failed} was not finite; {place} names the molecules: {named}. {_ADVICE}"
            )
