"""Turns finished pieces into a store: shards and failures.parquet. Imports Arrow and the store.

Everything here is a pure function of the pieces' files, split into jobs that may run anywhere and in any order. The
caller provides the function that runs them (Python's ``map`` would do). A finished job leaves a file in ``.build/``, so
it is never repeated.
"""

import bisect
import collections
import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import unimol_scale.config as strict
from conformer_gen.config import BuildConfig
from conformer_gen.run.jobs import Executor, UnorderedMap
from conformer_gen.run.workspace import WORK_NAME, layout_of
from conformer_gen.selection.pieces import (
    CONFORMERS,
    CURATE_FAILED,
    CURATED,
    FAILURE_SCHEMA,
    FAILURES,
    Piece,
    done_pieces,
    group_pieces,
    groups,
)
from conformer_gen.selection.replacements import Replacement, find_replacements
from conformer_gen.selection.selected_rows import Selection
from conformer_gen.sources.joint import source_tags
from unimol_scale.common.files import commit_file, commit_text
from unimol_scale.common.progress import StageProgress
from unimol_scale.common.trees import Tree
from unimol_scale.errors import ConformerError, SourceError, StoreError
from unimol_scale.store.arrow_backend import ArrowShard, ColumnViews
from unimol_scale.store.manifest import (
    SPLITS,
    Backend,
    Counts,
    Manifest,
    ShardEntry,
    SourceCounts,
    SplitEntry,
    SplitName,
)
from unimol_scale.store.schema import Layout
from unimol_scale.store.shards import size_histogram, write_shard

FAILURES_NAME = "failures.parquet"
FAILED, SHARDS = "failed", "shards"  # directories in .build/ for the results of finished jobs
FAILURE_COLUMNS = ("id", "smiles", "stage", "reason", "detail")
FAILURE_ROWS = 100_000  # per row group; fixed, so that the file does not depend on how the build was split


@dataclasses.dataclass(frozen=True)
class FailureJob:
    """The failures of 1,000 chunks."""

    work: Path
    group: int

    @property
    def path(self) -> Path:
        """Where they are written."""
        return self.work / FAILED / f"{self.group:06d}.parquet"


def collect_failures(job: FailureJob) -> int:
    """Write the failures of a group of chunks in the order of the source's rows; return their number."""
    if job.path.is_file():
        return int(pq.read_metadata(job.path).num_rows)
    tables = []
    for piece in group_pieces(job.work, CURATED, job.group):
        table = pq.read_table(piece.path(job.work, CURATED), columns=["position", "id", "smiles", "reason", "detail"])
        bad = table.filter(pc.is_valid(table["reason"]))
        stage = pa.array([CURATE_FAILED] * bad.num_rows, pa.string())
        tables.append((piece.chunk, bad.append_column("stage", stage).select(FAILURE_SCHEMA.names)))
    for piece in group_pieces(job.work, CONFORMERS, job.group):
        if piece.counts[-1]:
            table = pq.read_table(piece.path(job.work, FAILURES), schema=FAILURE_SCHEMA)
            tables.append((piece.chunk, table))
    chunks = [pa.array(np.full(table.num_rows, chunk, np.int64)) for chunk, table in tables]
    whole = pa.concat_tables([FAILURE_SCHEMA.empty_table(), *(table for _, table in tables)])
    whole = whole.append_column("chunk", pa.chunked_array(chunks, pa.int64()))
    whole = whole.sort_by([("chunk", "ascending"), ("position", "ascending")]).select(FAILURE_COLUMNS)
    commit_file(job.path, lambda path: pq.write_table(whole, path))
    return int(whole.num_rows)


def commit_failures(output: Path, run: UnorderedMap) -> int:
    """Write failures.parquet in the order of the source's rows; return the number of failures."""
    work = (output / WORK_NAME).absolute()
    jobs = [FailureJob(work, group) for group in groups(work, CURATED)]
    failed = sum(run(collect_failures, jobs))
    schema = pa.schema([FAILURE_SCHEMA.field(name) for name in FAILURE_COLUMNS])

    def write(path: Path) -> None:
        with pq.ParquetWriter(path, schema) as writer:
            for table in _row_groups((pq.read_table(job.path, schema=schema) for job in jobs), schema):
                writer.write_table(table, row_group_size=FAILURE_ROWS)

    commit_file(output / FAILURES_NAME, write)
    return failed


