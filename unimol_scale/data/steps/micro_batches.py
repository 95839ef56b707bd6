"""Cuts a global batch into micro-batches and assigns them to ranks: pure arithmetic on sizes. NumPy only.

A micro-batch is padded to its largest molecule and costs count · (largest + 1)² pairs, virtual node included. Shapes: G
molecules in the batch, C places where the sorted batch may be cut.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unimol_scale.errors import ConfigError

Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Float64 = npt.NDArray[np.float64]
Bounds = list[tuple[int, int]]

# Number of candidate places for cuts, chosen so that the search takes a few milliseconds.
_PLACES = 128
# A batch cut into more micro-batches than this has nearly equal sizes in each, so a search gains nothing.
_MOST_SEARCHED = 128
# Candidate limits for the cost of one micro-batch, as multiples of the lowest possible; several ranks use the best one.
# A low limit balances the ranks, a high one needs less padding.
_LIMITS = (1.0, 1.1, 1.25, 1.5)


@dataclass(frozen=True, kw_only=True)
class MicroBatchPlan:
    """How a global batch is cut: ``members[m]`` are positions in the batch; micro-batch m runs on rank m % world_size.

    Every rank runs the same number of micro-batches, or ZeRO-3 would hang. If a batch does not divide among the ranks,
    some have one too few and run a filler whose result does not count. Training batches always divide.

    Attributes:
        members: micro-batches. Those that run at the same time have similar cost, and costlier ones come later.
        world_size: number of ranks.
    """

    members: tuple[Int64, ...]
    world_size: int

    @property
    def per_rank(self) -> int:
        """Number of micro-batches that every rank runs."""
        return -(-len(self.members) // self.world_size)

    def num_counted(self, rank: int) -> int:
        """Return how many of a rank's micro-batches count; the others are fillers."""
        return len(self.members[rank :: self.world_size])

    def of_rank(self, rank: int) -> tuple[Int64, ...]:
        """Return the micro-batches of one rank, in the order they run, fillers last."""
        share = self.members[rank :: self.world_size]
        return share + self.members[:1] * (self.per_rank - len(share))


def pair_cost(num_atoms: Int32, count: int) -> int:
    """Return the padded pairs Σ(n+1)² of ``count`` molecules that are padded to the largest of ``num_atoms``."""
    return count * (int(num_atoms.max()) + 1) ** 2


def check_budget(largest: int, max_pairs: int, setting: str = "data.max_pairs") -> None:
    """Refuse a budget that is too small for one molecule of ``largest`` atoms.

    Args:
        largest: atoms of the largest molecule.
        max_pairs: the budget, in padded pairs.
        setting: the name of the budget's setting, for the message.

    Raises:
        ConfigError: the message names both.
    """
    if (largest + 1) ** 2 > max_pairs:
        raise ConfigError(
            f"a molecule of {largest} atoms needs {(largest + 1) ** 2} pairs, more than {setting} {max_pairs}; raise "
            f"{setting} or build the store with smaller molecules (curate.max_atoms)"
        )


