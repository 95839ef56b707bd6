"""A range of a file that can be read on its own. Imports nothing.

What is counted is the format's own choice: groups of an HDF5 file, row groups of a Parquet file, numbers of rows in a
database, frames or records of a text from 0. The first range of a file begins with it and the last one ends with it,
whatever it holds.
"""

import itertools
from typing import NamedTuple

LOWEST, HIGHEST = -(1 << 63), (1 << 63) - 1


class FileRange(NamedTuple):
    """Items first to last - 1; in a text, the first begins at the byte ``offset``."""

    first: int
    last: int
    offset: int = 0

    @property
    def begins_file(self) -> bool:
        """Whether nothing comes before it."""
        return self.first == LOWEST


WHOLE = FileRange(LOWEST, HIGHEST)


def ranges_between(bounds: list[int]) -> list[FileRange]:
    """Return the ranges of a whole file that is divided at these numbers, in ascending order."""
    return [FileRange(*pair) for pair in itertools.pairwise([LOWEST, *dict.fromkeys(bounds), HIGHEST])]


def even_ranges(first: int, last: int, most: int) -> list[FileRange]:
    """Return at most so many ranges of a file with items first to last - 1, about equally long."""
    count = max(1, min(most, last - first))
    return ranges_between([first + (last - first) * at // count for at in range(1, count)])
