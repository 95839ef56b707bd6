"""Rounds the shapes of micro-batches up to a few, so that the same shapes come again in every step. NumPy only.

A device that has seen a shape need not plan its memory or record its kernels again. Nodes (atoms and the virtual node)
are rounded up to a multiple of four, which also aligns N × N matrices for tensor cores. Molecules are rounded up to a
multiple of a power of two, by at most an eighth; what is added are molecules without atoms. G molecules of a step.
"""

from dataclasses import dataclass
from math import isqrt

import numpy as np

from unimol_scale.data.steps.micro_batches import Int32

NODES = 4
# Numbers of molecules up to this one stay as they are; above it there are as many between two powers of two.
_EXACT = 8


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """The allowed shapes of micro-batches.

    Attributes:
        max_pairs: upper limit on the padded pairs of a micro-batch, which rounding obeys.
    """

    max_pairs: int

    def atoms(self, num_atoms_G: Int32) -> Int32:
        """Return the atoms that molecules are padded to, int32 [G], in a micro-batch of their own."""
        nodes_G = -(-(num_atoms_G + 1) // NODES) * NODES
        # A molecule that just fits is not rounded beyond the limit.
        capped_G = np.maximum(np.minimum(nodes_G, isqrt(self.max_pairs)), num_atoms_G + 1)
        rounded_G: Int32 = (capped_G - 1).astype(np.int32)
        return rounded_G

    def shape(self, molecules: int, num_atoms: int) -> tuple[int, int]:
        """Return molecules and atoms of a micro-batch after rounding.

        Args:
            molecules: molecules in the micro-batch, which was planned with sizes from ``atoms``.
            num_atoms: atoms of its largest molecule.
        """
        atoms = int(self.atoms(np.array([num_atoms], np.int32))[0])
        unit = max(1, 2 ** ((molecules - 1).bit_length() - _EXACT.bit_length())) if molecules > _EXACT else 1
        rounded = -(-molecules // unit) * unit
        return max(molecules, min(rounded, self.max_pairs // (atoms + 1) ** 2)), atoms
