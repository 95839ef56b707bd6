"""Returns conformers of distinct molecules, and builds those that the cache lacks. Imports the builder.

A cache is a folder of sets, whose names begin with the name of the recipe. A set consists of a store built by
``conformer_gen`` (with the curation, conformers and seed of pretraining, and all molecules in the split train) and the
index of its molecules, which is written last. A molecule is taken from the first set that has it; molecules in no set
are built into a new one. A conformer depends only on molecule and recipe, so it does not matter which set it comes from.
Fine-tunings that need the same molecules at the same time share the work: one builds, the others wait.

A molecule with its own geometry is identified by this geometry as well. Such molecules are stored in separate sets.
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

# Part of every recipe: increase it if the builder's conformers or refusals change for the same settings.
RECIPE_VERSION = 2
_log = logging.getLogger(__name__)
STORE_NAME, INDEX_NAME = "store", "index.parquet"
# Up to this many conformers are generated in this process; starting another one, or Ray, would take longer.
FEW = 256
QUIET = 32  # up to this many take about a second, and show no progress
PIECE = 50  # number of molecules that a Ray process handles at a time; takes seconds, after which the progress moves
SLOW_S = 10.0
SAY_2D = (
    "Generating 3D conformers takes a while. They are kept in the cache, so this happens once for each molecule. With "
    "--inputs 2d a fine-tuning and its predictions need none."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
    """A molecule: the SMILES as given, and the result of curation."""

    text: str
    curated: Curated

    @functools.cached_property
    def key(self) -> int:
        """Key of the molecule: a hash of its canonical SMILES, and of its own geometry if it has one."""
        own = self.curated.conformers
        geometry = () if own is None else (hashlib.sha256(own.tobytes()).hexdigest(),)
        return stable_hash(self.curated.smiles, *geometry)


class Cached(NamedTuple):
    """Positions of molecules in a view of the cache.

    Attributes:
        split: the requested molecules, and others of the same sets.
        position: key → position in the split.
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
    """Return the positions of distinct molecules; molecules in no set of the cache are built into a new one.

    Args:
        molecules: distinct molecules, in the order in which a new set stores them.
        cache: folder of the sets; made if it is missing.
        curate: how the molecules were curated.
        conformers: how to generate conformers.
        workers: number of processes for more than ``FEW`` conformers; None: all cores.

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
    """The molecules of one set: keys in ascending order, their rows in its store (-1: failed), and reasons of failures."""

    key_K: UInt64
    row_K: Int64
    failures: dict[int, ConformerFailure]

    def rows(self, wanted_K: UInt64) -> Int64:
        """Return the row of each wanted key: -1 if its conformer failed, -2 if it is not in this set."""
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
        """Return the folder of the set of these molecules, which need not exist yet."""
        smiles = sorted(_name(molecule) for molecule in molecules)
        return self.cache / f"{self.recipe}-{_digest({'smiles': smiles, 'curate': curate.identity()})}"

    def __iter__(self) -> Iterator[tuple[Path, _Index]]:
        """Yield the finished sets, sorted by name."""
        for path in sorted(self.cache.glob(f"{self.recipe}-*/{INDEX_NAME}")):
            state = path.stat()
            yield path.parent, _read_index(path, state.st_mtime_ns, state.st_ino)


@functools.lru_cache(maxsize=1024)
def _read_index(path: Path, changed: int, number: int) -> _Index:
    """Read the index of a set; the file's time and inode number are part of the cache key, in case it is rebuilt."""
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise StoreError(f"{path} is damaged: {error}; delete {path.parent} to have it built again") from error
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
        raise StoreError(f"{error}; or delete {folder}, a set of the conformer cache, to have it built again") from error


def _add_set(
    molecules: Sequence[Given],
    folder: Path,
    curate: CurateConfig,
    conformers: ConformerConfig,
    workers: int | None,
) -> None:
    """Build molecules into a new set; if another process is building it, wait for that process instead."""
    output = folder / STORE_NAME
    with _our_turn(folder):
        if (folder / INDEX_NAME).is_file():
            return
        flat = conformers.engine == "depiction"  # too fast to need a message
        with contextlib.nullcontext() if flat else told_after(SLOW_S, lambda: _log.info(SAY_2D)):
            try:
                _build(molecules, folder / "molecules.parquet", output, curate, conformers, workers)
                keys = open_store(output).split("train").column("key").to_pylist()
            except ConformerError:  # no molecule has a conformer; the failures say why
                keys = []
        _write_index(folder / INDEX_NAME, keys, _failures(output))


def _add_own_set(molecules: Sequence[Given], folder: Path, conformers: ConformerConfig) -> None:
    """Write molecules with their own geometry into a new set; no conformers are generated."""
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
    """Return the name of a molecule in the digest of a set: its SMILES, and its key if it has its own geometry."""
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
        _log.info(f"waiting for another process{holder}, which generates these conformers in {folder}")

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
    if not source.is_file():  # otherwise it holds the same molecules, perhaps with different SMILES
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
    """Return the name of a recipe for conformers; it does not depend on how molecules were selected."""
    determines = {
        "version": RECIPE_VERSION,
        "embed": conformers.identity(),  # the name of this key in existing caches
        "schema": SCHEMA_VERSION,
        "rdkit": rdBase.rdkitVersion,
    }
    return _digest(determines)


def _digest(determines: Mapping[str, object]) -> str:
    return hash_json(determines)[:20]


def _id(smiles: str) -> str:
    return f"{stable_hash(smiles):016x}"


def _write_source(path: Path, molecules: Sequence[Given]) -> None:
    # SMILES as given, so that the builder's curation starts from the same text and yields the same molecule.
    columns = {"smiles": [m.text for m in molecules], "id": [_id(m.curated.smiles) for m in molecules]}
    commit_file(path, lambda temporary: pq.write_table(pa.table(columns), temporary))


def _failures(output: Path) -> dict[int, ConformerFailure]:
    rows = pq.read_table(output / FAILURES_NAME, columns=["id", "reason", "detail"]).to_pylist()
    return {int(row["id"], 16): ConformerFailure(reason=row["reason"], detail=row["detail"]) for row in rows}
