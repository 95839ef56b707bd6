"""The passes over the whole set on Ray, against the same passes in one process."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from curated_rows import config, random_rows, selected, write

from conformer_gen import ray_selection
from conformer_gen.selection import SELECTED, Selection, read_selection
from conformer_gen.whole_set import InProcess, Passes

pytestmark = pytest.mark.ray
BUILD = config(seed=5, target=90, temperature=0.01, valid_fraction=0.2)
BUCKET_ROWS = 120


@pytest.fixture(params=[1, 2])
def cpus(request: pytest.FixtureRequest) -> Iterator[int]:
    ray.init(
        address="local",
        num_cpus=request.param,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield request.param
    ray.shutdown()


def in_process(work: Path, cuts: tuple[int, ...]) -> tuple[Selection, list[tuple[int, int, bool]]]:
    write(work, random_rows(300), cuts)
    selection = Passes(work=work, config=BUILD).run(InProcess())
    return selection, selected(selection, work)


def test_ray_data_selects_what_one_process_selects(cpus: int, tmp_path: Path) -> None:
    expected = in_process(tmp_path / "whole", ())
    work = tmp_path / "spread"
    write(work, random_rows(300), (3 * cpus,))
    selection = ray_selection.select(work, BUILD, BUCKET_ROWS)
    assert (selection, selected(selection, work)) == expected
    assert len(list((work / SELECTED).glob("part-*"))) > 1
    # Done is done: nothing is chosen again.
    (work / SELECTED / "part-000000.parquet").unlink()
    assert ray_selection.select(work, BUILD, BUCKET_ROWS) == selection
    assert not (work / SELECTED / "part-000000.parquet").exists()

    small = tmp_path / "small"
    write(small, random_rows(300))
    assert (ray_selection.select(small, BUILD), selected(selection, small)) == expected


@pytest.mark.parametrize("cpus", [2], indirect=True)
@pytest.mark.parametrize("bucket_rows", [BUCKET_ROWS, 1000])
def test_a_fault_of_the_disk_comes_out_as_what_it_is(cpus: int, bucket_rows: int, tmp_path: Path) -> None:
    write(tmp_path, random_rows(300))
    (tmp_path / SELECTED).write_text("a file where the directory should be")
    with pytest.raises(OSError, match=SELECTED):
        ray_selection.select(tmp_path, BUILD, bucket_rows)
    assert read_selection(tmp_path) is None
