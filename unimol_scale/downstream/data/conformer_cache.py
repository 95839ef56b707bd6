"""Conformers of distinct molecules, built for those that the cache does not have. Imports the builder.

A cache is a folder of sets, whose names begin with that of the recipe. A set is a store that ``conformer_gen`` built
(the same curation, conformers and seed as for pretraining, all of it in the split train) and the index of its molecules,
written last. A molecule is taken from the first set that has it; those in no set are built into a new one. A conformer
depends on molecule and recipe alone, so it does not matter which set it comes from. Fine-tunings that want the same
molecules at the same time share the work: one builds, the others wait.

A molecule that brings its own geometry is found by this geometry, too. Such molecules go into sets of their own.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from rdkit import rdBase

from conformer_gen.chemistry.config import ConformerConfig, CurateConfig
from conformer_gen.chemistry.conformers import ConformerFailure, CuratedMolecule, generate_conformers
from conformer_gen.chemistry.curate import Curated
from conformer_gen.chemistry.identity import stable_hash
from conformer_gen.config import BuildConfig
from conformer_gen.report.progress_samples import SampleLog
from conformer_gen.report.stage_rates import DRAWING, GENERATING
from conformer_gen.run import driver
from conformer_gen.run.assemble import FAILURES_NAME
from conformer_gen.run.in_process_executor import InProcessExecutor
from conformer_gen.sources.config import SourceConfig
import unimol_scale.config as strict
from unimol_scale.common.files import commit_file
from unimol_scale.common.machine.locks import wait_for_lock
from unimol_scale.common.progress import StageProgress, told_after
from unimol_scale.common.text.json_files import hash_json
from unimol_scale.downstream.data.own_geometry.smiles_with_geometry import with_remedy
from unimol_scale.downstream.data.own_geometry.geometry_store import write_own_geometry
from unimol_scale.errors import ConformerError, StoreError
from unimol_scale.store.manifest import ShardEntry, SplitEntry
from unimol_scale.store.schema import SCHEMA_VERSION, Int64, Layout
from unimol_scale.store.shards import Store, StoreSplit, open_store
from unimol_scale.store.source import LocalShards

UInt64 = npt.NDArray[np.uint64]

# Part of every recipe: raise it when the builder makes other conformers, or refuses others, with the same settings.
RECIPE_VERSION = 2
_log = logging.getLogger(__name__)
STORE_NAME, INDEX_NAME = "store", "index.parquet"
# As many conformers are made in this process; starting another one, or Ray, takes longer.
FEW = 256
QUIET = 32  # so many take a second or so, and show no progress
PIECE = 50  # molecules that a process of Ray takes at a time: some seconds, after each of which the progress moves
SLOW_S = 10.0
SAY_2D = (
    "Making conformers takes a while; they are kept in the cache. 2D needs none of this: take inputs 2d (predict has "
    "the inputs that its model was fine-tuned with)."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
    """A molecule: the SMILES as it was given, and what curation made of it."""

    text: str
    curated: Curated

    @functools.cached_property
    def key(self) -> int:
        """What it is found by: its canonical SMILES, and its own geometry if it has one."""
        own = self.curated.conformers
        geometry = () if own is None else (hashlib.sha256(own.tobytes()).hexdigest(),)
        return stable_hash(self.curated.smiles, *geometry)


class Cached(NamedTuple):
    """Where molecules are.

    Attributes:
        split: the molecules that were asked for, and others of the same sets.
        position: key → its place in the split.
        failures: key → why there is no conformer.
    """

    split: StoreSplit
    position: dict[int, int]
    failures: dict[int, ConformerFailure]


def cached_store(
    molecules: Sequence[Given],
    cache: Path,
    curate: CurateConfig,
    conformers: ConformerConfig,
    workers: int | None,
) -> Cached:
    """Return where distinct molecules are; those that are in no set of the cache are built into a new one.

    Args:
        molecules: distinct, in the order in which a new set gets them.
        cache: folder of the sets; made if it is not there.
        curate: how they were curated.
        conformers: how to make them.
        workers: processes for more than ``FEW`` conformers; None: all cores.

    Raises:
        StoreError: the cache cannot be written, or is damaged.
    """
    sets = _Sets(cache, _recipe(conformers))
    key_K = np.array([molecule.key for molecule in molecules], np.uint64)
    try:
        found = _found(key_K, sets)
        pairs = zip(molecules, key_K.tolist(), strict=True)
        missing = [one for one, key in pairs if key not in found.position and key not in found.failures]
        if own := [one for one in missing if one.curated.conformers is not None]:
            _add_own_set(own, sets.folder_of(own, curate), conformers)
        if make := [one for one in missing if one.curated.conformers is None]:
            _add_set(make, sets.folder_of(make, curate), curate, conformers, workers)
        if missing:
            found = _found(key_K, sets)
        return found
    except OSError as error:
        raise StoreError(f"conformers cannot be kept in {cache}: {error}") from error


class _Index(NamedTuple):
    """The molecules of one set: keys, ascending, their rows in its store (-1: failed), and why some failed."""

    key_K: UInt64
    row_K: Int64
    failures: dict[int, ConformerFailure]

    def rows(self, wanted_K: UInt64) -> Int64:
        """Return the row of each wanted key, -1 where it failed, -2 where it is not here."""
        if not len(self.key_K):
            return np.full(len(wanted_K), -2)
        at_K = np.minimum(np.searchsorted(self.key_K, wanted_K), len(self.key_K) - 1)
        return np.where(self.key_K[at_K] == wanted_K, self.row_K[at_K], -2)


@dataclasses.dataclass(frozen=True)
class _Sets:
    """The sets of one recipe in a cache."""

    cache: Path
    recipe: str

    def folder_of(self, molecules: Sequence[Given], curate: CurateConfig) -> Path:
        """Return where the set of molecules is, or is to be made."""
        smiles = sorted(_name(molecule) for molecule in molecules)
        return self.cache / f"{self.recipe}-{_digest({'smiles': smiles, 'curate': curate.identity()})}"

    def __iter__(self) -> Iterator[tuple[Path, _Index]]:
        """Yield the finished sets, in the order of their names."""
        for path in sorted(self.cache.glob(f"{self.recipe}-*/{INDEX_NAME}")):
            state = path.stat()
            yield path.parent, _read_index(path, state.st_mtime_ns, state.st_ino)


@functools.lru_cache(maxsize=1024)
def _read_index(path: Path, changed: int, number: int) -> _Index:
    """Read the index of a set; the file's time and number make that of a set that was made again another one."""
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise StoreError(f"{path} is damaged: {error}; delete {path.parent}, and it is made again") from error
    key_K, row_K = table["key"].to_numpy(), table["row"].to_numpy()
    failed = table.filter(pa.array(row_K < 0)).to_pylist()
    failures = {one["key"]: ConformerFailure(reason=one["reason"], detail=one["detail"]) for one in failed}
    order = np.argsort(key_K)
    return _Index(key_K[order], row_K[order], failures)


