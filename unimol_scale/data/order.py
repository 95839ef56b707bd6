"""Who is in step t: pure arithmetic from (sizes, seed, step) to molecules, micro-batches and ranks. NumPy only.

The set of molecules of a step does not depend on the number of ranks; an epoch's order is a keyed permutation that is
evaluated where it is needed and never stored, so that 884 million molecules cost nothing and resuming is a number.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unimol_scale.data.streams import UInt64, absorb, mix
from unimol_scale.errors import ConfigError

Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]

_FEISTEL_ROUNDS = 6


def permute(positions: Int64, size: int, seed: int, epoch: Int64) -> Int64:
    """Return where a random permutation of range(size) sends each position; one permutation per (seed, epoch).

    A balanced Feistel network permutes the next even power of two; positions that land outside walk on until inside.

    Args:
        positions: [K] in [0, size).
        size: number of molecules.
        seed: of the run.
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
    """Return the molecules of a step and the epoch at which each is seen, both int64 [batch_size].

    Molecules are taken from one endless sequence of epochs, each a new permutation, so every molecule appears exactly
    once an epoch; a step may straddle two.

    Args:
        num_molecules: in the split.
        batch_size: global, in molecules.
        seed: of the run.
        step: from 0.
    """
    place = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
    epoch, position = place // num_molecules, place % num_molecules
    return permute(position, num_molecules, seed, epoch), epoch


@dataclass(frozen=True, kw_only=True)
class MicroBatchPlan:
    """How a global batch is cut: ``members[m]`` are positions in the batch; micro-batch m runs on rank m % ranks.

    Every rank runs the same number of micro-batches, or ZeRO-3 would hang. A batch that does not divide among the ranks
    leaves some with one too few; these run a filler whose result does not count. Training batches always divide.

    Attributes:
        members: equal-cost micro-batches, larger molecules last.
        world_size: number of ranks.
    """

    members: tuple[Int64, ...]
    world_size: int

    @property
    def per_rank(self) -> int:
        """Micro-batches that every rank runs."""
        return -(-len(self.members) // self.world_size)

    def num_counted(self, rank: int) -> int:
        """Return how many of a rank's micro-batches count; the rest are fillers."""
        return len(self.members[rank :: self.world_size])

    def of_rank(self, rank: int) -> tuple[Int64, ...]:
        """Return the micro-batches of one rank, in the order they run, fillers last."""
        share = self.members[rank :: self.world_size]
        return share + self.members[:1] * (self.per_rank - len(share))


def pair_cost(num_atoms: Int32, count: int) -> int:
    """Return the padded pairs Σ(n+1)² of ``count`` molecules padded to the largest of ``num_atoms``."""
    return count * (int(num_atoms.max()) + 1) ** 2


def plan_micro_batches(num_atoms: Int32, world_size: int, max_pairs: int) -> MicroBatchPlan:
    """Cut a global batch into micro-batches of near-equal padded pair cost under a budget.

    The batch is sorted by size; among all contiguous cuts into the least number of micro-batches that fits the budget
    and divides among the ranks, the one with the smallest largest cost is taken.

    Args:
        num_atoms: [G] atoms of each molecule.
        world_size: ranks.
        max_pairs: most padded pairs Σ(n+1)² of one micro-batch, virtual node included.

    Raises:
        ConfigError: the largest molecule alone exceeds the budget.
    """
    largest = (int(num_atoms.max()) + 1) ** 2
    if largest > max_pairs:
        raise ConfigError(
            f"a molecule of {int(num_atoms.max())} atoms needs {largest} pairs, more than data.max_pairs {max_pairs}; "
            "raise data.max_pairs or build the store with fewer atoms a molecule"
        )
    order = np.argsort(num_atoms, kind="stable").astype(np.int64)
    cost = (num_atoms[order].astype(np.int64) + 1) ** 2
    fewest = len(_cut(cost, max_pairs))
    wanted = min(-(-fewest // world_size) * world_size, len(order))
    low, high = largest, max_pairs
    while low < high:
        middle = (low + high) // 2
        if len(_cut(cost, middle)) <= wanted:
            high = middle
        else:
            low = middle + 1
    bounds = _cut(cost, low)
    while len(bounds) < wanted:
        bounds = _split_costliest(bounds, cost)
    return MicroBatchPlan(members=tuple(order[a:b] for a, b in bounds), world_size=world_size)


def _cut(cost: Int64, limit: int) -> list[tuple[int, int]]:
    """Cut the sorted molecules from the largest down, each micro-batch as full as the limit lets it be."""
    bounds = []
    end = len(cost)
    while end > 0:
        start = max(0, end - int(limit // cost[end - 1]))
        bounds.append((start, end))
        end = start
    return bounds[::-1]


def _split_costliest(bounds: list[tuple[int, int]], cost: Int64) -> list[tuple[int, int]]:
    """Halve the micro-batch of the largest cost that has more than one molecule."""
    worst = max(
        (i for i, (a, b) in enumerate(bounds) if b - a > 1),
        key=lambda i: (bounds[i][1] - bounds[i][0]) * cost[bounds[i][1] - 1],
    )
    a, b = bounds[worst]
    middle = (a + b) // 2
    return [*bounds[:worst], (a, middle), (middle, b), *bounds[worst + 1 :]]