def _row_groups(tables: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the rows of all tables, ``FAILURE_ROWS`` at a time."""
    waiting = schema.empty_table()
    for table in tables:
        waiting = pa.concat_tables([waiting, table])
        while waiting.num_rows >= FAILURE_ROWS:
            yield waiting.slice(0, FAILURE_ROWS).combine_chunks()
            waiting = waiting.slice(FAILURE_ROWS)
    yield waiting.combine_chunks()


def require_molecules(config: BuildConfig, selection: Selection, output: Path, run: UnorderedMap) -> None:
    """Stop before conformers are made if there are no molecules, or too few for validation.

    Raises:
        SourceError: no row of the source is a usable molecule (failures.parquet says why), or there are too few.
    """
    if selection.num_kept:
        _require_validation(config, selection, output)
        return
    if not selection.num_read:
        raise SourceError("the source has no rows, so there is nothing to build")
    commit_failures(output, run)
    raise SourceError(
        f"none of the {selection.num_read:,} rows of the source is a usable molecule; {output / FAILURES_NAME} has "
        "the reason for each. If the SMILES are in another column, name it, as in source.smiles_column=2; if the "
        "file has another format, name the format with --source"
    )


def _require_validation(config: BuildConfig, selection: Selection, output: Path) -> None:
    count = config.curate.valid_count
    if count is None:
        return
    remedy = f"delete {output} and build again"
    if selection.num_kept < 2 * count:
        raise SourceError(
            f"curate.valid_count is {count:,}, but the store would have only {selection.num_kept:,} molecules: at "
            f"most half of them can go to validation. Lower the number, {remedy}"
        )
    if not selection.num_valid:
        raise SourceError(
            f"curate.valid_count is {count:,}, but every Murcko scaffold has more molecules than that; raise the "
            f"number, or use curate.split=random, {remedy}"
        )


@dataclasses.dataclass(frozen=True)
class Slice:
    """Records start to stop − 1 of a piece's file."""

    piece: Piece
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class ShardPlan:
    """The records that make up a shard, in order."""

    split: SplitName
    number: int
    slices: tuple[Slice, ...]

    @property
    def name(self) -> str:
        """Path within the store, without suffix."""
        return f"{self.split}/shard-{self.number:05d}"


def plan_shards(pieces: Iterable[Piece], shard_rows: int, moved: Sequence[Replacement] = ()) -> Iterator[ShardPlan]:
    """Distribute the records of all pieces, in order, over shards of ``shard_rows`` molecules (fewer in the last ones).

    Args:
        pieces: pieces with conformers.
        shard_rows: molecules in a shard.
        moved: training records to move to the end of validation.
    """
    waiting: dict[SplitName, list[Slice]] = {name: [] for name in SPLITS}
    rows, numbers = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
    _, valid = SPLITS
    rows_moved = collections.defaultdict[Piece, list[int]](list)
    for one in moved:
        rows_moved[one.piece].append(one.row)

    def close(name: SplitName) -> ShardPlan:
        plan = ShardPlan(name, numbers[name], tuple(waiting[name]))
        waiting[name], rows[name], numbers[name] = [], 0, numbers[name] + 1
        return plan

    parts = (part for piece in pieces for part in _parts(piece, rows_moved.get(piece, ())))
    for name, piece, start, stop in itertools.chain(parts, ((valid, one.piece, one.row, one.row + 1) for one in moved)):
        while start < stop:
            taken = min(stop - start, shard_rows - rows[name])
            waiting[name].append(Slice(piece, start, start + taken))
            rows[name] += taken
            start += taken
            if rows[name] == shard_rows:
                yield close(name)
    yield from (close(name) for name in SPLITS if rows[name])


def _parts(piece: Piece, moved: Sequence[int]) -> Iterator[tuple[SplitName, Piece, int, int]]:
    """Yield the ranges of a piece's records with their split, without the moved records."""
    train, valid = SPLITS
    num_train, num_valid, _ = piece.counts
    for before, at in itertools.pairwise([-1, *sorted(moved), num_train]):
        yield train, piece, before + 1, at
    yield valid, piece, num_train, num_train + num_valid


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardJob:
    """A shard to write.

    Attributes:
        output: directory of the store.
        plan: its records.
        layout: layout of the records.
        backend: file format.
    """

    output: Path
    plan: ShardPlan
    layout: Layout
    backend: Backend


@dataclasses.dataclass(frozen=True)
class WrittenShard:
    """A finished shard: its manifest entry, and its size histogram (atoms as text → molecules)."""

    entry: ShardEntry
    size_histogram: dict[str, int]


def make_shard(job: ShardJob) -> WrittenShard:
    """Write a shard unless it exists, and store its manifest entry beside the pieces."""
    work = job.output / WORK_NAME
    note = work / SHARDS / f"{job.plan.name}.json"
    if note.is_file():
        written = strict.build(WrittenShard, json.loads(note.read_text()), strict.Origin(name=str(note), recorded=True))
        file = job.output / written.entry.file
        if file.is_file() and file.stat().st_size == written.entry.bytes:
            return written
    batches = [
        ArrowShard(part.piece.path(work, CONFORMERS), job.layout).batch.slice(part.start, part.stop - part.start)
        for part in job.plan.slices
    ]
    whole = pa.concat_batches(batches)
    # take copies, which gives every column offset 0 whichever pieces it came from: equal records give equal bytes.
    batch = whole.take(pa.array(np.arange(whole.num_rows)))
    entry = write_shard(job.output, job.plan.name, batch, job.backend)
    written = WrittenShard(entry, size_histogram(np.diff(ColumnViews.of(batch).atom_offsets).tolist()))
    commit_text(note, json.dumps(strict.to_tree(written)))
    return written


def assemble(output: Path, config: BuildConfig, plan: Tree, selection: Selection, executor: Executor) -> Manifest:
    """Write shards and failures from the finished pieces; return the manifest, which the caller writes last.

    Args:
        output: directory of the store.
        config: configuration of the build.
        plan: fields of the manifest that were known beforehand.
        selection: the molecules selected for conformers.
        executor: runs the jobs.

    Raises:
        ConformerError: no molecule has a conformer.
        StoreError: the pieces do not match the selection.
    """
    failed = commit_failures(output, executor.run_all)
    layout = layout_of(plan)
    root = output.absolute()
    moved = _replacements(root / WORK_NAME, config, selection, layout, executor.run_all)
    jobs = (
        ShardJob(output=root, plan=shard, layout=layout, backend=config.backend)
        for shard in plan_shards(done_pieces(root / WORK_NAME, CONFORMERS), config.shard_rows, moved)
    )
    with executor.show("writing shards", selection.num_kept, None) as progress:
        splits = _splits(_counted(executor.run_all(make_shard, jobs), progress))
    stored = sum(split.rows for split in splits.values())
    if not stored:
        raise ConformerError(
            f"none of {selection.num_kept:,} molecules got a conformer; {output / FAILURES_NAME} has the reasons"
        )
    duplicates, not_sampled = selection.num_duplicates, selection.num_not_sampled
    if selection.num_read != stored + duplicates + failed + not_sampled:
        raise StoreError(
            f"the pieces in {output / WORK_NAME} do not match the selection: {selection.num_read:,} rows were read, "
            f"but {stored:,} are stored + {duplicates:,} duplicates + {failed:,} failed + {not_sampled:,} not "
            f"sampled; was the folder changed by hand? Delete {output} and build again"
        )
    counts = Counts(
        read=selection.num_read,
        stored=stored,
        duplicates=duplicates,
        failed=failed,
        not_sampled=not_sampled,
        conflicting=selection.num_conflicting,
        conformers_left_out=selection.num_left_out,
    )
    by_source = _counts_by_source(root / WORK_NAME, config, selection)
    tree = {**plan, "counts": counts, "splits": splits, "counts_by_source": by_source}
    return strict.build(Manifest, strict.to_tree(tree), strict.Origin(name="build"))


def _replacements(
    work: Path, config: BuildConfig, selection: Selection, layout: Layout, run: UnorderedMap
) -> list[Replacement]:
    """Return the records to move from training to validation so that it gets the requested number."""
    if config.curate.valid_count is None or config.curate.split != "random":
        return []
    return find_replacements(work, config.curate.valid_count, selection.num_kept, layout, config.seed, run)


def _counts_by_source(work: Path, config: BuildConfig, selection: Selection) -> dict[str, SourceCounts]:
    """Return what happened to the rows of each source, if there are several; the pieces' names contain the counts."""
    if not selection.sources:
        return {}
    stored, lost = ([0] * len(selection.sources) for _ in range(2))
    first = [source.first_chunk for source in selection.sources]
    for piece in done_pieces(work, CONFORMERS):
        at = bisect.bisect(first, piece.chunk) - 1
        stored[at] += piece.counts[0] + piece.counts[1]
        lost[at] += piece.counts[2]
    return {
        tag: SourceCounts(
            read=source.num_read,
            stored=stored[at],
            duplicates=source.num_read - source.num_rejected - source.num_distinct,
            failed=source.num_rejected + lost[at],
            not_sampled=source.num_distinct - stored[at] - lost[at],
        )
        for at, (tag, source) in enumerate(zip(source_tags(config.sources), selection.sources, strict=True))
    }


def _counted(written: Iterable[WrittenShard], progress: StageProgress) -> Iterator[WrittenShard]:
    for shard in written:
        progress.advance(shard.entry.rows)
        progress.tick()
        yield shard


def _splits(written: Iterable[WrittenShard]) -> dict[str, SplitEntry]:
    """Sort the shards into their splits."""
    entries: dict[str, list[ShardEntry]] = {name: [] for name in SPLITS}
    sizes: dict[str, collections.Counter[int]] = {name: collections.Counter() for name in SPLITS}
    for shard in written:
        name = shard.entry.file.split("/")[0]
        entries[name].append(shard.entry)
        sizes[name].update({int(size): count for size, count in shard.size_histogram.items()})
    return {
        name: SplitEntry(
            shards=tuple(sorted(entries[name], key=lambda entry: (len(entry.file), entry.file))),
            size_histogram={str(size): sizes[name][size] for size in sorted(sizes[name])},
        )
        for name in SPLITS
    }
