"""Decisions that need the whole set: first occurrences, scaffold sizes, sample and validation split. Imports no Ray.

Four passes run over the hashes of all rows (32 bytes each, never the molecules). Each pass works on slices of the set,
dealt into buckets by a hash so that only one bucket is in memory at a time; a ``SliceRunner`` groups the buckets.

    curated files   → by molecule → distinct/: the first row with each key in the source's order
    distinct/       → by scaffold → ranked/:   its molecules in their order of sampling, with their scores
    ranked/         → counts of scaffolds; the cuts of sample and split
    ranked/ + cuts  → by chunk    → the parts of the selection
"""

import dataclasses
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from conformer_gen.config import BuildConfig
from conformer_gen.selection.conflicts import Conflicts, find_conflicts
from conformer_gen.selection.hashes import HASHES, first_rows, read_hashes
from conformer_gen.selection.pieces import CURATED, done_pieces, groups
from conformer_gen.selection.sampling import (
    BITS_OF_A_ROUND,
    EVERYTHING,
    LARGEST_WINDOW,
    NOTHING,
    Cut,
    Int64,
    Items,
    UInt64,
    fill,
    mix,
    temperature_scores,
    unit_interval,
)
from conformer_gen.selection.scaffolds import Scaffolds, runs
from conformer_gen.selection.selected_rows import SELECTED, Selection, SourceSelection, commit_part, commit_selection
from conformer_gen.selection.source_chunks import read_first_chunks, rows_by_source
from conformer_gen.sources.joint import joint_label_units
from unimol_scale.common.files import commit_file

T = TypeVar("T")
BUCKET, DISTINCT, RANKED = "bucket", "distinct", "ranked"
# Rows per bucket: 32 MB of hashes, and ten times that while they are sorted.
BUCKET_ROWS = 1_000_000
# A scaffold larger than this fraction of the validation budget stays in train, so that validation sees many scaffolds.
LARGEST_SCAFFOLD_SHARE = 4
RANK_STREAM, SAMPLE_STREAM, SPLIT_STREAM = 1, 2, 3


class SliceRunner(Protocol):
    """Applies functions to slices of the set, in this process or elsewhere, in any order."""

    def each(self, function: Callable[[T], pa.Table], items: Sequence[T]) -> Iterator[pa.Table]:
        """Yield ``function(item)`` for every item."""
        ...

    def shuffle(
        self, read: Callable[[T], pa.Table], items: Sequence[T], reduce: Callable[[pa.Table], pa.Table], buckets: int
    ) -> Iterator[pa.Table]:
        """Group the rows by their column "bucket" and yield the result of ``reduce`` for each bucket."""
        ...


