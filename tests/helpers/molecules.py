"""Ragged molecules made of nothing but arithmetic, for tests that need batches and no chemistry."""

import numpy as np

from unimol_scale.store.schema import MoleculeColumns


def random_columns(num_atoms: list[int], seed: int = 0) -> MoleculeColumns:
    """Return molecules that are random trees of carbons, nitrogens and oxygens, 1.5 Å apart or so."""
    rng = np.random.default_rng(seed)
    sizes = np.array(num_atoms, dtype=np.int32)
    bonds = [(rng.integers(0, j), j) for n in num_atoms for j in range(1, n)]
    total, num_bonds = int(sizes.sum()), sizes - 1
    coordinates = (rng.normal(size=(total, 3)) * 1.5).astype(np.float32)
    planar = (rng.normal(size=(total, 3)) * 1.5).astype(np.float32)
    planar[:, 2] = 0.0
    limits = (5, 12, 12, 10, 6, 6, 2, 2)
    return MoleculeColumns(
        num_atoms=sizes,
        num_bonds=num_bonds,
        atomic_number=rng.choice([6, 7, 8], size=total).astype(np.uint8),
        atom_features=np.stack([rng.integers(0, k, size=total) for k in limits], axis=1).astype(np.uint8),
        bond_index=np.array(bonds, dtype=np.int32).reshape(-1, 2),
        bond_features=np.stack([rng.integers(0, k, size=len(bonds)) for k in (5, 6, 2)], axis=1).astype(np.uint8),
        coordinates=coordinates,
        planar_coordinates=planar,
        conformer_origin=np.zeros(len(sizes), dtype=np.uint8),
        labels=np.empty((len(sizes), 0)),
    )
