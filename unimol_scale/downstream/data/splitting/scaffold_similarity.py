"""Measures how similar scaffolds are to those of a whole set. Uses RDKit fingerprints.

Shapes: S scaffolds.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

from unimol_scale.downstream.data.splitting.clusters import MORGAN_BITS, MORGAN_RADIUS

Float64 = npt.NDArray[np.float64]


def bulk_similarity(scaffolds: Sequence[str], sizes: Sequence[int]) -> Float64:
    """Return how similar each scaffold is to the scaffolds of all molecules.

    It is the Tanimoto similarity of the scaffold's Morgan fingerprint s (radius 2, 2,048 bits) to the fingerprints m of
    all molecules that have a scaffold, as a ratio of sums, Σ|s ∩ m| / Σ|s ∪ m|. This needs only the count of each bit
    over the set, no pairs of scaffolds (iSIM, López-Pérez et al. 2024, doi:10.1039/D4DD00041B), so time and memory grow
    linearly with the number of scaffolds.

    Args:
        scaffolds: [S] different SMILES; "" for no scaffold.
        sizes: [S] number of molecules with each scaffold.

    Returns:
        float64 [S] in [0, 1]; infinite for "".
    """
    generator: Any = rdFingerprintGenerator.GetMorganGenerator(radius=MORGAN_RADIUS, fpSize=MORGAN_BITS)  # type: ignore[no-untyped-call]
    bits_S = [np.array(generator.GetFingerprint(_parsed(scaffold)).GetOnBits(), np.int64) for scaffold in scaffolds]
    weights_S = np.array([size if scaffold else 0 for scaffold, size in zip(scaffolds, sizes, strict=True)], np.int64)
    counts = np.zeros(MORGAN_BITS, np.int64)
    for bits, weight in zip(bits_S, weights_S.tolist(), strict=True):
        counts[bits] += weight
    shared_S = np.array([counts[bits].sum() for bits in bits_S], np.float64)
    total = float(weights_S.sum())
    united_S = total * np.array([len(bits) for bits in bits_S]) + float(counts.sum()) - shared_S
    similarity = np.full(len(scaffolds), np.inf)
    has_scaffold = weights_S > 0
    similarity[has_scaffold] = shared_S[has_scaffold] / united_S[has_scaffold]
    return similarity


def _parsed(scaffold: str) -> Chem.Mol:
    """Parse a scaffold with its aromaticity as written, since it need not have a Kekulé structure."""
    molecule = Chem.MolFromSmiles(scaffold, sanitize=False)
    assert molecule is not None, f"RDKit has written the scaffold {scaffold!r} and cannot read it"
    molecule.UpdatePropertyCache(strict=False)
    Chem.FastFindRings(molecule)
    return molecule
