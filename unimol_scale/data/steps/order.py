"""Which molecules are in step t: pure arithmetic from (number of molecules, seed, step). NumPy only.

The set of molecules of a step does not depend on the number of ranks. An epoch's order is a keyed permutation that is
evaluated on demand and never stored, so 884 million molecules cost no memory and a run resumes from one number. A
remote store is read in windows of several shards: the shards are permuted, then the molecules within each window.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from unimol_scale.data.steps.random_streams import UInt64, absorb, mix

Int64 = npt.NDArray[np.int64]

_FEISTEL_ROUNDS = 6


def permute(positions: Int64, size: int, seed: int, epoch: Int64) -> Int64:
    """Return where a random permutation of range(size) maps each position; there is one permutation per (seed, epoch).

    A balanced Feistel network permutes the next even power of two; positions that land outside are mapped again.

    Args:
        positions: [K] in [0, size).
        size: number of molecules.
        seed: seed of the run.
        epoch: [K].
    """
    half_bits = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    half = np.uint64(half_bits)
    low = np.uint64((1 << half_bits) - 1)
    start = np.full(len(positions), np.uint64(seed % 2**63), dtype=np.uint64)
    key: UInt64 = absorb(mix(start), epoch)
    value = positions.astype(np.uint64)
    outside = np.ones(len(positions), dtype=bool)
    while outside.any():
        left, right = value[outside] >> half, value[outside] & low
        for turn in range(_FEISTEL_ROUNDS):
            mixed = absorb(key[outside] + np.uint64(turn), right.astype(np.int64)) & low
            left, right = right, left ^ mixed
        value[outside] = (left << half) | right
        outside = value >= np.uint64(size)
    return value.astype(np.int64)


def global_batch(num_molecules: int, batch_size: int, seed: int, step: int) -> tuple[Int64, Int64]:
    """Return the molecules of a step and the epoch of each, both int64 [batch_size].

    Molecules come from one endless sequence of epochs, each a new permutation, so every molecule appears exactly once
    per epoch; a step may span two epochs.

    Args:
        num_molecules: molecules in the split.
        batch_size: molecules of a step over all ranks.
        seed: seed of the run.
        step: number of the step, from 0.
    """
    place = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
    epoch, position = place // num_molecules, place % num_molecules
    return permute(position, num_molecules, seed, epoch), epoch


@dataclass(frozen=True)
class _Epoch:
    """An epoch read in windows: the order of its shards and where windows begin.

    Attributes:
        shards: int64 [S], in the order of the epoch.
        starts: int64 [S + 1], the position of each shard's first molecule before windows are permuted.
        windows: int64 [W + 1], positions where windows begin, and the end.
    """

    shards: Int64
    starts: Int64
    windows: Int64


class Order:
    """Which molecules a step sees.

    Args:
        shard_rows: molecules of each shard.
        batch_size: molecules of a step over all ranks.
        seed: seed of the run.
        window: number of shards among which molecules are permuted; None: all of them.
    """

    def __init__(self, shard_rows: Sequence[int], *, batch_size: int, seed: int, window: int | None = None) -> None:
        self._rows: Int64 = np.array(shard_rows, dtype=np.int64)
        self._batch_size = batch_size
        self._seed = seed
        self._window = window
        self._epochs: dict[int, _Epoch] = {}

    @cached_property
    def num_molecules(self) -> int:
        """Molecules of an epoch."""
        return int(self._rows.sum())

    @cached_property
    def _first_molecule(self) -> Int64:
        """Number of each shard's first molecule, int64 [S]."""
        return np.cumsum(self._rows) - self._rows

    def molecules(self, step: int) -> tuple[Int64, Int64]:
        """Return the molecules of a step and the epoch of each, both int64 [batch_size].

        Every molecule appears exactly once per epoch; a step may span two epochs.
        """
        if self._window is None:
            return global_batch(self.num_molecules, self._batch_size, self._seed, step)
        place = np.arange(step * self._batch_size, (step + 1) * self._batch_size, dtype=np.int64)
        epoch, position = place // self.num_molecules, place % self.num_molecules
        molecule = np.empty_like(place)
        for number in np.unique(epoch).tolist():
            now = epoch == number
            molecule[now] = self._in_windows(self._epoch(number), number, position[now])
        return molecule, epoch

    def shards(self, step: int, count: int) -> list[int]:
        """Return the next ``count`` shards needed from a step on, in order; all shards if there are no windows."""
        if self._window is None:
            return list(range(min(len(self._rows), count)))
        number, position = divmod(step * self._batch_size, self.num_molecules)
        epoch = self._epoch(number)
        window = int(np.searchsorted(epoch.windows, position, side="right")) - 1
        start = window * self._window
        coming: list[int] = epoch.shards[start : start + count].tolist()
        if len(coming) < count:  # called at every step, so the next epoch is computed only near the end of this one
            coming = list(dict.fromkeys([*coming, *self._epoch(number + 1).shards.tolist()]))[:count]
        return coming

    def _epoch(self, number: int) -> _Epoch:
        if number not in self._epochs:
            if len(self._epochs) > 2:
                self._epochs.clear()
            S = len(self._rows)
            # The words after this one belong to the windows.
            word = np.full(S, self._word(number, 0), dtype=np.int64)
            shards = permute(np.arange(S, dtype=np.int64), S, self._seed, word)
            starts = np.concatenate([[0], np.cumsum(self._rows[shards])]).astype(np.int64)
            assert self._window is not None
            self._epochs[number] = _Epoch(shards, starts, np.unique([*starts[:: self._window], starts[-1]]))
        return self._epochs[number]

    def _word(self, epoch: int, part: int) -> int:
        return epoch * (len(self._rows) + 1) + part

    def _in_windows(self, epoch: _Epoch, number: int, position: Int64) -> Int64:
        """Return the molecules at positions [K] of an epoch."""
        window = np.searchsorted(epoch.windows, position, side="right") - 1
        place = np.empty_like(position)
        for w in np.unique(window).tolist():
            here = window == w
            first, last = int(epoch.windows[w]), int(epoch.windows[w + 1])
            word = np.full(int(here.sum()), self._word(number, w + 1), dtype=np.int64)
            place[here] = first + permute(position[here] - first, last - first, self._seed, word)
        turn = np.searchsorted(epoch.starts, place, side="right") - 1
        molecule: Int64 = self._first_molecule[epoch.shards[turn]] + place - epoch.starts[turn]
        return molecule


class InOrder:
    """All molecules once, in order; the last step takes the rest.

    Args:
        num_molecules: number of molecules.
        batch_size: molecules of a step.
    """

    def __init__(self, num_molecules: int, batch_size: int) -> None:
        self._num_molecules = num_molecules
        self._batch_size = batch_size

    @property
    def num_steps(self) -> int:
        """Number of steps that cover all molecules."""
        return -(-self._num_molecules // self._batch_size)

    def molecules(self, step: int) -> tuple[Int64, Int64]:
        """Return the molecules of a step and epoch 0 for each, both int64 [batch_size, or what is left]."""
        start = step * self._batch_size
        molecule = np.arange(start, min(start + self._batch_size, self._num_molecules), dtype=np.int64)
        return molecule, np.zeros_like(molecule)

    def shards(self, step: int, count: int) -> list[int]:
        """Return []: what is read in this order needs no prefetching."""
        return []
