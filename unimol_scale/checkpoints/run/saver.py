"""Saves this rank's share of a run in the background: copies it to host memory, and writes the copy in a thread.

Only the copy in ``start`` delays the step loop. ``state`` is the progress of the save. When all ranks are ``WRITTEN``
(the trainer collects their states), all call ``publish``. When a rank has ``FAILED`` and no rank is writing any more,
all call ``discard``. A full or failing disk never raises an error in the step loop.
"""

import contextlib
import enum
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unimol_scale.checkpoints.run import checkpoint_folder
from unimol_scale.checkpoints.run.checkpoint_folder import CheckpointInfo, DiskUsage
from unimol_scale.checkpoints.run.shares import Fragment, remove_share, write_share
from unimol_scale.errors import CheckpointError


class SaveState(enum.Enum):
    """State of the save on this rank; ``IDLE`` means that no save waits to be published or discarded."""

    IDLE = enum.auto()
    WRITING = enum.auto()
    WRITTEN = enum.auto()
    FAILED = enum.auto()


class Saver:
    """Writes the shares of one rank, one save at a time.

    The copy needs as much host memory as the share: 12 bytes per parameter that the rank owns, 16 with averaged
    weights. The next save reuses its buffer. With a GPU the buffer is page-locked, and torch rounds its size up to a
    power of two.

    Args:
        root: the run's checkpoints folder, on a file system that all ranks share.
        rank: rank of this process.
        world_size: number of ranks.
        synchronous: write before ``start`` returns, without a copy.

    Attributes:
        step: step of the current save, or of the last one.
        error: why the last save failed; empty if it did not.
        copy_seconds: duration of the last copy; 0 without a copy.
        write_seconds: duration of writing the last share, set once it is written.
        written_bytes: size of the last share, set once it is written.
        disk_usage: disk usage of the checkpoints after the last successful ``publish``; only on rank 0.
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
        self.disk_usage: DiskUsage | None = None

    @property
    def state(self) -> SaveState:
        """State of the save on this rank. An error that is not one of the file system is a bug, and is raised here."""
        if self._defect is not None:
            raise self._defect
        return self._state

    def start(self, step: int, fragments: Sequence[Fragment]) -> None:
        """Start to save the state after ``step`` steps; the fragments may be modified as soon as this returns.

        The previous save must have been published or discarded.
        """
        assert self.state is SaveState.IDLE, f"the save of step {self.step} is not decided yet"
        self.join()
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
        self.join()
        return self.state

    def publish(
        self, meta: Mapping[str, Any], *, keep: int, keep_best: bool = False, keep_steps: Collection[int] = ()
    ) -> CheckpointInfo | None:
        """Publish the save as a checkpoint. All ranks call this when all are ``WRITTEN``; rank 0 does the work.

        Args:
            meta: records to store in the manifest, as JSON can represent them; ``validation_loss`` determines the best
                checkpoint.
            keep: number of newest checkpoints to keep; older ones are deleted in the background.
            keep_best: whether to keep the best checkpoint as well.
            keep_steps: steps whose checkpoints are kept as well.

        Returns:
            The checkpoint on rank 0, None on the others. None on rank 0 means that publishing failed, and ``error``
            says why; older checkpoints are unchanged, and the next save is not affected.
        """
        assert self.wait() is SaveState.WRITTEN, f"the save of step {self.step} is {self.state.name}"
        self._state = SaveState.IDLE
        if self._rank != 0:
            return None
        info = None
        try:
            info = checkpoint_folder.publish(self._root, self.step, self._world_size, meta)
            self.disk_usage = checkpoint_folder.prune(info, keep, keep_best=keep_best, keep_steps=keep_steps)
        except (OSError, CheckpointError) as error:
            self.error = str(error)
            with contextlib.suppress(OSError):
                checkpoint_folder.mark_deleted(checkpoint_folder.temporary_folder(self._root, self.step))
        self._run(lambda: checkpoint_folder.delete_marked(self._root))
        return info

    def discard(self) -> None:
        """Delete what this rank wrote for the save. All ranks call this when no rank is writing any more."""
        self.wait()
        self._state = SaveState.IDLE
        folder = checkpoint_folder.temporary_folder(self._root, self.step)
        with contextlib.suppress(OSError):  # the disk may fail here too; the next session deletes the rest
            remove_share(folder, self._rank, self._world_size)
            folder.rmdir()  # succeeds on the last rank; on the others the folder is not empty

    def _copy(self, fragments: Sequence[Fragment]) -> list[Fragment]:
        """Copy the fragments into a buffer in host memory, which the next save reuses."""
        tensors = [tensor for fragment in fragments for tensor in fragment.states.values()]
        total = sum(len(tensor) for tensor in tensors)
        on_gpu = any(tensor.is_cuda for tensor in tensors)
        if len(self._buffer) != total:
            self._buffer = torch.empty(0)  # free the old one before the new one is allocated
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
        folder = checkpoint_folder.temporary_folder(self._root, self.step)
        try:
            entry = write_share(folder, self._rank, self._world_size, fragments)
        except OSError as error:
            self.error = str(error)
            self._state = SaveState.FAILED
        else:
            self.written_bytes = entry.bytes
            self.write_seconds = time.perf_counter() - begun
            self._state = SaveState.WRITTEN  # set last, because readers rely on the values above once they see it

    def _run(self, work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                work()
            except Exception as defect:  # raised in the step loop, by ``state``
                self._defect = defect

        self.join()
        self._thread = threading.Thread(target=guarded, name="saver", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until nothing is being written, whether or not the write succeeds."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
