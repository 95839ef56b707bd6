"""Which molecules a step sees and how they are cut into micro-batches: pure, and cached until the step is done.

What is read, and in which order, are interfaces: a whole split is one case, selected rows of it another.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from unimol_scale.data.batch import MoleculeBatch
from unimol_scale.data.steps.buckets import Buckets
from unimol_scale.data.steps.micro_batches import Int32, Int64, MicroBatchPlan, check_budget, plan_micro_batches
from unimol_scale.data.steps.random_streams import MoleculeKeys

# Molecules of a step [G], their epochs [G], and their micro-batches.
StepPlan = tuple[Int64, Int64, MicroBatchPlan]
# How many coming shards are announced to the background thread; it downloads as many as the cache holds.
SHARDS_AHEAD = 1024


class Reader(Protocol):
    """Molecules, numbered from 0, that can be read as padded batches. Instances are pickled to loader processes."""

    def __len__(self) -> int:
        """Return the number of molecules."""

    @property
    def largest(self) -> int:
        """Atoms of the largest molecule, or an upper bound."""

    def num_atoms(self, molecule_B: Int64) -> Int32:
        """Return the atoms of molecules as they are read, int32 [B]."""

    def read(self, keys: MoleculeKeys) -> MoleculeBatch:
        """Return the molecules of ``keys``, at their epochs, as a padded batch."""

    def prefetch(self, shards: Sequence[int]) -> None:
        """Note which shards will be needed next, in that order, and return at once."""


class StepOrder(Protocol):
    """Which molecules a step sees, as a pure function."""

    def molecules(self, step: int) -> tuple[Int64, Int64]:
        """Return the molecules of a step and the epoch of each, both int64 [G]."""

    def shards(self, step: int, count: int) -> list[int]:
        """Return at most ``count`` shards that are needed from a step on, in that order."""


class StepPlanner:
    """The pure function step → (molecules, epochs, micro-batches) for one split.

    The loader requests a step long before the trainer does, so a plan is kept until ``forget`` is called for its step.
    Each plan is thus made once, however far ahead the loader is.

    Args:
        reader: reads the molecules.
        order: which of them a step sees.
        world_size: number of ranks.
        max_pairs: upper limit on the padded pairs Σ(n+1)² of one micro-batch, virtual node included.
        at_once: micro-batches that a rank computes side by side; they wait for one another as ranks do.
        buckets: shapes that micro-batches will be padded to; None: they are as large as their molecules.
    """

    def __init__(
        self,
        reader: Reader,
        order: StepOrder,
        *,
        world_size: int,
        max_pairs: int,
        at_once: int = 1,
        buckets: Buckets | None = None,
    ) -> None:
        check_budget(reader.largest, max_pairs)  # fail now rather than during the run
        self._reader = reader
        self._order = order
        self._world_size = world_size
        self._max_pairs = max_pairs
        self._at_once = at_once
        self._buckets = buckets
        self._planned: dict[int, tuple[StepPlan, Int32]] = {}

    @property
    def num_molecules(self) -> int:
        """Molecules in the split."""
        return len(self._reader)

    def prefetch(self, step: int) -> None:
        """Announce the shards needed from a step on to the store."""
        self._reader.prefetch(self._order.shards(step, SHARDS_AHEAD))

    def __call__(self, step: int) -> StepPlan:
        """Return the molecules [G] of a step, their epochs [G], and its micro-batch plan."""
        return self._sized(step)[0]

    def num_atoms_of(self, step: int) -> Int32:
        """Return the number of atoms of each molecule of a step, [G]."""
        return self._sized(step)[1]

    def forget(self, step: int) -> None:
        """Drop the plans of a step and of those before it, which will not be needed again soon."""
        for done in [planned for planned in self._planned if planned <= step]:
            del self._planned[done]

    def _sized(self, step: int) -> tuple[StepPlan, Int32]:
        if step not in self._planned:
            self._planned[step] = self._plan(step)
        return self._planned[step]

    def _plan(self, step: int) -> tuple[StepPlan, Int32]:
        molecule_G, epoch_G = self._order.molecules(step)
        num_atoms_G = self._reader.num_atoms(molecule_G)
        return (molecule_G, epoch_G, self._cut(num_atoms_G)), num_atoms_G

    def _cut(self, num_atoms_G: Int32) -> MicroBatchPlan:
        if self._buckets is not None:
            num_atoms_G = self._buckets.atoms(num_atoms_G)
        plan = plan_micro_batches(num_atoms_G, self._world_size * self._at_once, self._max_pairs)
        return MicroBatchPlan(members=plan.members, world_size=self._world_size)


class OneSizePlanner(StepPlanner):
    """The same for models whose outputs depend on padding: all molecules of a micro-batch have the same size.

    Works with one rank only, since several ranks would have different numbers of micro-batches.
    """

    def _cut(self, num_atoms_G: Int32) -> MicroBatchPlan:
        assert self._world_size == 1
        members: list[Int64] = []
        for size in np.unique(num_atoms_G).tolist():
            alike = np.flatnonzero(num_atoms_G == size)
            together = self._max_pairs // (size + 1) ** 2  # at least one: the budget was checked
            members += [alike[start : start + together] for start in range(0, len(alike), together)]
        return MicroBatchPlan(members=tuple(members), world_size=1)


class ValidationPlanner(StepPlanner):
    """The same for validation: step r applies corruption r to a fixed set of molecules, cut once."""

    _fixed: tuple[StepPlan, Int32] | None = None

    def prefetch(self, step: int) -> None:
        """Announce the shards that validation needs, which are the same at every step."""
        super().prefetch(0)

    def _plan(self, step: int) -> tuple[StepPlan, Int32]:
        if self._fixed is None:
            self._fixed = super()._plan(0)
        (molecule_G, _, cut), num_atoms_G = self._fixed
        return (molecule_G, np.full(len(molecule_G), step, dtype=np.int64), cut), num_atoms_G
