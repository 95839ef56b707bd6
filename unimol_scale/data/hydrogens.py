"""Removes hydrogens from all molecules of a batch at once. NumPy only. Shapes: B molecules; A atoms and E bonds in all.

A hydrogen is removed if it is uncharged and its only bond leads to another element, as in the builder. Those of H₂,
bridges, hydrides and bare protons stay, so that no molecule loses all its atoms or changes its charge. Deuterium is
removed too: a store records mass numbers only in the SMILES. Features of the other atoms do not change, since a store
counts hydrogens in them either way.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from unimol_scale.store.schema import ATOM_VOCABULARIES, MoleculeColumns

HYDROGEN = 1
CHARGE = list(ATOM_VOCABULARIES).index("formal_charge")
UNCHARGED = ATOM_VOCABULARIES["formal_charge"].index("0")


def heavy_counts(columns: MoleculeColumns) -> npt.NDArray[np.int32]:
    """Return how many atoms ``drop_hydrogens`` leaves of each molecule, int32 [B]."""
    return _per_molecule(_kept_atoms(columns), columns.num_atoms)


def drop_hydrogens(columns: MoleculeColumns) -> MoleculeColumns:
    """Return the molecules without hydrogens and with their geometries centred again."""
    kept_A = _kept_atoms(columns)
    first_B = np.cumsum(columns.num_atoms) - columns.num_atoms
    bonds_E2 = columns.bond_index + np.repeat(first_B, columns.num_bonds)[:, None]
    kept_E: npt.NDArray[np.bool_] = kept_A[bonds_E2[:, 0]] & kept_A[bonds_E2[:, 1]]
    num_atoms = _per_molecule(kept_A, columns.num_atoms)
    num_bonds = _per_molecule(kept_E, columns.num_bonds)
    # Atoms are renumbered from 0 within each molecule.
    number_A = np.cumsum(kept_A) - 1
    first_kept_B = np.cumsum(num_atoms) - num_atoms
    index_E2 = number_A[bonds_E2[kept_E]] - np.repeat(first_kept_B, num_bonds)[:, None]
    return dataclasses.replace(
        columns,
        num_atoms=num_atoms,
        num_bonds=num_bonds,
        atomic_number=columns.atomic_number[kept_A],
        atom_features=columns.atom_features[kept_A],
        bond_index=index_E2.astype(np.int32),
        bond_features=columns.bond_features[kept_E],
        coordinates=_centred(columns.coordinates[kept_A], num_atoms),
        planar_coordinates=_centred(columns.planar_coordinates[kept_A], num_atoms),
    )


def _kept_atoms(columns: MoleculeColumns) -> npt.NDArray[np.bool_]:
    """Return which atoms stay, bool [A]."""
    A = len(columns.atomic_number)
    first_B = np.cumsum(columns.num_atoms) - columns.num_atoms
    bonds_E2 = columns.bond_index + np.repeat(first_B, columns.num_bonds)[:, None]
    hydrogen_A = columns.atomic_number == HYDROGEN
    ends = bonds_E2.reshape(-1)
    heavy_neighbour_A = np.bincount(ends[~hydrogen_A[bonds_E2[:, ::-1].reshape(-1)]], minlength=A)
    implied_A = (np.bincount(ends, minlength=A) == 1) & (heavy_neighbour_A == 1)
    implied_A &= columns.atom_features[:, CHARGE] == UNCHARGED
    kept_A: npt.NDArray[np.bool_] = ~hydrogen_A | ~implied_A
    return kept_A


def _per_molecule(flags: npt.NDArray[np.bool_], lengths: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Return how many flags are set in each of the runs of ``lengths``, int32 [B]."""
    total = np.concatenate([[0], np.cumsum(flags)])
    ends = np.cumsum(lengths)
    counts: npt.NDArray[np.int32] = (total[ends] - total[ends - lengths]).astype(np.int32)
    return counts


def _centred(points_A3: npt.NDArray[np.float32], num_atoms: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    starts = np.cumsum(num_atoms) - num_atoms
    mean_B3 = np.add.reduceat(points_A3, starts, axis=0) / num_atoms[:, None]
    return (points_A3 - np.repeat(mean_B3, num_atoms, axis=0)).astype(np.float32)
