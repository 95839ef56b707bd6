"""The arithmetic of resuming and bisecting, and who may use an output directory; no Ray is started."""

import errno
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformer_gen.config import BuildConfig
from conformer_gen.run import driver, workspace
from conformer_gen.run.assemble import plan_shards
from conformer_gen.run.jobs import HeldRows, Job, bisect, missing_jobs
from conformer_gen.run.watchdog import Watchdog, read_hint
from conformer_gen.selection.pieces import CONFORMERS, Piece, beside, done_pieces
from conformer_gen.selection.replacements import Replacement
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.reader import SourceConfig
from unimol_scale.errors import ConfigError, StoreError


@given(
    positions=st.sets(st.integers(0, 99), min_size=2),
    suspect=st.one_of(st.none(), st.integers(0, 99)),
)
def test_bisecting_loses_no_molecule_and_isolates_the_suspect(positions: set[int], suspect: int | None) -> None:
    ordered = tuple(sorted(positions))
    rows = HeldRows(tuple(SourceMolecule(id=str(position)) for position in range(100)))
    job = Job(piece=Piece(3, 0, 100), positions=ordered, chunk_rows=rows, valid=frozenset(ordered[::2]))
    parts = bisect(job, suspect)
    assert sorted(position for part in parts for position in part.positions) == sorted(positions)
    assert all(len(part.positions) < len(positions) for part in parts)
    assert [part.piece.first for part in parts] == [0, *(part.piece.last for part in parts[:-1])]
    assert parts[-1].piece.last == 100
    assert all([int(row.id) for row in part.rows] == list(part.positions) for part in parts)
    assert frozenset().union(*(part.valid for part in parts)) == job.valid
    if suspect in positions:
        assert any(part.positions == (suspect,) for part in parts)


@given(
    positions=st.sets(st.integers(0, 49), min_size=1),
    bounds=st.lists(st.integers(0, 50), min_size=2, max_size=6, unique=True),
)
def test_resuming_runs_exactly_what_no_finished_piece_covers(positions: set[int], bounds: list[int]) -> None:
    bounds = sorted(bounds)
    done = [Piece(7, first, last) for first, last in list(itertools.pairwise(bounds))[::2]]
    jobs = list(missing_jobs(7, sorted(positions), 50, done))
    covered = {position for piece in done for position in range(piece.first, piece.last)}
    assert sorted(position for job in jobs for position in job.positions) == sorted(positions - covered)
    assert all(job.piece.first <= min(job.positions) <= max(job.positions) < job.piece.last for job in jobs)


@given(counts=st.lists(st.tuples(*[st.integers(0, 9)] * 3), max_size=30), shard_rows=st.integers(1, 12))
def test_shards_hold_every_record_once_in_order_whatever_the_pieces(
    counts: list[tuple[int, int, int]], shard_rows: int
) -> None:
    pieces = [Piece(chunk, 0, 50, rows) for chunk, rows in enumerate(counts)]
    plans = list(plan_shards(pieces, shard_rows))
    for at, split in enumerate(("train", "valid")):
        mine = [plan for plan in plans if plan.split == split]
        sizes = [sum(part.stop - part.start for part in plan.slices) for plan in mine]
        assert [plan.number for plan in mine] == list(range(len(mine)))
        assert sizes[:-1] == [shard_rows] * (len(sizes) - 1)
        assert all(0 < size <= shard_rows for size in sizes)
        dealt = [
            (part.piece.chunk, row) for plan in mine for part in plan.slices for row in range(part.start, part.stop)
        ]
        firsts = [0 if split == "train" else train for train, _, _ in counts]
        expected = [
            (chunk, row)
            for chunk, (first, rows) in enumerate(zip(firsts, counts, strict=True))
            for row in range(first, first + rows[at])
        ]
        assert dealt == expected


@given(
    counts=st.lists(st.tuples(*[st.integers(0, 9)] * 3), max_size=12),
    shard_rows=st.integers(1, 12),
    data=st.data(),
)
def test_records_that_are_moved_end_validation_and_are_missing_from_training(
    counts: list[tuple[int, int, int]], shard_rows: int, data: st.DataObject
) -> None:
    pieces = [Piece(chunk, 0, 50, rows) for chunk, rows in enumerate(counts)]
    train = [(piece.chunk, row) for piece in pieces for row in range(piece.counts[0])]
    order = data.draw(st.permutations(train))[: data.draw(st.integers(0, len(train)))]
    moved = [Replacement(at, 0, pieces[chunk], row) for at, (chunk, row) in enumerate(order)]
    dealt: dict[str, list[tuple[int, int]]] = {"train": [], "valid": []}
    for plan in plan_shards(pieces, shard_rows, moved):
        rows = [(part.piece.chunk, row) for part in plan.slices for row in range(part.start, part.stop)]
        assert 0 < len(rows) <= shard_rows
        dealt[plan.split] += rows
    assert dealt["train"] == [place for place in train if place not in order]
    valid = [(piece.chunk, piece.counts[0] + row) for piece in pieces for row in range(piece.counts[1])]
    assert dealt["valid"] == [*valid, *order]


