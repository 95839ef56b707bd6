"""Saves this rank's share of a run while the run goes on: a copy to host memory, then a thread that writes.

``start`` is the only part that holds the step loop up. What becomes of the save is read from ``state``; when all ranks
have ``WRITTEN`` (the trainer's vote), all call ``publish``, and when one has ``FAILED`` and none is writing any more,
all call ``discard``. A disk that is full or refuses never raises into the step loop.
"""

import contextlib
import enum
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unimol_scale.checkpoints.run import publish
from unimol_scale.checkpoints.run.publish import CheckpointInfo, Room
from unimol_scale.checkpoints.run.shares import Fragment, remove_share, write_share
from unimol_scale.errors import CheckpointError


class SaveState(enum.Enum):
    """What became of the last save on this rank; ``IDLE``: there is none to be decided on."""

    IDLE = enum.auto()
    WRITING = enum.auto()
    WRITTEN = enum.auto()
    FAILED = enum.auto()


class Saver:
    """Writes the shares of one rank, one save at a time.

    The copy takes as much host memory as the share: 12 bytes for each parameter that the rank owns (16 with averaged
    weights), kept for the next save; beside a GPU it is page-locked, which torch rounds up to a power of two.

    Args:
        root: the run's checkpoints folder, on a file system that all ranks share.
        rank: of this process.
        world_size: number of ranks.
        synchronous: write from the fragments themselves, without a copy; ``start`` then returns when all is written.

    Attributes:
        step: of the save in hand, or of the last.
        error: why the last save failed; empty if it did not.
        copy_seconds: how long the last ``start`` held the step loop up for the copy; 0 without one.
        write_seconds: how long the last share took to write, as soon as it is written.
        written_bytes: size of the last share.
        room: what the checkpoints take, as of the last ``publish`` that succeeded; on rank 0 only.
    """

    def __init__(self, root: Path, rank: int, world_size: int, *, synchronous: bool = False) -> None:
        self._root = root
        self._rank = rank
        self._world_size = world_size
        self._synchronous = synchronous
        self._buffer = torch.empty(0)
        self._state = SaveState.IDLE
        self._thread: threading.Thread | None = None
        self._defect: Exception | None = None
        self.step = 0
        self.error = ""
        self.copy_seconds = 0.0
        self.write_seconds = 0.0
        self.written_bytes = 0
        self.room: Room | None = None

    @property
    def state(self) -> SaveState:
        """How far the save is on this rank. An error that is no file system's is a mistake in the program: raised."""
        if self._defect is not None:
            raise self._defect
        return self._state

    def start(self, step: int, fragments: Sequence[Fragment]) -> None:
        """Save the state after ``step`` steps; the fragments may change as soon as this returns.

        The save before must have been published or discarded.
        """
        assert self.state is SaveState.IDLE, f"the save of step {self.step} is not decided yet"
        self._join()
        self.step, self.error, self.write_seconds, self.written_bytes = step, "", 0.0, 0
        begun = time.perf_counter()
        copies = fragments if self._synchronous else self._copy(fragments)
        self.copy_seconds = 0.0 if self._synchronous else time.perf_counter() - begun
        self._state = SaveState.WRITING
        if self._synchronous:
            self._write(copies)
        else:
            self._run(lambda: self._write(copies))

    def wait(self) -> SaveState:
        """Wait until nothing is being written; return the state."""
        self._join()
        return self.state

    def publish(self, meta: Mapping[str, Any], *, keep: int, keep_best: bool = False) -> CheckpointInfo | None:
        """Make the save a checkpoint; all ranks call it when all have ``WRITTEN``, rank 0 does it.

        Args:
            meta: recorded with it, as JSON can hold it; ``validation_loss`` decides which is the best.
            keep: how many of the newest to keep; further ones are deleted in the background.
            keep_best: whether to keep the best one too.

        Returns:
            The checkpoint, on rank 0 if it succeeded. None on rank 0 means that ``error`` says why it did not; older
            checkpoints are as they were and the next save starts afresh.
        """
        assert self.wait() is SaveState.WRITTEN, f"the save of step {self.step} is {self.state.name}"
        self._state = SaveState.IDLE
        if self._rank != 0:
            return None
        info = None
        try:
            info = publish.publish(self._root, self.step, self._world_size, meta)
            self.room = publish.prune(info, keep, keep_best=keep_best)
        except (OSError, CheckpointError) as error:
            self.error = str(error)
            with contextlib.suppress(OSError):
                publish.set_aside(publish.temporary_folder(self._root, self.step))
        self._run(lambda: publish.sweep(self._root))
        return info

    def discard(self) -> None:
        """Give the save up and remove what this rank wrote; all ranks call it when none is writing any more."""
        self.wait()
        self._state = SaveState.IDLE
        folder = publish.temporary_folder(self._root, self.step)
        with contextlib.suppress(OSError):  # the disk that refused may refuse this too: the next session clears it
            remove_share(folder, self._rank, self._world_size)
            folder.rmdir()  # by whoever is last; not empty for the others

    def _copy(self, fragments: Sequence[Fragment]) -> list[Fragment]:
        """Return the fragments in host memory that is kept for the next time."""
        tensors = [tensor for fragment in fragments for tensor in fragment.states.values()]
        total = sum(len(tensor) for tensor in tensors)
        on_gpu = any(tensor.is_cuda for tensor in tensors)
        if len(self._buffer) != total:
            self._buffer = torch.empty(0)  # the old one goes before the new one comes
            self._buffer = torch.empty(total, pin_memory=on_gpu)
        copies, offset = [], 0
        for fragment in fragments:
            states: dict[str, Tensor] = {}
            for kind, tensor in fragment.states.items():
                states[kind] = self._buffer[offset : offset + len(tensor)]
                states[kind].copy_(tensor.detach(), non_blocking=True)
                offset += len(tensor)
            copies.append(Fragment(name=fragment.name, start=fragment.start, states=states))
        if on_gpu:
            torch.cuda.synchronize()
        return copies

    def _write(self, fragments: Sequence[Fragment]) -> None:
        begun = time.perf_counter()
        folder = publish.temporary_folder(self._root, self.step)
        try:
            entry = write_share(folder, self._rank, self._world_size, fragments)
        except OSError as error:
            self.error = str(error)
            self._state = SaveState.FAILED
        else:
            self.written_bytes = entry.bytes
            self.write_seconds = time.perf_counter() - begun
            self._state = SaveState.WRITTEN  # last: whoever reads it may read the rest

    def _run(self, work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                work()
            except Exception as defect:  # raised where it is looked at, in the step loop
                self._defect = defect

        self._join()
        self._thread = threading.Thread(target=guarded, name="saver", daemon=True)
        self._thread.start()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
