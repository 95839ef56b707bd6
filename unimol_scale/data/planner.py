"""Which molecules are in a step and how they are cut into micro-batches: pure, and remembered for a while."""

import numpy as np

from unimol_scale.data.cuts import Int32, Int64, MicroBatchPlan, check_budget, plan_micro_batches
from unimol_scale.data.order import Order
from unimol_scale.data.reader import MoleculeReader

# Molecules [G] of a step, their epochs [G], and how they are cut.
StepPlan = tuple[Int64, Int64, MicroBatchPlan]
# Steps whose plan is remembered: the loader asks for a step some steps before the trainer does.
PLANS_KEPT = 32
# Shards that the background knows to be needed next; it fetches as many as the cache holds.
SHARDS_AHEAD = 1024


class StepPlanner:
    """The pure map step → (molecules, epochs, micro-batches) of one split; remembers the last steps it planned."""

    def __init__(self, reader: MoleculeReader, order: Order, *, world_size: int, max_pairs: int) -> None:
        check_budget(reader.largest, max_pairs)  # now rather than later
        self._reader = reader
        self._order = order
        self._world_size = world_size
        self._max_pairs = max_pairs
        self._planned: dict[int, tuple[StepPlan, Int32]] = {}

    @property
    def num_molecules(self) -> int:
        """Molecules in the split."""
        return len(self._reader)

    def prefetch(self, step: int) -> None:
        """Tell the store which shards are needed from a step on."""
        self._reader.split.prefetch(self._order.shards(step, SHARDS_AHEAD))

    def __call__(self, step: int) -> StepPlan:
        """Return the molecules [G], their epochs [G] and the micro-batch plan of a step."""
        return self._sized(step)[0]

    def num_atoms_of(self, step: int) -> Int32:
        """Return the atoms of the molecules of a step, [G]."""
        return self._sized(step)[1]

    def _sized(self, step: int) -> tuple[StepPlan, Int32]:
        if step not in self._planned:
            if len(self._planned) == PLANS_KEPT:
                del self._planned[min(self._planned)]
            molecule_G, epoch_G = self._molecules(step)
            num_atoms_G = self._reader.num_atoms(molecule_G)
            plan = plan_micro_batches(num_atoms_G, self._world_size, self._max_pairs)
            self._planned[step] = (molecule_G, epoch_G, plan), num_atoms_G
        return self._planned[step]

    def _molecules(self, step: int) -> tuple[Int64, Int64]:
        return self._order.molecules(step)


class ValidationPlanner(StepPlanner):
    """The same map for validation: step r is corruption r of a fixed choice of molecules."""

    def prefetch(self, step: int) -> None:
        """Tell the store which shards validation needs: the same at every step."""
        super().prefetch(0)

    def _molecules(self, step: int) -> tuple[Int64, Int64]:
        molecule_G, _ = super()._molecules(0)
        return molecule_G, np.full(len(molecule_G), step, dtype=np.int64)
