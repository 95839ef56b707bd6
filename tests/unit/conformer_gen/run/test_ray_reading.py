"""Units are read by several processes at once; one that dies is replaced, and what cannot be read is an error."""

import functools
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from conformer_gen.run.jobs import Chunk
from conformer_gen.run.ray_reading import read_on_ray
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.units import Unit
from unimol_scale.errors import SourceError

pytestmark = pytest.mark.ray
WAIT_S = 30.0


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()


def rows(name: str, count: int) -> Iterator[SourceMolecule]:
    return (SourceMolecule(id=f"{name}{at}") for at in range(count))


def meeting(mine: Path, other: Path) -> Iterator[SourceMolecule]:
    """Yield a row once the other unit is being read too."""
    mine.touch()
    end = time.monotonic() + WAIT_S
    while not other.exists() and time.monotonic() < end:
        time.sleep(0.05)
    yield SourceMolecule(id="met" if other.exists() else "alone")


def dying(folder: Path, times: int) -> Iterator[SourceMolecule]:
    """Yield five rows, and end the process before the fourth so many times."""
    yield from rows("", 3)
    if len(list(folder.iterdir())) < times:
        (folder / str(os.getpid())).touch()
        os._exit(1)
    yield from (SourceMolecule(id=str(at)) for at in (3, 4))


def wrong(text: str) -> Iterator[SourceMolecule]:
    yield SourceMolecule(id="first")
    raise SourceError(text)


def units(*reads: Callable[[], Iterator[SourceMolecule]], anywhere: bool = True) -> Iterator[Unit]:
    for number, read in enumerate(reads):
        yield Unit(number=number, source=0, name=f"file {number}", read=read, anywhere=anywhere)


def ids(chunks: Iterator[Chunk]) -> dict[int, list[str]]:
    """Unit → ids of its rows, after checks of each chunk."""
    found: dict[int, list[str]] = {}
    for chunk in chunks:
        own = found.setdefault(chunk.unit.number, [])
        assert len(own) == 2 * chunk.place
        assert len(chunk.rows()) == chunk.size
        own.extend(row.id for row in chunk.rows())
    return found


def test_every_unit_comes_whole_and_in_order(tmp_path: Path) -> None:
    counts = [0, 5, 2, 1, 4, 0]
    reads = [functools.partial(rows, f"{at}:", count) for at, count in enumerate(counts)]
    here = Unit(number=6, source=1, name="here", read=lambda: rows("here", 3), anywhere=False)
    found = ids(read_on_ray(iter([*units(*reads), here]), 2, most=2))
    expected = {at: [f"{at}:{row}" for row in range(count)] for at, count in enumerate(counts) if count}
    assert found == {**expected, 6: ["here0", "here1", "here2"]}


def test_units_are_read_at_the_same_time(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    reads = functools.partial(meeting, a, b), functools.partial(meeting, b, a)
    assert ids(read_on_ray(units(*reads), 2, most=2)) == {0: ["met"], 1: ["met"]}


def test_relative_paths_are_those_of_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ids(read_on_ray(units(functools.partial(meeting, Path("x"), Path("x"))), 2, most=1)) == {0: ["met"]}
    assert (tmp_path / "x").exists()


def test_a_reader_that_dies_is_replaced_and_goes_on_where_it_was(tmp_path: Path) -> None:
    found = ids(read_on_ray(units(functools.partial(dying, tmp_path, 1)), 2, most=1))
    assert found == {0: ["0", "1", "2", "3", "4"]}


def test_what_kills_its_reader_again_and_again_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="reading file 0 ended the process 2 times"):
        ids(read_on_ray(units(functools.partial(dying, tmp_path, 99)), 2, most=1))


def test_an_error_of_a_reader_comes_out_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"^row 7 is no molecule$"):
        ids(read_on_ray(units(functools.partial(wrong, "row 7 is no molecule")), 2, most=1))
