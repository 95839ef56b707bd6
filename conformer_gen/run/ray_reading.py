"""Reads the units of a build in several processes at once. Imports Ray.

Readers are actors on the node of the driver, which alone has to see the inputs. They take no processor from the tasks
that use the rows, and work only as fast as these: each is a little ahead. Rows go from reader to task through Ray's
object store, and the driver handles only their number.
"""

import collections
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from conformer_gen.run.jobs import Chunk, read_here
from conformer_gen.run.ray_tasks import POLL_S, raise_cause
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.units import Unit
from unimol_scale.errors import SourceError

AHEAD = 2  # chunks that a reader reads before they are asked for
DEATHS_ALLOWED = 2  # of a reader at the same chunk
DEATHS = (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError)


class _Reader:
    """Reads one unit after another, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        os.chdir(folder)  # paths may be relative, and messages name them so

    def open(self, read: Callable[[], Iterator[SourceMolecule]], size: int, place: int) -> None:
        """Begin a unit at one of its chunks."""
        self._size = size
        self._rows = itertools.islice(read(), place * size, None)

    def chunk(self) -> tuple[int, tuple[SourceMolecule, ...]]:
        """Return the next rows, and how many there are."""
        rows = tuple(itertools.islice(self._rows, self._size))
        return len(rows), rows


@dataclasses.dataclass(frozen=True)
class StoredRows:
    """Rows in Ray's object store."""

    reference: ray.ObjectRef

    def __call__(self) -> tuple[SourceMolecule, ...]:
        """Return them."""
        rows: tuple[SourceMolecule, ...] = ray.get(self.reference)
        return rows


@dataclasses.dataclass(eq=False)
class _Reading:
    """A unit that is being read.

    Attributes:
        unit: which.
        actor: that reads it.
        opened: result of its call to begin the unit.
        asked: results of its calls for chunks, a pair each, in order.
        place: number of the first of these chunks.
        deaths: how many actors died at it.
    """

    unit: Unit
    actor: Any = None
    opened: Any = None
    asked: collections.deque[list[ray.ObjectRef]] = dataclasses.field(default_factory=collections.deque)
    place: int = 0
    deaths: int = 0


def read_on_ray(units: Iterator[Unit], size: int, most: int) -> Iterator[Chunk]:
    """Yield the chunks of all units; those of one unit in order, those of several as they come.

    Args:
        units: asked for only as fast as they are read.
        size: rows of a chunk.
        most: readers at a time.

    Raises:
        SourceError: a unit cannot be read, or reading it ends the process.
    """
    node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0)(_Reader).options(scheduling_strategy=node)
    idle: list[Any] = []
    open_units: list[_Reading] = []
    left = True

    def begin(reading: _Reading) -> None:
        reading.actor = idle.pop() if idle else actor.remote(Path.cwd())
        reading.opened = reading.actor.open.remote(reading.unit.read, size, reading.place)
        reading.asked.clear()
        _ask(reading)

    while left or open_units:
        ready = _ready(open_units, wait=not left or len(open_units) >= most)
        # Another reader is started only when all wait for those that there are.
        if ready is None and left and len(open_units) < most:
            unit = next(units, None)
            if unit is None:
                left = False
            elif unit.anywhere:
                open_units.append(_Reading(unit))
                begin(open_units[-1])
            else:
                yield from read_here([unit], size)
        elif ready is not None:
            count, rows = ready.asked.popleft()
            try:
                _, number = ray.get([ready.opened, count])
            except ray.exceptions.RayTaskError as error:
                raise_cause(error)
            except DEATHS as error:
                ready.deaths += 1
                idle.clear()  # they may be dead, too
                if ready.deaths >= DEATHS_ALLOWED:
                    problem = f"reading {ready.unit.name} ended the process {ready.deaths} times ({error})"
                    remedy = "see whether the file is damaged or the machine short of memory, and run the same command"
                    raise SourceError(f"{problem}; {remedy} again to resume") from error
                begin(ready)
                continue
            if number == size:
                ready.deaths = 0
                _ask(ready)
            else:
                open_units.remove(ready)
                idle.append(ready.actor)
            if number:
                yield Chunk(unit=ready.unit, place=ready.place, size=number, rows=StoredRows(rows))
                ready.place += 1


def _ask(reading: _Reading) -> None:
    """Ask for chunks until so many are on their way."""
    while len(reading.asked) < AHEAD:
        reading.asked.append(reading.actor.chunk.options(num_returns=2).remote())


def _ready(readings: list[_Reading], *, wait: bool) -> _Reading | None:
    """Return a unit whose next chunk is there, or None; wait for one if asked to."""
    first = {reading.asked[0][0]: reading for reading in readings}
    if not first:
        return None
    ready, _ = ray.wait(list(first), num_returns=1, timeout=POLL_S if wait else 0)
    return first[ready[0]] if ready else None
