"""One padded batch of clean molecules.

Padding happens here and nowhere else. Shapes: B molecules, A atoms (padded to the largest of the batch).
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from unimol_scale.data.features import dense_bonds, pad, shortest_paths
from unimol_scale.store.schema import MoleculeColumns


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoleculeBatch:
    """Clean molecules as padded arrays; nothing mutates them.

    Attributes:
        num_atoms_B: int32.
        valid_BA: bool, true at real atoms.
        atomic_number_BA: uint8, 0 at padding.
        atom_features_BA8: uint8, raw codes; columns and codes index ``schema.ATOM_VOCABULARIES``.
        degree_BA: uint8, bonds of each atom in the stored graph.
        bond_features_BAA3: uint8, 0 where there is no bond, otherwise raw code + 1, for ``schema.BOND_VOCABULARIES``.
        path_BAA: int16, shortest path in bonds; ``PATH_UNREACHABLE`` between fragments.
        coordinates_BA3: float32, Å, of the chosen conformer; 0 at padding.
        planar_BA3: float32, Å, the 2D depiction in the plane z = 0; 0 at padding.
        conformer_origin_B: uint8, codes of ``schema.ConformerOrigin`` for the chosen conformer.
        labels_BL: float64, the requested labels in the store's units; NaN where missing.
    """

    num_atoms_B: npt.NDArray[np.int32]
    valid_BA: npt.NDArray[np.bool_]
    atomic_number_BA: npt.NDArray[np.uint8]
    atom_features_BA8: npt.NDArray[np.uint8]
    degree_BA: npt.NDArray[np.uint8]
    bond_features_BAA3: npt.NDArray[np.uint8]
    path_BAA: npt.NDArray[np.int16]
    coordinates_BA3: npt.NDArray[np.float32]
    planar_BA3: npt.NDArray[np.float32]
    conformer_origin_B: npt.NDArray[np.uint8]
    labels_BL: npt.NDArray[np.float64]


def collate(columns: MoleculeColumns) -> MoleculeBatch:
    """Pad ragged columns of B molecules into one batch, without a Python loop over molecules."""
    num_atoms_B = columns.num_atoms
    A = int(num_atoms_B.max())
    valid_BA = np.arange(A)[None, :] < num_atoms_B[:, None]
    bonds_BAA3, degree_BA = dense_bonds(columns, A)
    return MoleculeBatch(
        num_atoms_B=num_atoms_B,
        valid_BA=valid_BA,
        atomic_number_BA=pad(columns.atomic_number, valid_BA),
        atom_features_BA8=pad(columns.atom_features, valid_BA),
        degree_BA=degree_BA,
        bond_features_BAA3=bonds_BAA3,
        path_BAA=shortest_paths(bonds_BAA3[..., 0] > 0),
        coordinates_BA3=pad(columns.coordinates, valid_BA),
        planar_BA3=pad(columns.planar_coordinates, valid_BA),
        conformer_origin_B=columns.conformer_origin,
        labels_BL=columns.labels,
    )
