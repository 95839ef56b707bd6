"""What a build amounts to, counted shard by shard from the store's own columns. Imports Arrow, NumPy and the store.

Each shard is a job; a job holds its shard and the scaffolds of the validation split, and returns counters.
"""

import collections
import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from conformer_gen.selection.replacements import RunJobs
from conformer_gen.selection.sampling import UInt64
from unimol_scale.store.arrow_backend import ColumnViews
from unimol_scale.store.schema import ConformerOrigin, ConformerStereo, Float32, Int32, Int64
from unimol_scale.store.shards import Store, read_shard

NUM_CODES = 256  # of a uint8 column
ENERGY_STEP, ENERGY_STEPS = 0.5, 50  # kcal/mol, and how many; what lies above is counted in the last


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cause:
    """Why rows failed: the reason, how many rows it took, and the first of them."""

    stage: str
    reason: str
    rows: int
    id: str
    smiles: str
    detail: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoreCounts:
    """What the tables and pictures of a report show.

    Attributes:
        sizes: split → atoms → molecules.
        elements: atomic number → atoms, most frequent first.
        origins: origin → conformers.
        stereo: stereo → conformers.
        conformers: conformers of a molecule → molecules.
        energies: [50] all conformers but the lowest of a molecule by their energy above it, in steps of 0.5 kcal/mol;
            of molecules with an energy for each conformer. The last also counts what lies above.
        valid_scaffolds: scaffolds of the validation split.
        shared_scaffolds: of them, those that are also in the training split.
        causes: of failures, most frequent first.
    """

    sizes: Mapping[str, Mapping[int, int]]
    elements: Mapping[int, int]
    origins: Mapping[ConformerOrigin, int]
    stereo: Mapping[ConformerStereo, int]
    conformers: Mapping[int, int]
    energies: Int64
    valid_scaffolds: int
    shared_scaffolds: int
    causes: tuple[Cause, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ShardCounts:
    """What one shard adds.

    Attributes:
        codes: [4, 256] atoms of each element; conformers of each origin and of each stereo; molecules by conformers.
        energies: [50] as ``StoreCounts.energies``.
        scaffolds: sorted; of a training shard only those that validation has, too.
    """

    codes: Int64
    energies: Int64
    scaffolds: UInt64


def count_store(store: Store, failures: Path, run: RunJobs) -> StoreCounts:
    """Read the store shard by shard and count.

    Args:
        store: all of its shards are there; every process that runs a job finds them at its path.
        failures: failures.parquet.
        run: runs the jobs.
    """
    codes, energies = np.zeros((4, NUM_CODES), np.int64), np.zeros(ENERGY_STEPS, np.int64)
    scaffolds = {name: np.empty(0, np.uint64) for name in ("valid", "train")}
    for name in scaffolds:  # in this order: of the training split only scaffolds of validation are of interest
        within = None if name == "valid" else scaffolds["valid"]
        count = functools.partial(_count_shard, store, name, within)
        for shard in run(count, range(len(store.manifest.splits[name].shards))):
            codes += shard.codes
            energies += shard.energies
            scaffolds[name] = np.union1d(scaffolds[name], shard.scaffolds)
    elements, origins, stereo, conformers = codes
    return StoreCounts(
        sizes={
            name: {int(size): count for size, count in split.size_histogram.items()}
            for name, split in store.manifest.splits.items()
        },
        elements=_by_count(elements),
        origins={origin: int(origins[origin]) for origin in ConformerOrigin if origins[origin]},
        stereo={kind: int(stereo[kind]) for kind in ConformerStereo if stereo[kind]},
        conformers={int(count): int(conformers[count]) for count in np.flatnonzero(conformers)},
        energies=energies,
        valid_scaffolds=len(scaffolds["valid"]),
        shared_scaffolds=len(scaffolds["train"]),
        causes=count_causes(failures),
    )


def _count_shard(store: Store, split: str, within: UInt64 | None, number: int) -> _ShardCounts:
    """Count one shard of a split; of its scaffolds take those that are in ``within``, None: all."""
    batch = read_shard(store, store.manifest.splits[split].shards[number])
    views = ColumnViews.of(batch)
    columns = (
        views.atomic_number,
        views.conformer_origin,
        _flat(batch, "conformer_stereo"),
        np.diff(views.conformer_offsets),
    )
    found = np.unique(batch["scaffold"].to_numpy())
    return _ShardCounts(
        codes=np.stack([np.bincount(column, minlength=NUM_CODES) for column in columns]),
        energies=energy_histogram(_flat(batch, "energy"), views.conformer_offsets),
        scaffolds=found if within is None else np.intersect1d(found, within, assume_unique=True),
    )


def _flat(batch: pa.RecordBatch, name: str) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = batch[name].flatten().to_numpy()
    return values


def _by_count(counts: Int64) -> dict[int, int]:
    return {int(code): int(counts[code]) for code in np.argsort(-counts, kind="stable") if counts[code]}


def energy_histogram(energy: Float32, offsets: Int32) -> Int64:
    """Count all conformers but the lowest of a molecule by their energy above it.

    Args:
        energy: [C] kcal/mol of all conformers, molecule after molecule; NaN where there is none.
        offsets: [B + 1] first conformer of each molecule.

    Returns:
        [50] as ``StoreCounts.energies``.
    """
    lengths = np.diff(offsets)
    lowest = np.minimum.reduceat(energy, offsets[:-1]) if len(lengths) else np.empty(0, np.float32)
    above = energy - np.repeat(lowest, lengths)  # NaN throughout the molecule if one of its energies is
    steps = (above[~np.isnan(above)] / ENERGY_STEP).astype(np.int64)
    histogram = np.bincount(np.minimum(steps, ENERGY_STEPS - 1), minlength=ENERGY_STEPS)
    histogram[0] -= np.count_nonzero(~np.isnan(lowest))
    return histogram


def count_causes(failures: Path) -> tuple[Cause, ...]:
    """Count failures.parquet by stage and reason, most frequent first; read a part at a time."""
    rows: collections.Counter[tuple[str, str]] = collections.Counter()
    first: dict[tuple[str, str], dict[str, Any]] = {}
    with pq.ParquetFile(failures) as file:
        for batch in file.iter_batches():
            keys = batch.select(["stage", "reason"]).to_pylist()
            for at, key in enumerate((row["stage"], row["reason"]) for row in keys):
                rows[key] += 1
                if key not in first:
                    first[key] = {name: batch[name][at].as_py() or "" for name in ("id", "smiles", "detail")}
    return tuple(
        Cause(stage=stage, reason=reason, rows=count, **first[stage, reason])
        for (stage, reason), count in rows.most_common()
    )