def _found(key_K: UInt64, sets: _Sets) -> Cached:
    """Return a view of all sets that hold one of the molecules: their shards, one after another."""
    shards: list[ShardEntry] = []
    histogram: collections.Counter[str] = collections.Counter()
    position: dict[int, int] = {}
    failures: dict[int, ConformerFailure] = {}
    layout, before = Layout(), 0
    left_K = key_K
    for folder, index in sets:
        row_K = index.rows(left_K)
        failures |= {key: index.failures[key] for key in left_K[row_K == -1].tolist()}
        here = row_K >= 0
        if here.any():
            store = _opened(folder)
            entry, layout = store.manifest.splits["train"], store.manifest.layout
            inside = f"{folder.name}/{STORE_NAME}"
            shards += [dataclasses.replace(shard, file=f"{inside}/{shard.file}") for shard in entry.shards]
            histogram.update(entry.size_histogram)
            position |= dict(zip(left_K[here].tolist(), (row_K[here] + before).tolist(), strict=True))
            before += entry.rows
        left_K = left_K[row_K == -2]
    entry = SplitEntry(shards=tuple(shards), size_histogram=histogram)
    return Cached(StoreSplit(LocalShards(sets.cache), entry, "arrow", layout), position, failures)


def _opened(folder: Path) -> Store:
    try:
        return open_store(folder / STORE_NAME)
    except StoreError as error:
        raise StoreError(f"{error}; or delete {folder}, a set of the cache of conformers: it is made again") from error


def _add_set(
    molecules: Sequence[Given],
    folder: Path,
    curate: CurateConfig,
    conformers: ConformerConfig,
    workers: int | None,
) -> None:
    """Build molecules into a set of their own, unless another process is at it: then wait for that one."""
    output = folder / STORE_NAME
    with _our_turn(folder):
        if (folder / INDEX_NAME).is_file():
            return
        flat = conformers.engine == "depiction"  # which takes no time worth a word
        with contextlib.nullcontext() if flat else told_after(SLOW_S, lambda: _log.info(SAY_2D)):
            try:
                _build(molecules, folder / "molecules.parquet", output, curate, conformers, workers)
                keys = open_store(output).split("train").column("key").to_pylist()
            except ConformerError:  # of none of them, and the failures say why
                keys = []
        _write_index(folder / INDEX_NAME, keys, _failures(output))


