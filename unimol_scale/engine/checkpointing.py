"""Finds and saves the checkpoints of a run on all ranks: saved in the background, published by a vote of the ranks."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unimol_scale.checkpoints.run.checkpoint_folder import (
    CheckpointInfo,
    delete_leftovers,
    delete_marked,
    newest_valid,
    prune,
)
from unimol_scale.checkpoints.run.saver import Saver, SaveState
from unimol_scale.checkpoints.run.shares import OPTIMIZER_KINDS, Fragment, ShareReader
from unimol_scale.engine.log.sinks import Teller
from unimol_scale.engine.parallel.ranks import Ranks
from unimol_scale.engine.run.train_config import TrainConfig
from unimol_scale.errors import CheckpointError

_WRITTEN, _FAILED = "save_written", "save_failed"
_ALL = 1_000_000_000


class RunCheckpoints:
    """Finds and saves checkpoints. Every rank calls the same methods in the same order.

    A save is complete when all ranks have written their shares. They report this in the vote that every step takes
    anyway, so that no rank waits for the others: ``ballot`` goes into the vote, and ``settle`` receives its result.

    Args:
        root: the run's checkpoints folder, on a file system that all ranks share.
        ranks: this process among the others.
        config: how many checkpoints to keep, and how to save them.
    """

    def __init__(self, root: Path, ranks: Ranks, config: TrainConfig) -> None:
        self._root = root
        self._ranks = ranks
        self._keep = config.keep_checkpoints
        self._keep_steps = frozenset(config.keep_steps)
        self._keep_finished = {"all": _ALL, "last": 1, "none": 0}[config.keep_finished]
        self._saver = Saver(root, ranks.rank, ranks.world_size, synchronous=not config.save_in_background)
        self._meta: Mapping[str, Any] | None = None  # metadata of the current save; None if there is none

    def find(self, warn: Callable[[str], None]) -> CheckpointInfo | None:
        """Return the newest intact checkpoint, verified by rank 0, and delete leftovers of killed sessions.

        Raises:
            CheckpointError: there are checkpoints, but none is intact.
        """
        assert self._meta is None, "a save is in progress"

        def newest() -> CheckpointInfo | None:
            found, problems = newest_valid(self._root)
            delete_leftovers(self._root)
            for problem in problems:
                warn(f"warning: skipped a damaged checkpoint: {problem}")
            return found

        return self.look_up(newest)

    def look_up(self, look: Callable[[], CheckpointInfo | None]) -> CheckpointInfo | None:
        """Return, on every rank, what rank 0 finds.

        Raises:
            CheckpointError: raised by rank 0's search, or the file system fails.
        """
        found: CheckpointInfo | None = None
        error = ""
        if self._ranks.is_main:
            try:
                found = look()
            except (CheckpointError, OSError) as refused:
                error = str(refused)
        found, error = self._ranks.gather((found, error))[0]
        if error:
            raise CheckpointError(error)
        return found

    def start_save(self, step: int, fragments: Sequence[Fragment], meta: Mapping[str, Any], log: Teller) -> None:
        """Start to save the state after ``step`` steps; wait only if the previous save is still being written."""
        self.finish_save(log)
        self._saver.start(step, fragments)
        self._meta = meta

    def ballot(self) -> dict[str, float]:
        """Return the state of the current save on this rank, to be summed over all ranks."""
        state = self._saver.state
        return {_WRITTEN: float(state is SaveState.WRITTEN), _FAILED: float(state is SaveState.FAILED)}

    def settle(self, votes: Mapping[str, float], log: Teller) -> bool:
        """Publish the save if every rank has written its share, drop it if one failed; return whether it failed.

        After a failed save the run continues, and the older checkpoints are unchanged.

        Args:
            votes: sum of the ballots of all ranks.
            log: receives the result.
        """
        if self._meta is None or votes[_WRITTEN] + votes[_FAILED] < self._ranks.world_size:
            return False
        meta, step, error = self._meta, self._saver.step, ""
        self._meta = None
        if votes[_FAILED]:
            errors = self._ranks.gather(self._saver.error)
            self._saver.discard()
            error = next(text for text in errors if text)
        else:
            self._saver.publish(meta, keep=self._keep, keep_best=True, keep_steps=self._keep_steps)
            error = self._ranks.gather(self._saver.error)[0]
        if error:
            log.warn(f"step {step}  warning: the checkpoint could not be saved; the run continues without it: {error}")
        else:
            usage = self._saver.disk_usage
            log.say(
                f"step {step}  checkpoint saved ({self._saver.copy_seconds:.2f} s to copy, "
                f"{self._saver.write_seconds:.2f} s to write{f'; {usage.describe()}' if usage else ''})"
            )
        return bool(error)

    def finish_save(self, log: Teller) -> bool:
        """Wait for the current save, if there is one, and settle it; return whether it failed."""
        if self._meta is None:
            return False
        self._saver.wait()
        return self.settle(self._ranks.sum(self.ballot()), log)

    def join(self) -> None:
        """Wait until this rank has stopped writing; a save in progress is not published."""
        self._saver.join()

    def drop_save(self, log: Teller) -> None:
        """Wait for the current save, if there is one, and delete it, since its weights may have caused the failure."""
        if self._meta is None:
            return
        self._saver.wait()
        self._ranks.barrier()  # until all ranks have stopped writing
        self._saver.discard()
        self._meta = None
        log.warn(f"step {self._saver.step}  the checkpoint is not published, since only skipped steps came after it")

    def prune_finished(self, last: CheckpointInfo, log: Teller) -> None:
        """Keep only the checkpoints of a finished run that its settings ask for; only rank 0 calls this."""
        share = _optimizer_share(last.path)  # equal for all checkpoints; read now, since this one may be deleted
        try:
            usage = prune(last, self._keep_finished, keep_best=True, keep_steps=self._keep_steps)
        except OSError as error:  # the run is finished anyway
            log.warn(f"warning: checkpoints that are no longer needed cannot be deleted: {error}")
            return
        delete_marked(self._root)
        states = f", {100.0 * share:.0f} % of it optimizer states" if usage.kept else ""
        log.say(f"checkpoints of the finished run: {usage.describe(states)} (train.keep_finished)")


def _optimizer_share(checkpoint: Path) -> float:
    """Return the share of a checkpoint's elements that are optimizer states."""
    reader = ShareReader(checkpoint)
    elements = {kind: reader.elements(kind) for kind in reader.kinds}
    return sum(elements[kind] for kind in elements.keys() & OPTIMIZER_KINDS) / sum(elements.values())
