"""The passes over the whole set on Ray, against the same passes in one process."""

import functools
import logging
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray

from conformer_gen.chemistry.config import CurateConfig
from conformer_gen.config import BuildConfig
from conformer_gen.run import driver
from conformer_gen.run.ray_tasks import run_all
from conformer_gen.selection.jobs_selection import select
from conformer_gen.selection.selected_rows import SELECTED, Selection, read_selection
from conformer_gen.selection.selection_passes import BUCKET_ROWS as BUCKET_ROWS_OF_A_BUILD
from conformer_gen.selection.selection_passes import InProcess, Passes
from conformer_gen.sources.config import SourceConfig
from tests.helpers.curated_rows import config, random_rows, selected, write

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


def on_ray(work: Path, bucket_rows: int = BUCKET_ROWS_OF_A_BUILD) -> Selection:
    return select(work, BUILD, functools.partial(run_all, max_in_flight=4, memory=2**20), bucket_rows)


def in_process(work: Path, cuts: tuple[int, ...]) -> tuple[Selection, list[tuple[int, int, bool]]]:
    write(work, random_rows(300), cuts)
    selection = Passes(work=work, config=BUILD).run(InProcess())
    return selection, selected(selection, work)


def test_jobs_on_ray_select_what_one_process_selects(cpus: int, tmp_path: Path) -> None:
    expected = in_process(tmp_path / "whole", ())
    work = tmp_path / "spread"
    write(work, random_rows(300), (3 * cpus,))
    selection = on_ray(work, BUCKET_ROWS)
    assert (selection, selected(selection, work)) == expected
    assert len(list((work / SELECTED).glob("part-*"))) > 1
    # Done is done: nothing is chosen again.
    (work / SELECTED / "part-000000.parquet").unlink()
    assert on_ray(work, BUCKET_ROWS) == selection
    assert not (work / SELECTED / "part-000000.parquet").exists()

    small = tmp_path / "small"
    write(small, random_rows(300))
    assert (on_ray(small), selected(selection, small)) == expected


@pytest.mark.parametrize("cpus", [2], indirect=True)
@pytest.mark.parametrize("bucket_rows", [BUCKET_ROWS, 1000])
def test_a_fault_of_the_disk_comes_out_as_what_it_is(cpus: int, bucket_rows: int, tmp_path: Path) -> None:
    write(tmp_path, random_rows(300))
    (tmp_path / SELECTED).write_text("a file where the directory should be")
    with pytest.raises(NotADirectoryError):  # its number is what tells a full disk from others
        on_ray(tmp_path, bucket_rows)
    assert read_selection(tmp_path) is None


def test_a_build_accounts_for_what_is_excluded_and_what_is_not_sampled(tmp_path: Path) -> None:
    benchmark, source = tmp_path / "benchmark.smi", tmp_path / "input.smi"
    benchmark.write_text("OC(=O)Cc1ccccc1\n")
    alkanes = ["C" * length for length in range(1, 13)]
    source.write_text("\n".join(["[O-]C(=O)Cc1ccccc1 salt", "CC(=O)O.[Na] two", "CC(=O)O again", *alkanes]))
    curate = CurateConfig(exclude=(benchmark,), target=8, temperature=1.0)
    store = driver.build(
        BuildConfig(
            source=SourceConfig(name="smiles", input=(str(source),)),
            curate=curate,
            output=tmp_path / "store",
            workers=1,
        )
    ).store
    counts = store.manifest.counts
    assert (counts.read, counts.stored, counts.duplicates, counts.failed, counts.not_sampled) == (15, 8, 1, 1, 5)
    (failure,) = pq.read_table(store.path / "failures.parquet").to_pylist()
    assert (failure["id"], failure["stage"], failure["reason"]) == ("salt", "curate", "excluded")
    assert store.manifest.parameters["exclude"][0].startswith("benchmark.smi (16 bytes, sha256 ")
    assert "5 not sampled" in (store.path / "report.md").read_text()
