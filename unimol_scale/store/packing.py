"""Packs the feature codes of an atom or bond into one integer, a third of the bytes; shifts unpack them. NumPy only.

Each feature takes the bits that its vocabulary needs, starting with the first feature in the lowest bits.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Vocabularies = Mapping[str, Sequence[str]]


def _widths(vocabularies: Vocabularies) -> list[int]:
    return [(len(words) - 1).bit_length() for words in vocabularies.values()]


def _shifts(widths: list[int]) -> npt.NDArray[np.uint32]:
    return np.cumsum([0, *widths[:-1]]).astype(np.uint32)


def num_bits(vocabularies: Vocabularies) -> int:
    """Return how many bits the codes of one atom or bond need."""
    return sum(_widths(vocabularies))


def pack(codes: npt.NDArray[np.uint8], vocabularies: Vocabularies) -> npt.NDArray[np.uint32]:
    """Pack codes [R, F], each within its vocabulary, into one uint32 per row, [R]."""
    assert np.all(codes < np.array([len(words) for words in vocabularies.values()])), "a code outside its vocabulary"
    packed: npt.NDArray[np.uint32] = np.bitwise_or.reduce(
        codes.astype(np.uint32) << _shifts(_widths(vocabularies)), axis=1
    )
    return packed


def unpack(packed: npt.NDArray[Any], vocabularies: Vocabularies) -> npt.NDArray[np.uint8]:
    """Unpack integers [R] into codes, uint8 [R, F]."""
    widths = _widths(vocabularies)
    masks = (1 << np.array(widths)) - 1
    return ((packed.astype(np.uint32)[:, None] >> _shifts(widths)) & masks.astype(np.uint32)).astype(np.uint8)
