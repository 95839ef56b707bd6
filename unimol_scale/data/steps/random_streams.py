"""Counter-based random numbers: every draw is a pure function of (seed, epoch, molecule, stream, slot). NumPy only.

So a molecule's random numbers do not depend on ranks, workers, micro-batches, or how often a run was resumed. The
generator is SplitMix64 (Steele, Lea and Flood 2014), evaluated at many counters at once.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Float64 = npt.NDArray[np.float64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_TWO_TO_MINUS_53 = 2.0**-53


def mix(state: UInt64) -> UInt64:
    """Return SplitMix64's output function of each state, uint64 → uint64, same shape."""
    z = (state ^ (state >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


def absorb(state: UInt64, value: npt.NDArray[Any] | int) -> UInt64:
    """Return a state that depends on both arguments; adds one more word to a key."""
    # At least one dimension, because NumPy warns of the (intended) overflow for scalars.
    words = np.atleast_1d(np.asarray(value, dtype=np.int64)).astype(np.uint64)
    return mix(state + _GOLDEN * (words + np.uint64(1)))


@dataclass(frozen=True, kw_only=True)
class MoleculeKeys:
    """The keys of the molecules of a batch.

    Attributes:
        seed: seed of the run.
        epoch_B: int64, epoch in which each molecule is seen.
        molecule_B: int64, index of each molecule in its split.
    """

    seed: int
    epoch_B: Int64
    molecule_B: Int64

    def uniform(self, stream: int, slots: int) -> Float64:
        """Return float64 [B, slots] in [0, 1). Slot s of a molecule does not depend on how many slots are drawn."""
        start = np.full(len(self.molecule_B), np.uint64(self.seed % 2**63), dtype=np.uint64)
        base_B = absorb(absorb(absorb(mix(start), self.epoch_B), self.molecule_B), stream)
        slot_S = (np.arange(slots, dtype=np.uint64) + np.uint64(1)) * _GOLDEN
        bits_BS = mix(base_B[:, None] + slot_S[None, :])
        return (bits_BS >> np.uint64(11)).astype(np.float64) * _TWO_TO_MINUS_53

    def normal(self, stream: int, slots: int) -> Float64:
        """Return float64 [B, slots] standard normal numbers (Box–Muller)."""
        u_BS = self.uniform(stream, 2 * slots)
        radius_BS = np.sqrt(-2.0 * np.log1p(-u_BS[:, 0::2]))
        return radius_BS * np.cos(2.0 * np.pi * u_BS[:, 1::2])
