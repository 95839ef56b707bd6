"""Operations on a whole store: describe, verify, convert. Imports the store and rich."""

import collections
import dataclasses
import functools
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.table import Table

from unimol_scale.common.files import commit_file, hash_file
from unimol_scale.common.output_checks import require_folder
from unimol_scale.common.progress import track
from unimol_scale.common.trees import flatten
from unimol_scale.common.units import byte_size
from unimol_scale.errors import StoreError
from unimol_scale.store.arrow_backend import ColumnViews
from unimol_scale.store.geometry_faults import Conformers, Fault, find_faults, is_drawn
from unimol_scale.store.manifest import MANIFEST_NAME, Backend, ShardEntry, SplitEntry
from unimol_scale.store.schema import ConformerOrigin, ragged_indices
from unimol_scale.store.shards import Store, content_counts, open_store, read_shard, write_manifest, write_shard

RECORDS_AT_ONCE = 5_000  # geometries checked at once; takes some tens of MB
# The builder writes these beside the shards; converting a store copies them.
SIDE_FILES = ("failures.parquet", "report.md", "*.png")


def describe(store: Store) -> Table:
    """Return what ``store info`` prints."""
    manifest = store.manifest
    table = Table(title=str(store.path), show_header=False, title_justify="left")
    table.add_column()
    table.add_column(overflow="fold")
    stored_as = "float32" if manifest.coordinate_scale is None else f"int16, {manifest.coordinate_scale} Å"
    counts = manifest.counts
    rows = {
        "source": f"{manifest.source}, seed {manifest.seed}",
        "rows read": f"{counts.read:,} = {counts.stored:,} stored + {counts.left_out}",
    }
    for tag, part in manifest.counts_by_source.items():
        rows[f"rows of {tag}"] = (
            f"{part.read:,} = {part.stored:,} stored + {part.duplicates:,} duplicates + {part.failed:,} failed + "
            f"{part.not_sampled:,} not sampled"
        )
    for name, split in manifest.splits.items():
        shards = split.shards
        atoms, conformers, size = (sum(getattr(s, key) for s in shards) for key in ("atoms", "conformers", "bytes"))
        rows[name] = (
            f"{split.rows:,} molecules, {conformers:,} conformers, {atoms / max(split.rows, 1):.1f} atoms each, "
            f"{len(shards)} shards, {byte_size(size)} ({size / max(split.rows, 1):.0f} bytes a molecule)"
        )
        for key in ("origins", "stereo"):
            if total := _summed(getattr(shard, key) for shard in shards):
                rows[f"{name}, {key}"] = ", ".join(f"{kind} {count:,}" for kind, count in total.items())
    if manifest.labels:
        labelled = _summed(shard.labelled for split in manifest.splits.values() for shard in split.shards)
        rows["labels"] = "\n".join(
            f"{name} ({unit or 'no unit'}): {labelled.get(name, 0):,} molecules"
            for name, unit in manifest.labels.items()
        )
    if manifest.atom_labels:
        rows["labels of atoms"] = ", ".join(f"{name} ({unit})" for name, unit in manifest.atom_labels.items())
    rows |= {
        "format": f"{manifest.backend}, schema {manifest.schema_version}, coordinates {stored_as}",
        "hydrogens": "kept" if manifest.hydrogens else "removed",
        "conformers": _listed(manifest.conformer_recipe),
        "parameters": _listed(flatten(manifest.parameters)),
        "versions": _listed(manifest.versions),
        "manifest hash": store.manifest_sha256,
    }
    for key, value in rows.items():
        table.add_row(key, value)
    return table


def _summed(counts: Iterable[Mapping[str, int]]) -> collections.Counter[str]:
    total: collections.Counter[str] = collections.Counter()
    for part in counts:
        total.update(part)
    return total


