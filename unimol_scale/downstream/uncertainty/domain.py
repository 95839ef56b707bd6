"""The applicability domain of a model: rows about as close to a training molecule as these are to one another.

Closeness is the Tanimoto similarity of ECFP4 fingerprints (Rogers and Hahn 2010, doi:10.1021/ci100050t) or the cosine
similarity of the model's vectors. A row is in the domain if its similarity to the nearest training molecule is at least
the 5th percentile of the similarities of training molecules to their nearest other training molecule.

Shapes: N training molecules, R rows, D channels.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from rdkit import Chem, DataStructs, rdBase
from rdkit.Chem import rdFingerprintGenerator

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

ECFP_RADIUS, ECFP_BITS = 2, 2048
OUTSIDE_PERCENT = 5.0  # percentage of training molecules that would lie outside the domain of the others
MOST_JUDGED, LEAST_JUDGED = 2000, 500  # numbers of random training molecules for the percentile
MOST_COMPARED = 400_000_000  # pairs of molecules; comparing them takes about half a minute
_SEED = 0
_ROUNDING = 1e-6  # error of a cosine in single precision
_BLOCK = 1024  # number of rows compared at once


def fingerprints(smiles: Iterable[str]) -> list[Any]:
    """Return the ECFP4 fingerprints of molecules; None where RDKit cannot read the SMILES. Equal SMILES share one."""
    generator: Any = rdFingerprintGenerator.GetMorganGenerator(radius=ECFP_RADIUS, fpSize=ECFP_BITS)  # type: ignore[no-untyped-call]
    found: dict[str, Any] = {}
    every = []
    with rdBase.BlockLogs():
        for text in smiles:
            if text not in found:
                molecule = Chem.MolFromSmiles(text)
                found[text] = None if molecule is None else generator.GetFingerprint(molecule)
            every.append(found[text])
    return every


def nearest_by_fingerprint(
    fingerprint_R: Iterable[Any], known_N: Sequence[Any], own_R: Int64 | None = None
) -> tuple[Int64, Float64]:
    """Return the index of the most similar training molecule and its Tanimoto similarity, [R] each.

    Args:
        fingerprint_R: fingerprints of the rows; None for a row without one.
        known_N: fingerprints of the training molecules; None for a molecule without one, which is not compared.
        own_R: int64, index of a training molecule that each row is not compared with, such as itself; None: every row
            is compared with all of them.

    Returns:
        Indices, int64, −1 if there is nothing to compare; similarities, float64, NaN if there is nothing to compare.
    """
    there = [at for at, known in enumerate(known_N) if known is not None]
    known = [known_N[at] for at in there]
    compact = {place: at for at, place in enumerate(there)}
    places: list[int] = []
    similarities: list[float] = []
    for row, fingerprint in enumerate(fingerprint_R):
        places.append(-1)
        similarities.append(np.nan)
        if fingerprint is None or not known:
            continue
        similarity_N = np.array(DataStructs.BulkTanimotoSimilarity(fingerprint, known), np.float64)
        if own_R is not None and (own := compact.get(int(own_R[row]))) is not None:
            similarity_N[own] = -1.0
        best = int(similarity_N.argmax())
        if similarity_N[best] >= 0.0:
            places[-1], similarities[-1] = there[best], float(similarity_N[best])
    return np.array(places, np.int64), np.array(similarities)


def nearest_by_vector(vector_RD: npt.NDArray[Any], known_ND: npt.NDArray[Any], own_R: Int64 | None = None) -> Float64:
    """Return each row's largest cosine similarity to a training molecule, float64 [R]; NaN if there is none to compare.

    Args:
        vector_RD: vectors of the rows, in any precision.
        known_ND: vectors of the training molecules.
        own_R: as in ``nearest_by_fingerprint``.
    """
    known_ND, vector_RD = _unit(known_ND), _unit(vector_RD)
    similarity_R = np.full(len(vector_RD), np.nan)
    if len(known_ND) <= (own_R is not None):
        return similarity_R
    for start in range(0, len(vector_RD), _BLOCK):
        part = slice(start, start + _BLOCK)
        cosine_RN = vector_RD[part] @ known_ND.T
        if own_R is not None:
            cosine_RN[np.arange(len(cosine_RN)), own_R[part]] = -np.inf
        similarity_R[part] = cosine_RN.max(axis=1)
    return similarity_R


def judged_places(rows: int, known: int, most: int) -> Int64:
    """Return the indices of rows to compare with training molecules: all, or a random subset to limit the time.

    Args:
        rows: number of rows.
        known: number of training molecules that each row is compared with.
        most: maximum number of rows. With many training molecules there are fewer, but at least ``LEAST_JUDGED``.

    Returns:
        int64, ascending.
    """
    enough = min(most, max(LEAST_JUDGED, MOST_COMPARED // max(known, 1)))
    return np.sort(np.random.default_rng(_SEED).permutation(rows)[:enough]).astype(np.int64)


def domain_threshold(similarity_N: Float64) -> float | None:
    """Return the smallest similarity in the domain; None if all similarities are NaN.

    Args:
        similarity_N: similarities of training molecules to their nearest other one; NaN is ignored.
    """
    known = similarity_N[~np.isnan(similarity_N)]
    return float(np.percentile(known, OUTSIDE_PERCENT)) if len(known) else None


def in_domain(similarities: Sequence[Float64], thresholds: Sequence[float | None]) -> Bool:
    """Return whether each row reaches the threshold of every similarity that has one, bool [R].

    A row without one of these similarities is not in the domain.

    Args:
        similarities: similarities of fingerprints and of vectors, [R] each.
        thresholds: threshold of each kind of similarity; None: this kind is ignored.
    """
    inside_R = np.ones(len(similarities[0]), bool)
    for similarity_R, threshold in zip(similarities, thresholds, strict=True):
        if threshold is not None:
            inside_R &= similarity_R >= threshold - _ROUNDING
    return inside_R


def _unit(vector_RD: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    vector_RD = vector_RD.astype(np.float32)
    length_R = np.linalg.norm(vector_RD, axis=1, keepdims=True)
    unit_RD: npt.NDArray[np.float32] = vector_RD / np.maximum(length_R, np.finfo(np.float32).tiny)
    return unit_RD
