"""Which of all rows are selected: first occurrences, a sample by scaffold, a split, whatever the set is cut into."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformer_gen.config import BuildConfig
from conformer_gen.report.build_report import _duplicates
from conformer_gen.run.worker import curate_piece
from conformer_gen.selection import jobs_selection
from conformer_gen.selection.pieces import CHUNKS_PER_UNIT, Piece
from conformer_gen.selection.selected_rows import SELECTED, SUMMARY_NAME, Selection, read_selection
from conformer_gen.selection.selection_passes import InProcess, Passes, first_rows
from conformer_gen.selection.source_chunks import commit_first_chunks
from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.molecule import SourceMolecule
from tests.helpers.curated_rows import TASK_SIZE, Row, config, distinct, random_rows, scaffold_sizes, selected, write
from unimol_scale.store.manifest import Counts


def select(work: Path, build: BuildConfig, **settings: int) -> Selection:
    return Passes(work=work, config=build, **settings).run(InProcess())


def select_by_jobs(work: Path, build: BuildConfig, bucket_rows: int) -> Selection:
    return jobs_selection.select(work, build, map, bucket_rows)


def by_scaffold(rows: list[Row], selection: Selection, work: Path) -> tuple[set[int | None], set[int | None]]:
    """Return the scaffolds of train and of validation."""
    sides: tuple[set[int | None], set[int | None]] = set(), set()
    for chunk, position, valid in selected(selection, work):
        sides[valid].add(rows[chunk * TASK_SIZE + position].scaffold)
    return sides


@given(st.lists(st.integers(2**64 - 8, 2**64 - 1) | st.integers(2**53, 2**53 + 4), max_size=40), st.integers(0, 99))
def test_the_first_row_with_each_key_wins_in_any_order(keys: list[int], seed: int) -> None:
    chunks, positions = np.divmod(np.arange(len(keys)), 7)
    order = np.random.default_rng(seed).permutation(len(keys))
    shuffled = np.array(keys, np.uint64)[order]
    kept = first_rows(chunks[order], positions[order].astype(np.int32), shuffled)
    assert sorted(order[kept].tolist()) == sorted({key: i for i, key in reversed(list(enumerate(keys)))}.values())


@pytest.mark.parametrize("curate", [{}, {"target": 90, "temperature": 0.01, "valid_fraction": 0.2}])
def test_jobs_that_meet_through_files_select_what_one_process_selects(curate: dict[str, float], tmp_path: Path) -> None:
    rows, build = random_rows(300), config(seed=5, **curate)
    for name in ("one", "many", "little"):
        write(tmp_path / name, rows if name != "little" else rows[:3])
    expected = select(tmp_path / "one", build)
    selection = select_by_jobs(tmp_path / "many", build, 40)
    assert (selection, selected(selection, tmp_path / "many")) == (expected, selected(expected, tmp_path / "one"))
    # Nothing is left of what the jobs handed to each other.
    left = [path.name for path in (tmp_path / "many" / SELECTED).iterdir()]
    assert all(name == SUMMARY_NAME or name.startswith("part-") for name in left), left
    # More buckets than rows: most of them are empty.
    assert select_by_jobs(tmp_path / "little", config(), 1) == select(tmp_path / "little", config())


def test_every_distinct_molecule_is_selected_once_in_order(tmp_path: Path) -> None:
    rows = random_rows(300)
    write(tmp_path, rows)
    selection = select(tmp_path, config())
    got = selected(selection, tmp_path)
    assert [(chunk, position) for chunk, position, _ in got] == distinct(rows)
    usable = [row for row in rows if row.key is not None]
    assert selection.num_read == 300
    assert selection.num_rejected == 300 - len(usable) > 0
    assert selection.num_duplicates == len(usable) - len({row.key for row in usable}) > 0
    assert selection.num_kept == len(got)
    assert selection.num_valid == sum(valid for *_, valid in got)


@pytest.mark.parametrize(
    "curate",
    [
        {},
        {"target": 60, "temperature": 0.01, "split": "random"},
        {"target": 60, "temperature": 0.01, "split": "random", "valid_count": 17},
    ],
)
def test_the_selection_does_not_depend_on_how_the_set_is_cut(tmp_path: Path, curate: dict[str, object]) -> None:
    rows = random_rows(300)
    results = []
    for name, cuts, settings_ in [
        ("whole", (), {}),
        ("pieces", (1, 7, 13), {}),
        ("buckets", (), {"bucket_rows": 40}),
        ("windows", (5,), {"bucket_rows": 70, "largest_window": 1000}),
    ]:
        write(tmp_path / name, rows, cuts)
        selection = select(tmp_path / name, config(**curate), **settings_)
        results.append((selection, selected(selection, tmp_path / name)))
        parts = sorted((tmp_path / name / SELECTED).glob("part-*"))
        assert (len(parts) > 1) == ("bucket_rows" in settings_)
    assert all(result == results[0] for result in results[1:])


@settings(max_examples=25)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=60),
    st.floats(0.01, 0.5),
    st.sampled_from(["scaffold", "random"]),
    st.integers(0, 2**63 - 1),
)
def test_validation_keeps_to_its_budget_and_splits_no_scaffold(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], fraction: float, split: str, seed: int
) -> None:
    work = tmp_path_factory.mktemp("work")
    scaffolds = np.repeat(np.arange(len(sizes)), sizes)
    np.random.default_rng(seed).shuffle(scaffolds)
    rows = [Row(key=2**63 + number, scaffold=int(scaffold)) for number, scaffold in enumerate(scaffolds)]
    write(work, rows)
    selection = select(work, config(seed=seed, split=split, valid_fraction=fraction))
    unit = sizes if split == "scaffold" else [1] * len(rows)
    if len(unit) < 2:
        assert selection.num_valid == 0
        return
    train, valid = by_scaffold(rows, selection, work)
    budget = max(round(fraction * len(rows)), min(unit))
    assert train
    assert 0 < selection.num_valid <= budget
    if split == "random":
        assert selection.num_valid == budget
        return
    assert not train & valid
    small = [size for size in sizes if size <= max(min(sizes), budget // 4)]
    assert all(sizes[scaffold] in small for scaffold in valid)
    # Nothing that would still fit was passed over.
    unused = [size for scaffold, size in enumerate(sizes) if scaffold in train and size in small]
    assert all(size > budget - selection.num_valid for size in unused)


@settings(max_examples=25)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=60),
    st.integers(1, 60),
    st.sampled_from(["scaffold", "random"]),
    st.integers(0, 2**63 - 1),
)
def test_a_number_for_validation_is_exact_at_random_and_never_exceeded_by_scaffold(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], count: int, split: str, seed: int
) -> None:
    work = tmp_path_factory.mktemp("work")
    scaffolds = np.repeat(np.arange(len(sizes)), sizes)
    rows = [Row(key=2**63 + number, scaffold=int(scaffold)) for number, scaffold in enumerate(scaffolds)]
    write(work, rows)
    selection = select(work, config(seed=seed, split=split, valid_count=count))
    assert selection.num_valid == sum(valid for *_, valid in selected(selection, work))
    if split == "random":
        assert selection.num_valid == (count if 2 <= len(rows) >= count else 0)
        return
    train, valid = by_scaffold(rows, selection, work)
    assert not train & valid
    assert selection.num_valid <= count
    if len(sizes) > 1 and count <= len(rows):
        assert bool(valid) == (min(sizes) <= count)


@settings(max_examples=20)
@given(
    st.lists(st.integers(0, 70), min_size=2, max_size=4),
    st.integers(0, 1000),
    st.sampled_from([{}, {"target": 15, "temperature": 0.01}]),
    st.sampled_from([1_000_000, 16]),
    st.booleans(),
)
def test_several_sources_select_what_one_with_all_their_rows_would_and_each_is_counted(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    seed: int,
    curate: dict[str, object],
    bucket_rows: int,
    by_unit: bool,
) -> None:
    one, several = (tmp_path_factory.mktemp(name) for name in ("one", "several"))
    rows = random_rows(sum(sizes), seed)
    write(one, rows)
    ends = np.cumsum(sizes).tolist()
    places, first_chunks, chunk = [], [], 0  # of every row, among those of several sources
    for start, end in zip([0, *ends], ends, strict=False):
        first_chunks.append(chunk)
        write(several, rows[start:end], first_chunk=chunk)
        places += [(chunk + at // TASK_SIZE, at % TASK_SIZE) for at in range(end - start)]
        chunk = len(first_chunks) * CHUNKS_PER_UNIT if by_unit else chunk + -(-(end - start) // TASK_SIZE)
    commit_first_chunks(several, first_chunks)
    build = config(seed=seed, **curate)
    joint = dataclasses.replace(build, source=None, sources=(SourceConfig(name="sample"),) * len(sizes))
    expected = [
        (*places[chunk * TASK_SIZE + position], valid) for chunk, position, valid in selected(select(one, build), one)
    ]
    found = select(several, joint, bucket_rows=bucket_rows)
    assert selected(found, several) == expected
    seen: set[int] = set()
    for start, end, counted in zip([0, *ends], ends, found.sources, strict=False):
        keys = [row.key for row in rows[start:end] if row.key is not None]
        assert counted.num_read == end - start
        assert counted.num_rejected == end - start - len(keys)
        assert counted.num_distinct == len(set(keys) - seen)
        seen |= set(keys)


def test_validation_depends_on_the_seed(tmp_path: Path) -> None:
    write(tmp_path, random_rows(300))
    first, again, other = (
        selected(select(tmp_path, config(seed=seed, valid_fraction=0.3)), tmp_path) for seed in (0, 0, 1)
    )
    assert first == again != other


def test_the_sample_depends_on_the_seed_inside_a_scaffold(tmp_path: Path) -> None:
    write(tmp_path, [Row(key=2**62 + i, scaffold=0) for i in range(100)])
    samples = []
    for seed in (0, 1):
        selection = select(tmp_path, config(seed=seed, target=50, temperature=1.0))
        samples.append({(chunk, position) for chunk, position, _ in selected(selection, tmp_path)})
    assert 10 < len(samples[0] & samples[1]) < 40  # 25 expected


def test_no_validation_when_none_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, random_rows(100))
    assert select(tmp_path, config(valid_fraction=0)).num_valid == 0


def test_a_hot_sample_favours_scaffolds_and_a_cold_one_large_ones(tmp_path: Path) -> None:
    rows = [Row(key=2**62 + i, scaffold=0 if i < 300 else i) for i in range(400)]
    write(tmp_path, rows)
    shares = {}
    for temperature in (0.01, 1e6):
        selection = select(tmp_path, config(target=101, temperature=temperature))
        assert selection.num_kept == 101
        assert selection.num_not_sampled == 299
        places = [(chunk, position) for chunk, position, _ in selected(selection, tmp_path)]
        shares[temperature] = scaffold_sizes(rows, places)[0]
    assert shares == {0.01: 101, 1e6: pytest.approx(1, abs=1)}


def test_a_target_beyond_the_set_keeps_all(tmp_path: Path) -> None:
    rows = random_rows(100)
    write(tmp_path, rows)
    selection = select(tmp_path, config(target=1000, temperature=0.005))
    assert (selection.num_kept, selection.num_not_sampled) == (len(distinct(rows)), 0)


def test_the_summary_tells_the_tail_of_scaffolds(tmp_path: Path) -> None:
    rows = random_rows(500)
    write(tmp_path, rows)
    selection = select(tmp_path, config(), bucket_rows=60)
    sizes = sorted(scaffold_sizes(rows, distinct(rows)).values(), reverse=True)
    assert selection.num_scaffolds == len(sizes)
    assert selection.num_single_scaffolds == sizes.count(1)
    ranks = [rank for rank, _ in selection.scaffold_curve]
    assert (ranks[0], ranks[-1]) == (1, len(sizes))
    assert all(size == sizes[rank - 1] for rank, size in selection.scaffold_curve)
    assert set(selection.top_scaffolds) == {"c1ccccc1"}  # of every molecule in these files


def test_a_selection_is_done_when_its_summary_is_there(tmp_path: Path) -> None:
    write(tmp_path, random_rows(100))
    assert read_selection(tmp_path) is None
    selection = select(tmp_path, config())
    assert read_selection(tmp_path) == selection
    assert sorted(path.name for path in (tmp_path / SELECTED).iterdir()) == ["part-000000.parquet", SUMMARY_NAME]
    tree = json.loads((tmp_path / SELECTED / SUMMARY_NAME).read_text())
    assert tree["num_kept"] == selection.num_kept


def test_counts_that_do_not_add_up_are_a_fault_of_ours(tmp_path: Path) -> None:
    write(tmp_path, random_rows(40))
    selection = select(tmp_path, config())
    with pytest.raises(AssertionError):
        dataclasses.replace(selection, num_kept=selection.num_kept + 1)


@pytest.mark.parametrize("rows", [[], [Row(None, None)] * 3])
def test_nothing_to_select_is_no_error_here(tmp_path: Path, rows: list[Row]) -> None:
    write(tmp_path, rows)
    selection = select(tmp_path, config(target=5, temperature=1.0))
    assert (selection.num_read, selection.num_kept, list(selection.chunks(tmp_path))) == (len(rows), 0, [])


def test_duplicates_that_contradict_the_label_that_is_kept_are_counted_and_named(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("smiles,id,u,v\n")
    build = BuildConfig(
        source=SourceConfig(name="csv", input=(str(table),), labels={"u": "eV", "v": ""}), task_size=TASK_SIZE
    )
    rows = [
        ("CCO", "a", 1.0, np.nan),
        ("OCC", "same", 1.0, np.nan),
        ("CCN", "b", 2.0, 3.0),
        ("C(O)C", "other", 1.5, np.nan),
        ("NCC", "less", np.nan, 3.0),
        ("not one", "bad", 9.0, 9.0),
        ("C(C)O", "more", 1.0, 7.0),
    ]
    work = tmp_path / "work"
    for chunk, part in enumerate((rows[:4], rows[4:])):
        molecules = [SourceMolecule(id=name, smiles=smiles, labels=(u, v)) for smiles, name, u, v in part]
        curate_piece(work, Piece(chunk, 0, len(part)), range(len(part)), molecules, build.curate)
    for bucket_rows in (1_000_000, 2):
        selection = select(work, build, bucket_rows=bucket_rows)
        assert selection.num_duplicates == 4
        assert selection.num_conflicting == 2
        assert selection.conflicts == (
            "other against a, CCO: u 1.5, stored 1",
            "more against a, CCO: v 7, stored none",
        )
    assert read_selection(work) == selection
    text = "\n".join(_duplicates(selection))
    assert "2 of 4 duplicates" in text
    assert "- more against a, CCO: v 7, stored none" in text
    counts = Counts(read=7, stored=2, duplicates=4, failed=1, conflicting=2, conformers_left_out=3)
    assert counts.left_out == "4 duplicates (2 with other labels) + 1 failed; 3 conformers left out"


def test_curated_files_of_an_earlier_version_are_selected_from(tmp_path: Path) -> None:
    write(tmp_path, random_rows(40))
    for path in tmp_path.glob("**/*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns("left_out"), path)
    assert select(tmp_path, config()).num_left_out == 0
