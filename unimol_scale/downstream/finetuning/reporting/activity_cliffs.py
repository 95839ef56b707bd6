"""Activity cliffs: pairs of very similar molecules with very different labels, which no smooth model gets right.

Similar are molecules whose ECFP4 fingerprints are, both as sets of environments and as counts of them; without the
counts all long chains would be the same molecule. Pairs are ranked by the structure-activity landscape index, the
difference of the labels over one minus the similarity (Guha and Van Drie 2008, doi:10.1021/ci7004093).

Shapes: N distinct molecules, L targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rdkit import Chem, DataStructs, rdBase
from rdkit.Chem import rdFingerprintGenerator

from unimol_scale.downstream.uncertainty.domain import ECFP_BITS, ECFP_RADIUS
from unimol_scale.store.schema import Float64, Int64

LEAST_SIMILAR = 0.7
LEAST_DIFFERENT = 1.0  # standard deviations of the labels; of classes, another one
MOST_COMPARED = 5_000  # molecules, drawn at random; all their pairs take some seconds
MOST_SHOWN = 6
_CLOSEST = 0.05  # 1 − similarity below which pairs count as equally similar
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Cliff:
    """A pair of molecules.

    Attributes:
        first: place of the molecule with the larger label.
        second: place of the other one.
        target: whose labels differ.
        similarity: of the two, the less of both Tanimoto similarities.
        difference: of their labels, as scaled.
    """

    first: int
    second: int
    target: int
    similarity: float
    difference: float

    @property
    def index(self) -> float:
        """The structure-activity landscape index."""
        return self.difference / max(1.0 - self.similarity, _CLOSEST)


@dataclass(frozen=True, kw_only=True)
class FoundCliffs:
    """What ``find_cliffs`` found.

    Attributes:
        shown: the steepest; each molecule occurs once.
        pairs: number of all.
        compared: molecules that were compared with one another.
    """

    shown: tuple[Cliff, ...]
    pairs: int
    compared: int


def find_cliffs(smiles: Sequence[str], labels_NL: Float64, scale_L: Float64) -> FoundCliffs:
    """Return the activity cliffs of molecules.

    Args:
        smiles: [N] of distinct molecules.
        labels_NL: NaN where missing; a difference of ``LEAST_DIFFERENT`` times the scale is a cliff.
        scale_L: standard deviations of the labels; of classes, whose labels are their numbers, 1.
    """
    place_C = np.sort(np.random.default_rng(_SEED).permutation(len(smiles))[:MOST_COMPARED]).astype(np.int64)
    bits, counts = _fingerprints([smiles[at] for at in place_C.tolist()])
    scaled_CL = labels_NL[place_C] / scale_L
    found: list[Cliff] = []
    for row in range(1, len(place_C)):
        similarity_P = np.array(DataStructs.BulkTanimotoSimilarity(bits[row], bits[:row]))
        difference_PL = np.abs(scaled_CL[:row] - scaled_CL[row])
        similar_P = (similarity_P >= LEAST_SIMILAR)[:, None]
        for other, target in np.argwhere(similar_P & (difference_PL >= LEAST_DIFFERENT)).tolist():
            similarity = min(similarity_P[other], DataStructs.TanimotoSimilarity(counts[row], counts[other]))
            if similarity >= LEAST_SIMILAR:
                high, low = sorted((row, other), key=lambda at: scaled_CL[at, target], reverse=True)
                found.append(_cliff(place_C, high, low, target, float(similarity), scaled_CL))
    return FoundCliffs(shown=_steepest(found), pairs=len(found), compared=len(place_C))


def _cliff(place_C: Int64, high: int, low: int, target: int, similarity: float, scaled_CL: Float64) -> Cliff:
    return Cliff(
        first=int(place_C[high]),
        second=int(place_C[low]),
        target=target,
        similarity=similarity,
        difference=float(scaled_CL[high, target] - scaled_CL[low, target]),
    )


def _steepest(found: Sequence[Cliff]) -> tuple[Cliff, ...]:
    shown: list[Cliff] = []
    taken: set[int] = set()
    for cliff in sorted(found, key=lambda one: -one.index):
        if len(shown) < MOST_SHOWN and not taken & {cliff.first, cliff.second}:
            shown.append(cliff)
            taken |= {cliff.first, cliff.second}
    return tuple(shown)


def _fingerprints(smiles: Sequence[str]) -> tuple[list[Any], list[Any]]:
    """Return the fingerprints as bits and as counts. Stereoisomers differ in them."""
    generator: Any = rdFingerprintGenerator.GetMorganGenerator(  # type: ignore[no-untyped-call]
        radius=ECFP_RADIUS, fpSize=ECFP_BITS, includeChirality=True
    )
    with rdBase.BlockLogs():
        molecules = [Chem.MolFromSmiles(text) for text in smiles]
    return list(map(generator.GetFingerprint, molecules)), list(map(generator.GetCountFingerprint, molecules))
