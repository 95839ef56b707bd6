"""Activity cliffs: pairs of very similar molecules with very different labels, which no smooth model predicts well.

Molecules are similar if their ECFP4 fingerprints are, both as sets and as counts of environments; without the counts,
all long chains would look identical. Pairs are ranked by the structure-activity landscape index: the difference of the
labels divided by one minus the similarity (Guha and Van Drie 2008, doi:10.1021/ci7004093).

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
LEAST_DIFFERENT = 1.0  # standard deviations of the labels; for classes, any other class
MOST_COMPARED = 5_000  # rows, drawn at random; comparing all pairs of their molecules takes some seconds
MOST_SHOWN = 6
_CLOSEST = 0.05  # 1 − similarity below which pairs count as equally similar
_SEED = 0


def drawn_rows(row_R: Int64) -> Int64:
    """Return these rows, int64, ascending; if there are more than ``MOST_COMPARED``, that many at random."""
    drawn_R: Int64 = np.sort(np.random.default_rng(_SEED).permutation(row_R)[:MOST_COMPARED])
    return drawn_R


@dataclass(frozen=True, kw_only=True)
class Cliff:
    """A pair of molecules.

    Attributes:
        first: index of the molecule with the larger label.
        second: index of the other molecule.
        target: index of the target whose labels differ.
        similarity: the lower one of the Tanimoto similarities of bits and of counts.
        difference: difference of their labels, divided by the scale.
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
        shown: the steepest cliffs; each molecule occurs at most once.
        pairs: number of all cliffs.
    """

    shown: tuple[Cliff, ...]
    pairs: int


def find_cliffs(smiles: Sequence[str], labels_NL: Float64, scale_L: Float64) -> FoundCliffs:
    """Return the activity cliffs among molecules; all pairs are compared.

    Args:
        smiles: [N] SMILES of distinct molecules; ``MOST_COMPARED`` of them take some seconds.
        labels_NL: labels, NaN where missing; similar molecules whose labels differ by at least ``LEAST_DIFFERENT``
            times the scale are a cliff.
        scale_L: standard deviations of the labels; 1 for classes, whose labels are class numbers.
    """
    bits, counts = _fingerprints(smiles)
    scaled_NL = labels_NL / scale_L
    found: list[Cliff] = []
    for row in range(1, len(smiles)):
        similarity_P = np.array(DataStructs.BulkTanimotoSimilarity(bits[row], bits[:row]))
        difference_PL = np.abs(scaled_NL[:row] - scaled_NL[row])
        similar_P = (similarity_P >= LEAST_SIMILAR)[:, None]
        for other, target in np.argwhere(similar_P & (difference_PL >= LEAST_DIFFERENT)).tolist():
            similarity = min(similarity_P[other], DataStructs.TanimotoSimilarity(counts[row], counts[other]))
            if similarity >= LEAST_SIMILAR:
                high, low = sorted((row, other), key=lambda at: scaled_NL[at, target], reverse=True)
                found.append(_cliff(high, low, target, float(similarity), scaled_NL))
    return FoundCliffs(shown=_steepest(found), pairs=len(found))


def _cliff(high: int, low: int, target: int, similarity: float, scaled_NL: Float64) -> Cliff:
    return Cliff(
        first=high,
        second=low,
        target=target,
        similarity=similarity,
        difference=float(scaled_NL[high, target] - scaled_NL[low, target]),
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
    """Return the fingerprints as bits and as counts; they distinguish stereoisomers."""
    generator: Any = rdFingerprintGenerator.GetMorganGenerator(  # type: ignore[no-untyped-call]
        radius=ECFP_RADIUS, fpSize=ECFP_BITS, includeChirality=True
    )
    with rdBase.BlockLogs():
        molecules = [Chem.MolFromSmiles(text) or Chem.Mol() for text in smiles]  # no atoms: similar to none
    return list(map(generator.GetFingerprint, molecules)), list(map(generator.GetCountFingerprint, molecules))
