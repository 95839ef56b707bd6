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

    A save is complete when all ranks have written their shares. They report it in the vote that every step takes
    anyway, so no rank waits for the others: ``ballot`` goes into the vote, and ``settle`` takes its result.

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
        self._meta: Mapping[str, Any] | None = None  # of the current save; None without one

    def find(self, warn: Callable[[str], None]) -> CheckpointInfo | None:
        """Return the newest intact checkpoint, verified by rank 0, and delete what killed sessions left behind.

        Raises:
            CheckpointError: there are checkpoints and none is intact.
        """
        assert self._meta is None, "a save is going on"

        def newest() -> CheckpointInfo | None:
            found, problems = newest_valid(self._root)
            delete_leftovers(self._root)
            for problem in problems:
                warn(f"warning: skipped a damaged checkpoint: {problem}")
            return found

        return self.look_up(newest)

    def look_up(self, look: Callable[[], CheckpointInfo | None]) -> CheckpointInfo | None:
        """Return what rank 0 finds, on every rank.

        Raises:
            CheckpointError: rank 0 does, or the file system refuses.
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
        """Start to save the state after ``step`` steps; waits only if the previous save is still being written."""
        self.finish_save(log)
        self._saver.start(step, fragments)
        self._meta = meta

    def ballot(self) -> dict[str, float]:
        """Return the state of the current save on this rank, to be summed over all ranks."""
        state = self._saver.state
        return {_WRITTEN: float(state is SaveState.WRITTEN), _FAILED: float(state is SaveState.FAILED)}

    def settle(self, votes: Mapping[str, float], log: Teller) -> bool:
        """Publish the save if every rank has written its share, drop it if one failed; return whether it failed.

        After a failed save the run goes on, and the older checkpoints are as they were.

        Args:
            votes: sum of the ballots of all ranks.
            log: is told the result.
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
            log.warn(f"step {step}  warning: the checkpoint could not be saved, the run goes on without it: {error}")
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
        """Wait until this rank writes nothing any more; a save in hand is not published."""
        self._saver.join()

    def drop_save(self, log: Teller) -> None:
        """Wait for the current save, if there is one, and delete it: its weights may be the cause of the failure."""
        if self._meta is None:
            return
        self._saver.wait()
        self._ranks.barrier()  # no rank is writing any more
        self._saver.discard()
        self._meta = None
        log.warn(f"step {self._saver.step}  the checkpoint is not published, since only skipped steps came after it")

    def prune_finished(self, last: CheckpointInfo, log: Teller) -> None:
        """Keep the checkpoints of a finished run that its settings name; only rank 0 calls this."""
        share = _optimizer_share(last.path)  # of which all have the same; this one may be gone then
        try:
            usage = prune(last, self._keep_finished, keep_best=True, keep_steps=self._keep_steps)
        except OSError as error:  # the run is finished nevertheless
            log.warn(f"warning: checkpoints that are not wanted any more cannot be deleted: {error}")
            return
        delete_marked(self._root)
        states = f", {100.0 * share:.0f} % of it optimizer states" if usage.kept else ""
        log.say(f"checkpoints of the finished run: {usage.describe(states)} (train.keep_finished)")


def _optimizer_share(checkpoint: Path) -> float:
    """Return which share of a checkpoint's elements are states of the optimizer."""
    reader = ShareReader(checkpoint)
    elements = {kind: reader.elements(kind) for kind in reader.kinds}
    return sum(elements[kind] for kind in elements.keys() & OPTIMIZER_KINDS) / sum(elements.values())