class InProcess:
    """Does everything at once in this process, for sets that fit in one bucket."""

    def each(self, function: Callable[[T], pa.Table], items: Sequence[T]) -> Iterator[pa.Table]:
        """Yield ``function(item)`` for every item."""
        return map(function, items)

    def shuffle(
        self, read: Callable[[T], pa.Table], items: Sequence[T], reduce: Callable[[pa.Table], pa.Table], buckets: int
    ) -> Iterator[pa.Table]:
        """Group the rows by their column "bucket" and yield the result of ``reduce`` for each bucket."""
        if not items:
            return
        table = pa.concat_tables(map(read, items))
        dealt = table[BUCKET].to_numpy()
        for bucket in np.unique(dealt).tolist():
            yield reduce(table.take(pa.array(np.flatnonzero(dealt == bucket))))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationGroups:
    """The groups for validation: those that are in the cut and no larger than ``largest``."""

    cut: Cut = NOTHING
    largest: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Passes:
    """The passes of one build.

    Attributes:
        work: work directory of the build; every process that runs a pass sees it.
        config: configuration of the build.
        labels: names of the sources' labels; determined here, since a process that runs a pass may lack a user's
            source.
        bucket_rows: average number of rows in a bucket.
        largest_window: most items gathered in one place.
    """

    work: Path
    config: BuildConfig
    bucket_rows: int = BUCKET_ROWS
    largest_window: int = LARGEST_WINDOW
    labels: tuple[str, ...] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(joint_label_units(self.config.each_source)))

    def run(self, runner: SliceRunner) -> Selection:
        """Select, leaving the parts and the summary on disk; what an unfinished earlier run left is removed first."""
        shutil.rmtree(self.work / SELECTED, ignore_errors=True)
        found = self._deduplicate(runner)
        num_distinct = found.total("distinct")
        self._rank(runner, num_distinct)
        sample, num_kept = EVERYTHING, num_distinct
        target = self.config.curate.target
        if target is not None and target < num_distinct:
            sample, num_kept = fill(self._spread(runner, self._molecules), target, self.largest_window), target
        scaffolds = self._scaffolds(runner, sample)
        split = self._split(runner, sample, scaffolds, num_kept)
        num_written, num_valid = self._write(runner, sample, split)
        assert num_written == num_kept, (num_written, num_kept)
        for name in (DISTINCT, RANKED):
            shutil.rmtree(self._folder(name), ignore_errors=True)
        selection = Selection(
            num_read=found.total("read"),
            num_rejected=found.total("rejected"),
            num_duplicates=found.total("read") - found.total("rejected") - num_distinct,
            num_not_sampled=num_distinct - num_kept,
            num_kept=num_kept,
            num_valid=num_valid,
            num_scaffolds=scaffolds.number,
            num_single_scaffolds=scaffolds.sizes.get(1, 0),
            num_conflicting=found.conflicts.number,
            conflicts=found.conflicts.examples(self.work, list(self.labels)),
            num_left_out=found.num_left_out,
            scaffold_curve=scaffolds.curve(),
            top_scaffolds=scaffolds.named(self.work),
            sources=found.of_sources if len(found.of_sources) > 1 else (),
        )
        commit_selection(self.work, selection)
        return selection

    def num_rows(self) -> int:
        """Return how many rows were curated, which the names of the pieces contain."""
        return sum(piece.last - piece.first for piece in done_pieces(self.work, CURATED))

    def num_buckets(self, rows: int) -> int:
        """Return the number of buckets for a number of rows."""
        return max(1, -(-rows // self.bucket_rows))

    def _folder(self, name: str) -> Path:
        return self.work / SELECTED / name

    def _files(self, name: str) -> list[str]:
        return sorted(str(path) for path in self._folder(name).glob("[0-9]*.parquet"))

    def _commit(self, name: str, table: pa.Table) -> None:
        path = self._folder(name) / f"{table[BUCKET][0].as_py():06d}.parquet"
        commit_file(path, lambda temporary: pq.write_table(table.drop_columns(BUCKET), temporary))

    def _deduplicate(self, runner: SliceRunner) -> "_Deduplicated":
        """Keep the first row of each key."""
        buckets = self.num_buckets(self.num_rows())
        first_chunks = read_first_chunks(self.work, len(self.config.each_source))

        def read(group: int) -> pa.Table:
            table = read_hashes(self.work, group, with_labels=bool(self.labels))
            keys = table["key"].to_numpy()
            # Rejected rows are passed along to be counted; since they have no key, they are dealt by chunk.
            spread = np.where(table["rejected"].to_numpy(), table["chunk"].to_numpy().astype(np.uint64), keys)
            return table.append_column(BUCKET, pa.array((spread % np.uint64(buckets)).astype(np.int64)))

        def by_source(table: pa.Table) -> pa.Array:
            return pa.array([rows_by_source(table["chunk"].to_numpy(), first_chunks)], pa.list_(pa.int64()))

        def reduce(table: pa.Table) -> pa.Table:
            good = table.filter(pc.invert(table["rejected"])).drop_columns("rejected")
            first = good.take(pa.array(first_rows(*(good[name].to_numpy() for name in HASHES.names[:3]))))
            if len(first):
                self._commit(DISTINCT, first.select([*HASHES.names, BUCKET]))
            conflicts = find_conflicts(good, len(self.labels))
            return pa.table(
                {
                    "read": by_source(table),
                    "rejected": by_source(table.filter(table["rejected"])),
                    "distinct": by_source(first),
                    "left_out": [pc.sum(good["left_out"]).as_py() or 0],
                    "conflicting": [conflicts.number],
                    "first": pa.array([conflicts.first.ravel()], pa.list_(pa.int64())),
                }
            )

        counts = list(runner.shuffle(read, groups(self.work, CURATED), reduce, buckets))
        places = [place for table in counts for place in table["first"].to_pylist()]
        first = np.array([at for place in places for at in place], np.int64).reshape(-1, 4)
        each = {name: _total_by_source(counts, name, len(first_chunks)) for name in ("read", "rejected", "distinct")}
        return _Deduplicated(
            of_sources=tuple(
                SourceSelection(first_chunk=chunk, **{f"num_{name}": each[name][at] for name in each})
                for at, chunk in enumerate(first_chunks)
            ),
            conflicts=Conflicts.of(_total(counts, "conflicting"), first),
            num_left_out=_total(counts, "left_out"),
        )

    def _rank(self, runner: SliceRunner, num_distinct: int) -> None:
        """Group the molecules of each scaffold, and compute the scores by which they are sampled."""
        buckets = self.num_buckets(num_distinct)
        seed, temperature = self.config.seed, self.config.curate.temperature

        def read(path: str) -> pa.Table:
            table = pq.read_table(path)
            dealt = (table["scaffold"].to_numpy() % np.uint64(buckets)).astype(np.int64)
            return table.append_column(BUCKET, pa.array(dealt))

        def reduce(table: pa.Table) -> pa.Table:
            keys = table["key"].to_numpy()
            order = np.lexsort((keys, mix(keys, seed, RANK_STREAM), table["scaffold"].to_numpy()))
            table = table.take(pa.array(order))
            if temperature is not None:
                _, starts, sizes = runs(table["scaffold"].to_numpy())
                ranks = np.arange(len(table)) - np.repeat(starts, sizes)
                u = unit_interval(mix(keys[order], seed, SAMPLE_STREAM))
                scores = temperature_scores(np.repeat(sizes, sizes), ranks, u, num_distinct, temperature)
                table = table.append_column("score", pa.array(scores))
            self._commit(RANKED, table)
            return pa.table({"rows": [len(table)]})

        ranked = _total(runner.shuffle(read, self._files(DISTINCT), reduce, buckets), "rows")
        assert ranked == num_distinct, (ranked, num_distinct)

    def _molecules(self, path: str) -> Items:
        table = pq.read_table(path)
        return Items(
            scores=table["score"].to_numpy(), names=table["key"].to_numpy(), weights=np.ones(len(table), np.int64)
        )

    def _sampled(self, path: str, sample: Cut) -> pa.Table:
        """Read the ranked molecules that are in the sample, grouped by scaffold."""
        table = pq.read_table(path)
        if sample is EVERYTHING or "score" not in table.column_names:
            return table
        return table.filter(pa.array(sample.chosen(table["score"].to_numpy(), table["key"].to_numpy())))

    def _scaffolds(self, runner: SliceRunner, sample: Cut) -> Scaffolds:
        def count(path: str) -> pa.Table:
            return Scaffolds.of(self._sampled(path, sample)).to_table()

        total = Scaffolds()
        for table in runner.each(count, self._files(RANKED)):
            total = total.plus(Scaffolds.from_table(table))
        return total

    def _groups(self, table: pa.Table) -> tuple[UInt64, Int64]:
        """Return, for each molecule [M], the group that must not be split and the size of that group."""
        if self.config.curate.split == "random":
            return table["key"].to_numpy(), np.ones(len(table), np.int64)
        scaffolds = table["scaffold"].to_numpy()
        _, _, sizes = runs(scaffolds)
        return scaffolds, np.repeat(sizes, sizes)

    def _split(self, runner: SliceRunner, sample: Cut, scaffolds: Scaffolds, num_kept: int) -> ValidationGroups:
        """Choose groups for validation in the order of a hash, while they fit into the remaining budget.

        The budget is ``valid_count``, or ``valid_fraction`` of the molecules; at least one group if there are two.
        """
        curate, seed = self.config.curate, self.config.seed
        by_scaffold = curate.split == "scaffold"
        if (scaffolds.number if by_scaffold else num_kept) < 2:
            return ValidationGroups()
        smallest = min(scaffolds.sizes) if by_scaffold else 1
        budget = curate.valid_count or max(smallest, round(curate.valid_fraction * num_kept))
        if not (curate.valid_count or curate.valid_fraction) or budget > num_kept:
            return ValidationGroups()
        largest = max(smallest, budget // LARGEST_SCAFFOLD_SHARE)

        def candidates(path: str) -> Items:
            names, sizes = self._groups(self._sampled(path, sample))
            names, first = np.unique(names, return_index=True)
            small = sizes[first] <= largest
            return Items(scores=mix(names[small], seed, SPLIT_STREAM), names=names[small], weights=sizes[first][small])

        return ValidationGroups(
            cut=fill(self._spread(runner, candidates), budget, self.largest_window), largest=largest
        )

    def _write(self, runner: SliceRunner, sample: Cut, split: ValidationGroups) -> tuple[int, int]:
        """Write the parts; return their number of rows, and how many of these are for validation."""
        seed, first_chunks = self.config.seed, self._parts()

        def read(path: str) -> pa.Table:
            table = self._sampled(path, sample)
            names, sizes = self._groups(table)
            valid = (sizes <= split.largest) & split.cut.chosen(mix(names, seed, SPLIT_STREAM), names)
            table = table.select(["chunk", "position"]).append_column("valid", pa.array(valid))
            part = np.searchsorted(first_chunks, table["chunk"].to_numpy(), side="right") - 1
            return table.append_column(BUCKET, pa.array(part.astype(np.int64)))

        def reduce(table: pa.Table) -> pa.Table:
            commit_part(self.work, table[BUCKET][0].as_py(), table)
            return pa.table({"rows": [len(table)], "valid": [int(np.count_nonzero(table["valid"].to_numpy()))]})

        buckets = self.num_buckets(self.num_rows())
        counts = list(runner.shuffle(read, self._files(RANKED), reduce, buckets))
        return _total(counts, "rows"), _total(counts, "valid")

    def _parts(self) -> Int64:
        """Return the number of the first chunk of each part; every part but the last has ``bucket_rows`` or more."""
        first, rows, last = list[int](), self.bucket_rows, -1
        for piece in done_pieces(self.work, CURATED):
            if rows >= self.bucket_rows and piece.chunk != last:
                first.append(piece.chunk)
                rows = 0
            rows, last = rows + piece.last - piece.first, piece.chunk
        return np.array(first, np.int64)

    def _spread(self, runner: SliceRunner, items: Callable[[str], Items]) -> "Spread":
        return Spread(runner=runner, files=self._files(RANKED), items=items)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Deduplicated:
    """The result of the first pass.

    Attributes:
        of_sources: rows of each source.
        conflicts: duplicates whose labels contradict the stored row.
        num_left_out: conformers of the sources that are not a plausible geometry of their molecule.
    """

    of_sources: tuple[SourceSelection, ...]
    conflicts: Conflicts
    num_left_out: int

    def total(self, name: str) -> int:
        """Return a count, such as "read", summed over all sources."""
        return sum(getattr(source, f"num_{name}") for source in self.of_sources)


def _total_by_source(tables: Iterable[pa.Table], name: str, num_sources: int) -> list[int]:
    rows = [row for table in tables for row in table[name].to_pylist()]
    return [sum(row[at] for row in rows) for at in range(num_sources)]


def _total(tables: Iterable[pa.Table], name: str) -> int:
    return sum(sum(table[name].to_pylist()) for table in tables)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """Items of many files as one collection."""

    runner: SliceRunner
    files: Sequence[str]
    items: Callable[[str], Items]

    def histogram(self, first: int, shift: int) -> tuple[Int64, Int64]:
        """Return the number of items and their weight in each of 2^16 bins of width 2^shift, starting at ``first``."""
        items = self.items  # so that the runner itself is not pickled

        def count(path: str) -> pa.Table:
            counts, weights = items(path).histogram(first, shift)
            bins = np.flatnonzero(counts)
            return pa.table({"bin": bins, "count": counts[bins], "weight": weights[bins]})

        counts, weights = np.zeros((2, 1 << BITS_OF_A_ROUND), np.int64)
        for table in self.runner.each(count, self.files):
            bins = table["bin"].to_numpy()
            np.add.at(counts, bins, table["count"].to_numpy())
            np.add.at(weights, bins, table["weight"].to_numpy())
        return counts, weights

    def between(self, first: int, last: int) -> Items:
        """Return the items whose scores are ``first`` to ``last``, both included."""
        items = self.items

        def gather(path: str) -> pa.Table:
            return pa.table(dataclasses.asdict(items(path).between(first, last)))

        whole = pa.concat_tables(self.runner.each(gather, self.files))
        return Items(**{field.name: whole[field.name].to_numpy() for field in dataclasses.fields(Items)})
