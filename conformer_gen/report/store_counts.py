"""Statistics of a finished build, counted shard by shard from the store's columns. Imports Arrow, NumPy and the store.

Each shard is a job; a job holds its shard and the scaffolds of the validation split, and returns counts.
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

NUM_CODES = 256  # values of a uint8 column
ENERGY_STEP, ENERGY_STEPS = 0.5, 50  # kcal/mol, and number of steps; the last one also counts everything above


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cause:
    """Why rows failed: the reason, the number of rows, and the first of them."""

    stage: str
    reason: str
    rows: int
    id: str
    smiles: str
    detail: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoreCounts:
    """The numbers that the tables and pictures of a report show.

    Attributes:
        sizes: split → atoms → molecules.
        elements: atomic number → atoms, most frequent first.
        origins: origin → conformers.
        stereo: stereo → conformers.
        conformers: conformers per molecule → molecules.
        energies: [50] number of conformers by energy above the molecule's lowest conformer, in steps of 0.5 kcal/mol.
            The lowest ones, and molecules in which a conformer has no energy, are not counted. The last entry also
            counts all higher energies.
        valid_scaffolds: scaffolds of the validation split.
        shared_scaffolds: those of them that are also in the training split.
        causes: causes of failures, most frequent first.
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
    """The contribution of one shard.

    Attributes:
        codes: [4, 256] atoms of each element; conformers of each origin; conformers of each stereo; molecules by number
            of conformers.
        energies: [50] as ``StoreCounts.energies``.
        scaffolds: sorted; for a training shard only those that validation has too.
    """

    codes: Int64
    energies: Int64
    scaffolds: UInt64


def count_store(store: Store, failures: Path, run: RunJobs) -> StoreCounts:
    """Read the store shard by shard and count.

    Args:
        store: all of its shards exist; every process that runs a job finds them at its path.
        failures: failures.parquet.
        run: runs the jobs.
    """
    codes, energies = np.zeros((4, NUM_CODES), np.int64), np.zeros(ENERGY_STEPS, np.int64)
    scaffolds = {name: np.empty(0, np.uint64) for name in ("valid", "train")}
    for name in scaffolds:  # validation first: of the training scaffolds only those of validation matter
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
    """Count one shard of a split. Return its scaffolds, restricted to those in ``within`` unless that is None."""
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
    """Count conformers by their energy above the lowest of their molecule, leaving out the lowest itself.

    Args:
        energy: [C] kcal/mol of all conformers, molecule by molecule; NaN where there is none.
        offsets: [B + 1] first conformer of each molecule.

    Returns:
        [50] as ``StoreCounts.energies``.
    """
    lengths = np.diff(offsets)
    lowest = np.minimum.reduceat(energy, offsets[:-1]) if len(lengths) else np.empty(0, np.float32)
    above = energy - np.repeat(lowest, lengths)  # all NaN for a molecule with a NaN energy
    steps = (above[~np.isnan(above)] / ENERGY_STEP).astype(np.int64)
    histogram = np.bincount(np.minimum(steps, ENERGY_STEPS - 1), minlength=ENERGY_STEPS)
    histogram[0] -= np.count_nonzero(~np.isnan(lowest))
    return histogram


def count_causes(failures: Path) -> tuple[Cause, ...]:
    """Count failures.parquet by stage and reason, most frequent first; the file is read in parts."""
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
