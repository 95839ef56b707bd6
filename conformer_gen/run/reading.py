"""The rows of a build, chunk by chunk, and how one process reads them. Imports no Ray."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.units import Unit

Rows = Callable[[], Sequence[SourceMolecule]]  # returns the rows of a chunk in any process of the build


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chunk:
    """Some rows of a unit, one after another.

    Attributes:
        unit: that they belong to.
        place: number of the chunk in its unit.
        size: number of rows.
        rows: returns them.
    """

    unit: Unit
    place: int
    size: int
    rows: Rows


@dataclasses.dataclass(frozen=True)
class HeldRows:
    """Rows in memory."""

    held: tuple[SourceMolecule, ...]

    def __call__(self) -> tuple[SourceMolecule, ...]:
        """Return them."""
        return self.held


def read_here(units: Iterable[Unit], size: int) -> Iterator[Chunk]:
    """Yield the chunks of all units, in order, read in this process."""
    for unit in units:
        rows = unit.read()
        for place in itertools.count():
            held = tuple(itertools.islice(rows, size))
            if not held:
                break
            yield Chunk(unit=unit, place=place, size=len(held), rows=HeldRows(held))
