"""Padded graph features of a batch of molecules, vectorised over the batch. NumPy only, never RDKit.

Shapes: B molecules, A atoms (padded), E bonds in all.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from unimol_scale.data import vocabulary as vocab
from unimol_scale.store.schema import MoleculeColumns


def pad(flat: npt.NDArray[Any], valid_BA: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """Return flat per-atom values [atoms, …] as [B, A, …], zero at padding."""
    padded = np.zeros((*valid_BA.shape, *flat.shape[1:]), dtype=flat.dtype)
    padded[valid_BA] = flat
    return padded


def dense_bonds(columns: MoleculeColumns, num_slots: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return the bond matrix, uint8 [B, A, A, 3] (0: no bond, else raw code + 1), and the degrees, uint8 [B, A].

    Args:
        columns: ragged molecules.
        num_slots: A, the padded number of atoms.
    """
    B = len(columns.num_atoms)
    molecule_E = np.repeat(np.arange(B), columns.num_bonds)
    i_E, j_E = columns.bond_index[:, 0], columns.bond_index[:, 1]
    bonds_BAA3 = np.zeros((B, num_slots, num_slots, vocab.NUM_BOND_FEATURES), dtype=np.uint8)
    bonds_BAA3[molecule_E, i_E, j_E] = columns.bond_features + 1
    bonds_BAA3[molecule_E, j_E, i_E] = columns.bond_features + 1
    degree_BA = (bonds_BAA3[..., 0] > 0).sum(axis=2, dtype=np.uint8)
    return bonds_BAA3, degree_BA


def shortest_paths(bonded_BAA: npt.NDArray[np.bool_]) -> npt.NDArray[np.int16]:
    """Return shortest paths in bonds, int16 [B, A, A]; 0 on the diagonal, ``PATH_UNREACHABLE`` where there is no path.

    Breadth-first search from all atoms of all molecules at once. It takes as many rounds as the longest path in the
    batch has bonds; each round is one batched product of the frontier with the bond matrix.
    """
    B, A, _ = bonded_BAA.shape
    path_BAA = np.full((B, A, A), vocab.PATH_UNREACHABLE, dtype=np.int16)
    diagonal = np.arange(A)
    path_BAA[:, diagonal, diagonal] = 0
    adjacency_BAA = bonded_BAA.astype(np.float32)
    frontier_BAA = np.broadcast_to(np.eye(A, dtype=np.float32), (B, A, A))
    for length in range(1, min(A, vocab.MAX_PATH + 1)):
        reached_BAA = (frontier_BAA @ adjacency_BAA > 0) & (path_BAA == vocab.PATH_UNREACHABLE)
        if not reached_BAA.any():
            break
        path_BAA[reached_BAA] = length
        frontier_BAA = reached_BAA.astype(np.float32)
    return path_BAA