def test_pieces_that_overlap_are_read_once(tmp_path: Path) -> None:
    """A process that outlived its driver commits a range which the next run has cut."""
    chunks = [
        *(Piece(4, *bounds, (1, 0, 0)) for bounds in [(0, 5), (0, 10), (5, 10), (8, 20), (10, 20)]),
        Piece(2500, 0, 9),
    ]
    for piece in chunks:
        path = piece.path(tmp_path, CONFORMERS)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    path.with_name(".half.arrow.1234.tmp").touch()
    found = list(done_pieces(tmp_path, CONFORMERS))
    assert [(piece.chunk, piece.first, piece.last) for piece in found] == [(4, 0, 10), (4, 10, 20), (2500, 0, 9)]
    assert found[0].counts == (1, 0, 0)
    merged = beside(((chunk, str(chunk)) for chunk in (3, 4, 2500)), found)
    assert [(item, [piece.last for piece in own]) for _, item, own in merged] == [
        ("3", []),
        ("4", [10, 20]),
        ("2500", [9]),
    ]


def test_a_task_that_wants_more_memory_than_it_may_have_gets_a_memory_error_and_tells_where(tmp_path: Path) -> None:
    hint = tmp_path / "hints" / "piece"

    def greedy() -> None:
        with Watchdog(hint, 100.0, 50 * 2**20, "a-node") as watch:
            watch.starting(17)
            bytearray(8 * 2**30)  # more than malloc may have left from the tests before

    with pytest.raises(MemoryError):
        greedy()
    found = read_hint(hint)
    assert found is not None
    assert (found.position, found.node) == (17, "a-node")
    assert len(bytearray(200 * 2**20)) == 200 * 2**20, "the cap ends with the task"
    with Watchdog(hint, 100.0, 50 * 2**20):
        pass
    assert not hint.exists()


def test_a_hint_that_is_missing_or_cut_is_no_hint(tmp_path: Path) -> None:
    assert read_hint(tmp_path / "nowhere") is None
    (tmp_path / "cut").write_bytes(b"123")
    assert read_hint(tmp_path / "cut") is None


def plan(output: Path, **keys: int) -> dict[str, object]:
    return workspace.plan_build(BuildConfig(source=SourceConfig(name="sample"), output=output, **keys))


def test_an_output_that_holds_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreError, match="not a conformer store"):
        workspace.claim(tmp_path, plan(tmp_path), 500)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(StoreError, match="is a file"):
        workspace.claim(tmp_path / "thesis.txt", plan(tmp_path), 500)


def test_an_unfinished_build_goes_on_with_the_same_parameters_only(tmp_path: Path) -> None:
    assert workspace.claim(tmp_path / "out", plan(tmp_path), 500) is False
    assert workspace.claim(tmp_path / "out", plan(tmp_path), 500) is False
    with pytest.raises(
        StoreError, match=r"unfinished build of other .*\n  seed: 0 → 1\nUse the same parameters, choose"
    ):
        workspace.claim(tmp_path / "out", plan(tmp_path, seed=1), 500)


def test_a_damaged_plan_is_refused(tmp_path: Path) -> None:
    workspace.claim(tmp_path, plan(tmp_path), 500)
    (tmp_path / workspace.WORK_NAME / workspace.PLAN_NAME).write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        workspace.claim(tmp_path, plan(tmp_path), 500)


def test_what_a_killed_process_left_half_written_does_not_stay_in_the_store(tmp_path: Path) -> None:
    names = ["report.md", "train/shard-00000.arrow", "valid/shard-00000.lmdb"]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("whole")
        path.with_name(f".{path.name}.12345678.tmp").write_text("half")
    workspace.sweep(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == names


def test_two_builds_do_not_share_a_directory(tmp_path: Path) -> None:
    workspace.claim(tmp_path, plan(tmp_path), 500)
    with workspace.locked(tmp_path), pytest.raises(StoreError, match="another process"), workspace.locked(tmp_path):
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
        ({"task_memory": 1}, "task_memory"),
    ],
)
def test_impossible_builds_are_refused(keys: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BuildConfig(source=SourceConfig(name="sample"), **keys)


def test_a_full_disk_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(driver.workspace, "claim", full)
    with pytest.raises(StoreError, match="the disk is full: make room, and run the same command again to continue"):
        driver.build(BuildConfig(source=SourceConfig(name="sample"), output=tmp_path))
