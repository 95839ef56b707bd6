"""The arithmetic of resuming and bisecting, and who may use an output directory; no Ray is started."""

import errno
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformer_gen import assemble, driver
from conformer_gen.config import BuildConfig
from conformer_gen.pipeline import Job, bisect, missing_jobs
from conformer_gen.sources.reader import SourceConfig
from conformer_gen.worker import Piece, read_hint
from unimol_scale.errors import ConfigError, StoreError


@given(
    positions=st.sets(st.integers(0, 99), min_size=2),
    suspect=st.one_of(st.none(), st.integers(0, 99)),
)
def test_bisecting_loses_no_molecule_and_isolates_the_suspect(positions: set[int], suspect: int | None) -> None:
    job = Job(piece=Piece(3, 0, 100), positions=tuple(sorted(positions)))
    parts = bisect(job, suspect)
    assert sorted(position for part in parts for position in part.positions) == sorted(positions)
    assert all(len(part.positions) < len(positions) for part in parts)
    assert [part.piece.first for part in parts] == [0, *(part.piece.last for part in parts[:-1])]
    assert parts[-1].piece.last == 100
    if suspect in positions:
        assert any(part.positions == (suspect,) for part in parts)


@given(
    positions=st.sets(st.integers(0, 49), min_size=1),
    bounds=st.lists(st.integers(0, 50), min_size=2, max_size=6, unique=True),
)
def test_resuming_runs_exactly_what_no_finished_piece_covers(positions: set[int], bounds: list[int]) -> None:
    bounds = sorted(bounds)
    done = [Piece(7, first, last) for first, last in list(itertools.pairwise(bounds))[::2]]
    jobs = list(missing_jobs(7, tuple(sorted(positions)), (), 50, {7: done}))
    covered = {position for piece in done for position in range(piece.first, piece.last)}
    assert sorted(position for job in jobs for position in job.positions) == sorted(positions - covered)
    assert all(job.piece.first <= min(job.positions) <= max(job.positions) < job.piece.last for job in jobs)


def test_a_hint_that_is_missing_or_cut_is_no_hint(tmp_path: Path) -> None:
    assert read_hint(tmp_path / "nowhere") is None
    (tmp_path / "cut").write_bytes(b"123")
    assert read_hint(tmp_path / "cut") is None


def plan(output: Path, **keys: int) -> assemble.Tree:
    return assemble.plan_build(BuildConfig(source=SourceConfig(name="sample"), output=output, **keys))


def test_an_output_that_holds_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreError, match="something else"):
        assemble.claim(tmp_path, plan(tmp_path), 500)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(StoreError, match="is a file"):
        assemble.claim(tmp_path / "thesis.txt", plan(tmp_path), 500)


def test_an_unfinished_build_goes_on_with_the_same_parameters_only(tmp_path: Path) -> None:
    assert assemble.claim(tmp_path / "out", plan(tmp_path), 500) is False
    assert assemble.claim(tmp_path / "out", plan(tmp_path), 500) is False
    with pytest.raises(StoreError, match=r"unfinished build of other parameters: seed is 0 there and 1 here"):
        assemble.claim(tmp_path / "out", plan(tmp_path, seed=1), 500)


def test_a_damaged_plan_is_refused(tmp_path: Path) -> None:
    assemble.claim(tmp_path, plan(tmp_path), 500)
    (tmp_path / assemble.WORK_NAME / assemble.PLAN_NAME).write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        assemble.claim(tmp_path, plan(tmp_path), 500)


def test_two_builds_do_not_share_a_directory(tmp_path: Path) -> None:
    assemble.claim(tmp_path, plan(tmp_path), 500)
    with assemble.locked(tmp_path), pytest.raises(StoreError, match="another process"), assemble.locked(tmp_path):
        pass


def test_the_plan_names_no_path_and_no_worker_count(tmp_path: Path) -> None:
    text = json.dumps(plan(tmp_path, workers=7))
    assert str(tmp_path) not in text
    assert plan(tmp_path, workers=7) == plan(tmp_path / "elsewhere", workers=1)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"seed": -1}, "seed"),
        ({"workers": 0}, "workers"),
        ({"task_size": 0}, "task_size"),
        ({"shard_rows": 0}, "shard_rows"),
        ({"limit_s": 1.0}, "limit_s"),
    ],
)
def test_impossible_builds_are_refused(keys: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BuildConfig(source=SourceConfig(name="sample"), **keys)


def test_a_full_disk_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(driver.assemble, "claim", full)
    with pytest.raises(StoreError, match="the disk is full: make room and run the same command again"):
        driver.build(BuildConfig(source=SourceConfig(name="sample"), output=tmp_path))
