"""Which conformers of a molecule are kept, and their order. Imports RDKit."""

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdMolAlign

from unimol_scale.store.schema import Float32, Float64, Int64

# Ways to lay a molecule onto itself that are tried for each pair. Few drugs have more; one with three tert-butyl groups
# has 1,296 and would cost more to compare than to embed. Past the cap an RMSD can come out too large, so that a
# conformer is kept which could have gone.
MAX_MATCHES = 512


def by_energy(energy: Float32) -> Int64:
    """Return the conformers in order of energy [k], lowest first; those without energy last, in their own order."""
    return np.argsort(energy, kind="stable")


def within_window(energy: Float32, order: Int64, window: float) -> Int64:
    """Return those of ``order`` whose energy is at most ``window`` kcal/mol above the lowest, or is not known."""
    if np.all(np.isnan(energy[order])):
        return order
    return order[~(energy[order] > np.nanmin(energy[order]) + window)]


def distinct(heavy: Chem.Mol, coordinates: Float64, order: Int64, threshold: float) -> Int64:
    """Return those of ``order`` that are further than a threshold from all conformers kept before them, greedily.

    Args:
        heavy: the molecule without hydrogens.
        coordinates: [k, n, 3] Å of its atoms.
        order: of the k conformers, or of some of them.
        threshold: Å of root-mean-square deviation after the best alignment over the molecule's symmetries (RDKit's
            GetBestRMS, at most ``MAX_MATCHES`` of them).
    """
    carrier = Chem.Mol(heavy)
    carrier.RemoveAllConformers()
    for positions in coordinates[order]:
        conformer = Chem.Conformer(heavy.GetNumAtoms())
        conformer.SetPositions(np.ascontiguousarray(positions, np.float64))
        carrier.AddConformer(conformer, assignId=True)
    distance = np.zeros((len(order), len(order)))
    distance[np.tril_indices(len(order), -1)] = rdMolAlign.GetAllConformerBestRMS(
        carrier, numThreads=1, maxMatches=MAX_MATCHES
    )
    kept: list[int] = []
    for at in range(len(order)):
        if all(distance[at, earlier] > threshold for earlier in kept):
            kept.append(at)
    return order[kept]
