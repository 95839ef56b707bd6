"""The output directory of a build: claim it, and turn the finished pieces into a store. Imports Arrow and the store.

Layout while unfinished: ``.build/`` holds plan.json (every parameter), a lock, and the pieces. The manifest is written
last, then ``.build/`` is removed.
"""

import collections
import contextlib
import dataclasses
import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rdkit import rdBase

from conformer_gen import worker
from conformer_gen.config import BuildConfig
from conformer_gen.curate import UInt64
from conformer_gen.selection import Selection
from conformer_gen.sources.reader import has_geometry, input_files, label_units
from conformer_gen.worker import CURATED, EMBEDDED, FAILURES
from unimol_scale import config as strict
from unimol_scale.errors import ConformerError, SourceError, StoreError
from unimol_scale.store.arrow_backend import ArrowShard, ColumnViews
from unimol_scale.store.manifest import (
    MANIFEST_NAME,
    SPLITS,
    Counts,
    Manifest,
    ShardEntry,
    SplitEntry,
    read_manifest,
)
from unimol_scale.store.schema import COORDINATE_SCALE, PLANAR_SCALE, Layout
from unimol_scale.store.shards import commit_file, commit_text, size_histogram, write_shard

WORK_NAME = ".build"
PLAN_NAME = "plan.json"
FAILURES_NAME = "failures.parquet"
FAILURE_COLUMNS = ("id", "smiles", "stage", "reason", "detail")
Tree = dict[str, Any]