def _listed(values: Mapping[str, Any]) -> str:
    texts = {key: ", ".join(value) if isinstance(value, list) else str(value) for key, value in values.items()}
    return "\n".join(f"{key}: {text}" for key, text in texts.items() if values[key] is not None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Implausible:
    """An implausible conformer: its molecule's id and shard, its number from 0, and what is wrong with it."""

    id: str
    file: str
    conformer: int
    problem: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verified:
    """What ``verify`` found.

    Attributes:
        damages: one line for each damaged shard: its file and what is wrong.
        implausible: conformers of intact shards that have coincident atoms or impossible distances.
    """

    damages: tuple[str, ...]
    implausible: tuple[Implausible, ...]


def verify(store: Store) -> Verified:
    """Rehash every shard, decode every record, and check every conformer with ``geometry_faults``.

    Args:
        store: the store to check.

    Returns:
        What is wrong; both lists are empty for a sound store.
    """
    damages, implausible = [], []
    entries = [entry for split in store.manifest.splits.values() for entry in split.shards]
    for entry in track(entries, len(entries), "verifying shards"):
        try:
            batch = _verify_shard(store, entry)
        except StoreError as error:
            damages.append(f"{entry.file}: {error}")
        else:
            implausible += _implausible(ColumnViews.of(batch), store.manifest.coordinate_scale, entry.file)
    return Verified(damages=tuple(damages), implausible=tuple(implausible))


def _implausible(views: ColumnViews, scale: float | None, file: str) -> list[Implausible]:
    """Check the conformers of a shard; a depiction only has to be a drawing."""
    found = []
    for start in range(0, len(views.atom_offsets) - 1, RECORDS_AT_ONCE):
        rows = np.arange(start, min(start + RECORDS_AT_ONCE, len(views.atom_offsets) - 1))
        per_row = views.conformer_offsets[rows + 1] - views.conformer_offsets[rows]
        owners = np.repeat(rows, per_row)
        numbers = ragged_indices(np.zeros(len(rows), np.int64), per_row)
        columns = views.gather(owners, numbers, scale)
        firsts = np.cumsum(columns.num_atoms) - columns.num_atoms
        conformers = Conformers(
            num_atoms=columns.num_atoms,
            atomic_number=columns.atomic_number,
            bonds=columns.bond_index.astype(np.int64) + np.repeat(firsts, columns.num_bonds)[:, None],
            coordinates=columns.coordinates,
        )
        faults = find_faults(conformers, old_complexes=True)
        passed = (columns.conformer_origin == ConformerOrigin.FLAT) & is_drawn(conformers)
        bad = np.flatnonzero((faults.code != Fault.NONE) & ~passed)
        ids = views.batch["id"].take(pa.array(owners[bad])).to_pylist()
        found += [
            Implausible(id=name, file=file, conformer=int(numbers[at]), problem=faults.describe(at))
            for name, at in zip(ids, bad.tolist(), strict=True)
        ]
    return found


def _verify_shard(store: Store, entry: ShardEntry) -> pa.RecordBatch:
    path = store.path / entry.file
    if not path.is_file():
        raise StoreError("the file is missing")
    size = path.stat().st_size
    if size != entry.bytes:
        raise StoreError(f"the file has {size} bytes, the manifest says {entry.bytes}")
    if hash_file(path) != entry.sha256:
        raise StoreError("its content has changed since it was written (the SHA-256 differs)")
    batch = read_shard(store, entry)
    ColumnViews.of(batch).check()
    for key, found in content_counts(batch).items():
        if found != getattr(entry, key):
            raise StoreError(f"its {key} are {found}, the manifest says {getattr(entry, key)}")
    return batch


def prepare_output(output: Path) -> None:
    """Check that a directory can be filled.

    Raises:
        StoreError: the directory exists and is not empty; nothing in it is changed.
        ConfigError: the directory is not writable.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise StoreError(f"{output} exists and is not empty; choose another --output or empty it yourself")
    require_folder(output)
    output.mkdir(parents=True, exist_ok=True)


def convert(store: Store, backend: Backend, output: Path) -> Store:
    """Write the store in another format. Converting it back reproduces the bytes of the original shards.

    Args:
        store: the store to read.
        backend: the format to write.
        output: a directory that is absent or empty.

    Raises:
        StoreError: the output directory is not empty, or a shard cannot be read.
    """
    prepare_output(output)
    splits = {}
    for name, split in store.manifest.splits.items():
        entries = []
        for entry in track(split.shards, len(split.shards), f"converting {name}"):
            file = Path(entry.file).with_suffix("").as_posix()
            entries.append(write_shard(output, file, read_shard(store, entry), backend))
        splits[name] = SplitEntry(shards=tuple(entries), size_histogram=split.size_histogram)
    for pattern in SIDE_FILES:
        for side in sorted(store.path.glob(pattern)):
            commit_file(output / side.name, functools.partial(_copy, side))
    assert not (output / MANIFEST_NAME).exists()
    write_manifest(output, dataclasses.replace(store.manifest, backend=backend, splits=splits))
    return open_store(output)


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
