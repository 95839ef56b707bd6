"""Chooses among millions of items by sorted scores: temperature sampling over scaffolds, and filling a budget.

Pure NumPy. Every choice is "the smallest scores first, as far as the budget reaches". A score is a 64-bit integer that
depends only on hashes and the seed, so a choice does not depend on where or in which order items were processed.
"""

import dataclasses
from typing import Protocol

import numpy as np
import numpy.typing as npt

Bool = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

BITS_OF_A_ROUND = 16
SCORE_BITS = 64
# Most items that may be gathered in one place and examined one by one.
LARGEST_WINDOW = 1_000_000
SIGN = np.uint64(1 << 63)


def mix(values: UInt64, seed: int, stream: int) -> UInt64:
    """Return 64 pseudo-random bits for each value, seed and stream: SplitMix64 (Steele, Lea, Flood 2014).

    Args:
        values: [M].
        seed: seed of the build.
        stream: separates different uses of one seed.
    """
    salt = np.array([seed * 0x9E3779B97F4A7C15 + stream & 0xFFFFFFFFFFFFFFFF], np.uint64)
    return _finalise(values ^ _finalise(salt))


def _finalise(values: UInt64) -> UInt64:
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: UInt64 = mixed ^ (mixed >> np.uint64(31))
    return result


def unit_interval(bits: UInt64) -> Float64:
    """Turn random bits into numbers strictly between 0 and 1."""
    result: Float64 = ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return result


def sortable(numbers: Float64) -> UInt64:
    """Return integers that compare like the finite numbers (IEEE 754: negative ones are inverted and come first)."""
    bits = np.ascontiguousarray(numbers, np.float64).view(np.uint64)
    return np.where(bits & SIGN, ~bits, bits | SIGN)


def temperature_scores(sizes: Int64, ranks: Int64, u: Float64, molecules: int, temperature: float) -> UInt64:
    """Score molecules so that the smallest scores are a sample with P_scaffold = softmax(P_i / τ) (Uni-Mol2).

    P_i is the scaffold's share of all molecules. A molecule's score is (rank + u) / P_scaffold. Scores of a scaffold
    thus have density P_scaffold, and c · P_scaffold of its molecules (rounded up or down at random, and at most all of
    them) score below c: drawing without replacement, where other scaffolds fill up once one is exhausted. The logarithm
    of the score is returned, so that neither the sum of the softmax nor an exponential is needed.

    Args:
        sizes: [M] number of molecules with the scaffold of each molecule.
        ranks: [M] position of each molecule in a random order of its scaffold, from 0.
        u: [M] uniform random numbers strictly between 0 and 1.
        molecules: number of molecules in the whole set.
        temperature: τ.
    """
    return sortable(np.log(ranks + u) - sizes / molecules / temperature)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Items:
    """Items that may be chosen.

    Attributes:
        scores: [M]; small ones are chosen first.
        names: [M] break ties between equal scores.
        weights: [M] how much of the budget each takes.
    """

    scores: UInt64
    names: UInt64
    weights: Int64

    def between(self, first: int, last: int) -> "Items":
        """Return the items whose scores are ``first`` to ``last``, both included."""
        inside = (self.scores >= np.uint64(first)) & (self.scores <= np.uint64(last))
        return Items(scores=self.scores[inside], names=self.names[inside], weights=self.weights[inside])

    def histogram(self, first: int, shift: int) -> tuple[Int64, Int64]:
        """Return the number of items and their weight in each of 2^16 bins of width 2^shift, starting at ``first``."""
        inside = self.between(first, first + (1 << shift + BITS_OF_A_ROUND) - 1)
        bins = ((inside.scores - np.uint64(first)) >> np.uint64(shift)).astype(np.int64)
        weights = np.zeros(1 << BITS_OF_A_ROUND, np.int64)
        np.add.at(weights, bins, inside.weights)
        return np.bincount(bins, minlength=1 << BITS_OF_A_ROUND), weights


class Collection(Protocol):
    """Items that may be spread over many places, queried a little at a time."""

    def histogram(self, first: int, shift: int) -> tuple[Int64, Int64]:
        """Return the number of items and their weight in each of 2^16 bins of width 2^shift, starting at ``first``."""
        ...

    def between(self, first: int, last: int) -> Items:
        """Return the items whose scores are ``first`` to ``last``, both included."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cut:
    """The chosen items: all with a score below ``below``, and those named in ``extra`` (sorted)."""

    below: int
    extra: UInt64

    def chosen(self, scores: UInt64, names: UInt64) -> Bool:
        """Return which items are chosen, bool [M]."""
        if self.below >> SCORE_BITS:
            return np.ones(len(scores), bool)
        result: Bool = (scores < np.uint64(self.below)) | np.isin(names, self.extra)
        return result


EVERYTHING = Cut(below=1 << SCORE_BITS, extra=np.zeros(0, np.uint64))
NOTHING = Cut(below=0, extra=np.zeros(0, np.uint64))


def fill(items: Collection, budget: int, largest_window: int = LARGEST_WINDOW) -> Cut:
    """Choose items in the order of (score, name) while they fit into the remaining budget.

    After the first item that does not fit, smaller ones among the next ``largest_window`` items are still considered.
    Items spread over many places are located as in a radix sort, from the highest bits down, so that only histograms
    and that last window have to be transferred.

    Args:
        items: items to choose from; names are distinct.
        budget: total weight.
        largest_window: most items to gather.
    """
    first, shift, left = 0, SCORE_BITS - BITS_OF_A_ROUND, budget
    while True:
        counts, weights = items.histogram(first, shift)
        reached = np.cumsum(weights)
        if reached[-1] <= left:
            return EVERYTHING
        at = int(np.searchsorted(reached, left, side="right"))
        left -= int(reached[at - 1]) if at else 0
        first += at << shift
        if counts[at] <= largest_window or not shift:
            break
        shift -= BITS_OF_A_ROUND
    bins = max(1, int(np.searchsorted(np.cumsum(counts[at:]), largest_window, side="right")))
    window = items.between(first, first + (bins << shift) - 1)
    return Cut(below=first, extra=_fitting(window, left))


def _fitting(items: Items, left: int) -> UInt64:
    chosen = []
    for at in np.lexsort((items.names, items.scores)).tolist():
        if items.weights[at] <= left:
            chosen.append(items.names[at])
            left -= int(items.weights[at])
        if not left:
            break
    return np.sort(np.array(chosen, np.uint64))