def plan_build(config: BuildConfig) -> Tree:
    """Return everything that the content of the store depends on, as the fields of its manifest.

    Raises:
        SourceError: an input is missing.
    """
    geometry_from_file = has_geometry(config.source)
    recipe = (
        {"method": "from file"} if geometry_from_file else {"method": "ETKDGv3, MMFF94, else UFF, else as embedded"}
    )
    if not geometry_from_file:
        recipe |= strict.to_tree(config.embed)
        del recipe["hydrogens"]
    return {
        "backend": config.backend,
        "coordinate_scale": None if geometry_from_file else COORDINATE_SCALE,
        "planar_scale": PLANAR_SCALE,
        "labels": dict(label_units(config.source)),
        "source": config.source.name,
        "seed": config.seed,
        "hydrogens": config.embed.hydrogens,
        "conformer_recipe": recipe,
        "parameters": {
            # Names and sizes, not paths: a store does not say on which machine it was made.
            "inputs": [f"{file.name} ({file.stat().st_size} bytes)" for file in input_files(config.source)],
            "limit": config.source.limit,
            "smiles_column": config.source.smiles_column,
            "id_column": config.source.id_column,
            **strict.to_tree(config.curate),
            "shard_rows": config.shard_rows,
            "limit_s": config.limit_s,
        },
        "versions": {"rdkit": rdBase.rdkitVersion},
    }


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return "key: theirs there, ours here" for every key, dotted, whose values differ."""
    found = []
    for key in [*ours, *(key for key in theirs if key not in ours)]:
        here, there = ours.get(key), theirs.get(key)
        if isinstance(here, Mapping) and isinstance(there, Mapping):
            found += differences(here, there, f"{prefix}{key}.")
        elif here != there:
            found.append(f"{prefix}{key} is {there!r} there and {here!r} here")
    return found


def claim(output: Path, plan: Tree, task_size: int) -> bool:
    """Make ``output`` ours to build in; touch nothing if it is not.

    Returns:
        True if the store that the plan describes is already finished there.

    Raises:
        StoreError: the directory holds something else, or a build with other parameters.
    """
    work = output / WORK_NAME
    remedy = f"choose another --output, or delete {output} yourself"
    if output.exists() and not output.is_dir():
        raise StoreError(f"{output} is a file; {remedy}")
    if (output / MANIFEST_NAME).is_file():
        tree = strict.to_tree(read_manifest(output)[0])
        _refuse(differences(plan, {key: tree[key] for key in plan}), f"{output} holds a finished store of", remedy)
        shutil.rmtree(work, ignore_errors=True)  # left over if the last run was killed after its manifest
        return True
    plan = {**plan, "task_size": task_size}
    plan_file = work / PLAN_NAME
    if plan_file.is_file():
        try:
            theirs = json.loads(plan_file.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise StoreError(f"{plan_file} is damaged: {error}; {remedy}") from error
        _refuse(differences(plan, theirs), f"{output} holds an unfinished build of", remedy)
        return False
    if output.exists() and any(path.name != WORK_NAME for path in output.iterdir()):
        raise StoreError(f"{output} exists and holds something else than a conformer store; {remedy}")
    commit_text(plan_file, json.dumps(plan, indent=1) + "\n")
    return False


def _refuse(found: list[str], what: str, remedy: str) -> None:
    if found:
        raise StoreError(f"{what} other parameters: {'; '.join(found)}; give the same, {remedy}")


@contextlib.contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep other builds out of the directory while the block runs; the system unlocks it when the process ends.

    Raises:
        StoreError: another process is building there.
    """
    with (output / WORK_NAME / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(f"another process is building in {output} right now; wait for it to end") from error
        yield


def commit_failures(output: Path) -> int:
    """Write failures.parquet, in the order of the source's rows; return how many there are."""
    work = output / WORK_NAME
    tables = []
    for piece in worker.done_pieces(work, CURATED):
        table = pq.read_table(piece.path(work, CURATED))
        bad = table.filter(pc.is_valid(table["reason"]))
        stage = pa.array(["curate"] * bad.num_rows, pa.string())
        tables.append((piece.chunk, bad.append_column("stage", stage).select(worker.FAILURE_SCHEMA.names)))
    for piece in worker.done_pieces(work, EMBEDDED):
        tables.append((piece.chunk, pq.read_table(piece.path(work, FAILURES), schema=worker.FAILURE_SCHEMA)))
    chunks = [pa.array(np.full(table.num_rows, chunk, np.int64)) for chunk, table in tables]
    whole = pa.concat_tables([worker.FAILURE_SCHEMA.empty_table(), *(table for _, table in tables)])
    whole = whole.append_column("chunk", pa.chunked_array(chunks, pa.int64()))
    whole = whole.sort_by([("chunk", "ascending"), ("position", "ascending")]).select(FAILURE_COLUMNS)
    commit_file(output / FAILURES_NAME, lambda path: pq.write_table(whole, path))
    return int(whole.num_rows)


def require_molecules(selection: Selection, output: Path) -> None:
    """Stop before embedding if there is nothing to embed.

    Raises:
        SourceError: no row of the source is a molecule; failures.parquet says why.
    """
    if selection.num_kept:
        return
    if not selection.num_read:
        raise SourceError("the source has no rows: nothing to build")
    commit_failures(output)
    raise SourceError(
        f"none of the {selection.num_read:,} rows of the source is a usable molecule; "
        f"{output / FAILURES_NAME} has the reason for each"
    )


def assemble(output: Path, config: BuildConfig, plan: Tree, selection: Selection) -> Manifest:
    """Write shards and failures from the finished pieces; return the manifest, which the caller writes last.

    Raises:
        ConformerError: no molecule has a conformer.
    """
    failed = commit_failures(output)
    splits = dict(zip(SPLITS, _write_splits(output, config, plan, selection.valid_groups), strict=True))
    stored = sum(split.rows for split in splits.values())
    if not stored:
        raise ConformerError(
            f"none of {selection.num_kept:,} molecules got a conformer; {output / FAILURES_NAME} has the reasons"
        )
    duplicates = selection.num_read - selection.num_rejected - selection.num_kept
    assert selection.num_read == stored + duplicates + failed, (selection, stored, duplicates, failed)
    counts = Counts(read=selection.num_read, stored=stored, duplicates=duplicates, failed=failed)
    return strict.build(
        Manifest,
        {**plan, "counts": dataclasses.asdict(counts), "splits": strict.to_tree(splits)},
        strict.Origin(name="build"),
    )


def _write_splits(output: Path, config: BuildConfig, plan: Tree, valid_groups: UInt64) -> list[SplitEntry]:
    """Deal the records of all pieces, in order, into shards of ``shard_rows`` molecules (a split's last has fewer)."""
    layout = Layout(plan["coordinate_scale"], tuple(plan["labels"]))
    writers = [_SplitWriter(output, name, config) for name in SPLITS]
    column = "scaffold" if config.curate.split == "scaffold" else "key"
    work = output / WORK_NAME
    for piece in worker.done_pieces(work, EMBEDDED):
        batch = ArrowShard(piece.path(work, EMBEDDED), layout).batch
        is_valid = np.isin(batch[column].to_numpy(), valid_groups)
        for writer, chosen in zip(writers, (~is_valid, is_valid), strict=True):
            writer.add(batch.take(pa.array(np.flatnonzero(chosen))))
    return [writer.finish() for writer in writers]


class _SplitWriter:
    def __init__(self, output: Path, name: str, config: BuildConfig) -> None:
        self._output, self._name, self._config = output, name, config
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0
        self._entries: list[ShardEntry] = []
        self._sizes: collections.Counter[int] = collections.Counter()

    def add(self, batch: pa.RecordBatch) -> None:
        self._waiting.append(batch)
        self._rows += batch.num_rows
        while self._rows >= self._config.shard_rows:
            self._write(self._config.shard_rows)

    def finish(self) -> SplitEntry:
        if self._rows:
            self._write(self._rows)
        return SplitEntry(shards=tuple(self._entries), size_histogram=size_histogram(self._sizes.elements()))

    def _write(self, rows: int) -> None:
        whole = pa.concat_batches(self._waiting)
        # take copies, which gives every column offset 0 whatever pieces it came from: equal records, equal bytes.
        batch = whole.take(pa.array(np.arange(rows)))
        self._waiting = [whole.take(pa.array(np.arange(rows, whole.num_rows)))]
        self._rows -= rows
        file = f"{self._name}/shard-{len(self._entries):05d}"
        self._entries.append(write_shard(self._output, file, batch, self._config.backend))
        self._sizes.update(np.diff(ColumnViews.of(batch).atom_offsets).tolist())
