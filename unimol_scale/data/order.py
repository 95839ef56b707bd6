"""Who is in step t: pure arithmetic from (number of molecules, seed, step) to molecules and epochs. NumPy only.

The set of molecules of a step does not depend on the number of ranks; an epoch's order is a keyed permutation that is
evaluated where it is needed and never stored, so that 884 million molecules cost nothing and resuming is a number.
"""

import numpy as np
import numpy.typing as npt

from unimol_scale.data.streams import UInt64, absorb, mix

Int64 = npt.NDArray[np.int64]

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