def _add_own_set(molecules: Sequence[Given], folder: Path, conformers: ConformerConfig) -> None:
    """Write molecules with the geometry that they bring into a set of their own; no conformer is made."""
    with _our_turn(folder):
        if (folder / INDEX_NAME).is_file():
            return
        records, keys, failures = [], [], {}
        for one in molecules:
            result = generate_conformers(_with_own_conformers(one), conformers, 0)
            if isinstance(result, ConformerFailure):
                failures[one.key] = with_remedy(result)
            else:
                records.append(result)
                keys.append(one.key)
        if records:
            write_own_geometry(folder / STORE_NAME, records, conformers)
        _write_index(folder / INDEX_NAME, keys, failures)


def _with_own_conformers(molecule: Given) -> CuratedMolecule:
    curated = molecule.curated
    return CuratedMolecule(
        id=_id(curated.smiles),
        smiles=curated.smiles,
        key=stable_hash(curated.smiles),
        scaffold=stable_hash(curated.scaffold_smiles),
        conformers=curated.conformers,
        origins=curated.origins,
    )


def _name(molecule: Given) -> str:
    """Return what names a molecule in the digest of a set: its SMILES, and its key if it has a geometry of its own."""
    smiles = molecule.curated.smiles
    return smiles if molecule.curated.conformers is None else f"{smiles} {molecule.key}"


def _write_index(path: Path, keys: Sequence[int], failures: dict[int, ConformerFailure]) -> None:
    columns = {
        "key": pa.array([*keys, *failures], pa.uint64()),
        "row": pa.array([*range(len(keys)), *(-1 for _ in failures)], pa.int64()),
        "reason": pa.array([*("" for _ in keys), *(one.reason for one in failures.values())], pa.string()),
        "detail": pa.array([*("" for _ in keys), *(one.detail for one in failures.values())], pa.string()),
    }
    commit_file(path, lambda temporary: pq.write_table(pa.table(columns), temporary))


@contextlib.contextmanager
def _our_turn(folder: Path) -> Iterator[None]:
    """Wait until no other process builds there, and keep the others waiting while the block runs."""
    folder.mkdir(parents=True, exist_ok=True)

    def tell(holder: str) -> None:
        _log.info(f"waiting for another process{holder}, which makes these conformers in {folder}")

    with wait_for_lock(folder / "lock", tell):
        yield


def _build(
    molecules: Sequence[Given],
    source: Path,
    output: Path,
    curate: CurateConfig,
    conformers: ConformerConfig,
    workers: int | None,
) -> None:
    if not source.is_file():  # else it holds the same molecules, perhaps written in another way
        _write_source(source, molecules)
    config = BuildConfig(
        source=SourceConfig(name="parquet", input=(str(source),), smiles_column="smiles", id_column="id"),
        curate=curate,
        conformers=conformers,
        output=output,
        workers=workers,
        task_size=PIECE,
    )
    few = len(molecules) * conformers.count <= FEW
    executor = InProcessExecutor(config, _show) if few else None
    driver.build(config, generate_conformers, executor, with_report=not few)


def _show(label: str, total: int | None, log: SampleLog | None) -> StageProgress:
    """Show the conformers, or the depictions, of more than a few molecules, and nothing else."""
    shown = label in (GENERATING, DRAWING) and total is not None and total > QUIET
    return StageProgress(label, total, shown=shown)


def _recipe(conformers: ConformerConfig) -> str:
    """Return what names the way in which conformers are made. How molecules were chosen plays no part in it."""
    determines = {
        "version": RECIPE_VERSION,
        "embed": conformers.identity(),  # as caches have called it from the first
        "schema": SCHEMA_VERSION,
        "rdkit": rdBase.rdkitVersion,
    }
    return _digest(determines)


def _digest(determines: Mapping[str, object]) -> str:
    return hash_json(determines)[:20]


def _id(smiles: str) -> str:
    return f"{stable_hash(smiles):016x}"


def _write_source(path: Path, molecules: Sequence[Given]) -> None:
    # As given: curation on the other side starts from the same text and ends in the same molecule.
    columns = {"smiles": [m.text for m in molecules], "id": [_id(m.curated.smiles) for m in molecules]}
    commit_file(path, lambda temporary: pq.write_table(pa.table(columns), temporary))


def _failures(output: Path) -> dict[int, ConformerFailure]:
    rows = pq.read_table(output / FAILURES_NAME, columns=["id", "reason", "detail"]).to_pylist()
    return {int(row["id"], 16): ConformerFailure(reason=row["reason"], detail=row["detail"]) for row in rows}