def plan_micro_batches(num_atoms: Int32, world_size: int, max_pairs: int) -> MicroBatchPlan:
    """Cut a global batch into micro-batches within a budget, such that the ranks together compute the fewest pairs.

    The batch is sorted by size and cut into the smallest number of micro-batches that fits the budget and divides among
    the ranks. Ranks wait for one another, so the cost of a cut is the sum, over turns, of the costliest of the
    micro-batches that run at the same time; it covers both padding and waiting.

    Args:
        num_atoms: [G] atoms of each molecule.
        world_size: ranks.
        max_pairs: upper limit on the padded pairs Σ(n+1)² of one micro-batch, virtual node included.

    Raises:
        ConfigError: the largest molecule alone exceeds the budget.
    """
    check_budget(int(num_atoms.max()), max_pairs)
    order = np.argsort(num_atoms, kind="stable").astype(np.int64)
    cost_G = (num_atoms[order].astype(np.int64) + 1) ** 2
    wanted = min(-(-len(_fill(cost_G, max_pairs)) // world_size) * world_size, len(order))
    lowest, bounds = _even(cost_G, wanted, max_pairs)
    if wanted <= _MOST_SEARCHED:
        limits = {max_pairs} if world_size == 1 else {min(int(lowest * f), max_pairs) for f in _LIMITS} | {max_pairs}
        found = _cheapest(cost_G, bounds, sorted(limits))
        bounds = min([bounds, *found], key=lambda cut: _time(cut, cost_G, world_size))
    bounds = sorted(bounds, key=lambda bound: _cost(bound, cost_G))
    # Every other turn is dealt in reverse, so that no rank gets the costlier micro-batch each time.
    dealt = [
        bound
        for turn, start in enumerate(range(0, len(bounds), world_size))
        for bound in bounds[start : start + world_size][:: -1 if turn % 2 else 1]
    ]
    return MicroBatchPlan(members=tuple(order[a:b] for a, b in dealt), world_size=world_size)


def _cost(bound: tuple[int, int], cost_G: Int64) -> int:
    return int((bound[1] - bound[0]) * cost_G[bound[1] - 1])


def _time(bounds: Bounds, cost_G: Int64, world_size: int) -> int:
    """Return Σ over turns of the costliest micro-batch of the turn."""
    costs = sorted((_cost(bound, cost_G) for bound in bounds), reverse=True)
    return sum(costs[::world_size])


def _even(cost_G: Int64, wanted: int, max_pairs: int) -> tuple[int, Bounds]:
    """Return the lowest limit with which ``wanted`` micro-batches suffice, and a cut into that many within it."""
    low, high = int(cost_G[-1]), max_pairs
    while low < high:
        middle = (low + high) // 2
        if len(_fill(cost_G, middle)) <= wanted:
            high = middle
        else:
            low = middle + 1
    bounds = _fill(cost_G, low)
    while len(bounds) < wanted:
        bounds = _split_costliest(bounds, cost_G)
    return low, bounds


def _fill(cost_G: Int64, limit: int) -> Bounds:
    """Cut the sorted molecules from the largest down, filling each micro-batch up to the limit."""
    bounds = []
    end = len(cost_G)
    while end > 0:
        start = max(0, end - int(limit // cost_G[end - 1]))
        bounds.append((start, end))
        end = start
    return bounds[::-1]


def _split_costliest(bounds: Bounds, cost_G: Int64) -> Bounds:
    """Halve the costliest micro-batch that has more than one molecule."""
    worst = max(
        (i for i, (a, b) in enumerate(bounds) if b - a > 1),
        key=lambda i: _cost(bounds[i], cost_G),
    )
    a, b = bounds[worst]
    middle = (a + b) // 2
    return [*bounds[:worst], (a, middle), (middle, b), *bounds[worst + 1 :]]


def _cheapest(cost_G: Int64, known: Bounds, limits: list[int]) -> list[Bounds]:
    """Return, for each limit, the cheapest cut into as many micro-batches as ``known``, which obeys every limit.

    Uses dynamic programming over candidate places: where the size changes (without a limit the best cut lies there), at
    equal distances, and where ``known`` cuts. Of equally cheap cuts, the one with the lower places wins.
    """
    changes = np.flatnonzero(np.diff(cost_G)) + 1
    even = np.arange(0, len(cost_G), max(1, len(cost_G) // _PLACES))
    place_C = np.unique(np.concatenate([[0, len(cost_G)], changes, even, [end for _, end in known]])).astype(np.int64)
    each_C = cost_G[place_C - 1]
    return [_cheapest_under(limit, place_C, each_C, len(known)) for limit in limits]


def _cheapest_under(limit: int, place_C: Int64, each_C: Int64, rounds: int) -> Bounds:
    """Return the cheapest cut into ``rounds`` micro-batches, none of which costs more than ``limit``.

    Only reachable states are visited: a micro-batch that ends at a place begins at most W places before it, and a place
    counts in a round only if that many micro-batches can end there and the remaining ones can reach the end.

    Args:
        limit: upper limit on the padded pairs of a micro-batch.
        place_C: [C] where the sorted molecules may be cut, from 0 to their number.
        each_C: [C] padded pairs per molecule in a micro-batch that ends at the place.
        rounds: number of micro-batches.
    """
    C = len(place_C)
    # The first place at which a micro-batch ending here may begin within the limit; it rises from place to place.
    first_C = np.minimum(np.searchsorted(place_C, place_C - limit // each_C), np.arange(C))
    first_C[0] = 0
    W = int((np.arange(C) - first_C).max())
    start_CW = np.arange(C)[:, None] + np.arange(-W, 0)[None, :]
    cost_CW = ((place_C[:, None] - place_C[start_CW]) * each_C[:, None]).astype(np.float64)
    cost_CW[start_CW < first_C[:, None]] = np.inf
    # [R + 1, W + C], of which the W columns before the first place are never reached.
    best_RC = np.full((rounds + 1, W + C), np.inf)
    best_RC[0, W] = 0.0
    before_RCW = np.lib.stride_tricks.sliding_window_view(best_RC, W, axis=1)
    came_from = []
    for turn, (low, high) in enumerate(_corridor(first_C, rounds)):
        reached_CW = before_RCW[turn, low : high + 1] + cost_CW[low : high + 1]
        step_C = reached_CW.argmin(axis=1)
        best_RC[turn + 1, W + low : W + high + 1] = reached_CW[np.arange(len(step_C)), step_C]
        came_from.append((low, step_C - W))
    assert np.isfinite(best_RC[-1, -1]), "the known cut obeys the limit"
    bounds, end = [], C - 1
    for low, back_C in reversed(came_from):
        start = end + int(back_C[end - low])
        bounds.append((int(place_C[start]), int(place_C[end])))
        end = start
    return bounds[::-1]


def _corridor(first_C: Int64, rounds: int) -> list[tuple[int, int]]:
    """Return, for each round, the lowest and highest place where a micro-batch of a complete cut may end."""
    end = len(first_C) - 1
    highest, lowest = [0], [end]
    for _ in range(rounds):
        highest.append(int(np.searchsorted(first_C, highest[-1], side="right")) - 1)
        lowest.append(int(first_C[lowest[-1]]))
    return [(max(1, low), high) for low, high in zip(lowest[-2::-1], highest[1:], strict=True)]
