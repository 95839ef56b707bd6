"""Stores of conformers of distinct molecules, built when the cache does not have them. Imports the builder.

A store is what ``conformer_gen`` builds of the molecules: the same curation, embedder and seed as for pretraining, all
of it in the split train. It lies in a folder named by the hash of what determines it. Fine-tunings that run at the
same time share it: one builds, the others wait.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rdkit import rdBase
from rich.console import Console

from conformer_gen import workspace
from conformer_gen.assemble import FAILURE_COLUMNS, FAILURES_NAME
from conformer_gen.config import BuildConfig
from conformer_gen.curate import CurateConfig, Curated
from conformer_gen.embed import CuratedMolecule, EmbedConfig, EmbedFailure, embed_molecule, stable_hash
from conformer_gen.progress import StageProgress
from conformer_gen.sources.config import SourceConfig
from unimol_scale import config as strict
from unimol_scale.errors import ConformerError, StoreError
from unimol_scale.store.files import commit_file
from unimol_scale.store.manifest import MANIFEST_NAME, Counts, Manifest, SplitEntry
from unimol_scale.store.schema import SCHEMA_VERSION, Layout, MoleculeRecord, encode
from unimol_scale.store.shards import StoreSplit, open_store, size_histogram, write_manifest, write_shard
from unimol_scale.store.source import LocalShards

# As many molecules are embedded in this process; starting Ray takes longer. Nothing hangs here: the embedder has its
# time limit and the force field its iterations, and the limit on atoms bounds what a molecule needs.
FEW = 256
QUIET = 32  # so many take a second or so, and show no progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
    """A molecule: the SMILES as it was given, and what curation made of it."""

    text: str
    curated: Curated


def cached_store(
    molecules: Sequence[Given], cache: Path, curate: CurateConfig, embed: EmbedConfig, workers: int | None
) -> tuple[StoreSplit, dict[int, EmbedFailure]]:
    """Return the store of distinct molecules, built if it is not in the cache, and by their keys those that failed.

    Args:
        molecules: distinct, in the order in which a new store gets them.
        cache: folder of the stores; made if it is not there.
        curate: how they were curated.
        embed: how to make conformers.
        workers: processes for more than ``FEW`` molecules; None: all cores.

    Raises:
        StoreError: the cache can not be written, or is damaged.
    """
    if not molecules:
        return _empty_split(), {}
    folder = cache / _name(molecules, curate, embed)
    output = folder / "store"
    try:
        if not (output / MANIFEST_NAME).is_file():
            with _our_turn(folder):
                if not (output / MANIFEST_NAME).is_file():  # else another process built it in the meantime
                    _build(molecules, folder / "molecules.parquet", output, curate, embed, workers)
        return open_store(output).split("train"), _failures(output)
    except ConformerError:  # of none of them, and the failures say why
        return _empty_split(), _failures(output)
    except OSError as error:
        raise StoreError(f"conformers can not be kept in {cache}: {error}") from error


@contextlib.contextmanager
def _our_turn(folder: Path) -> Iterator[None]:
    """Wait until no other process builds there, and keep the others waiting while the block runs."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"waiting for another process, which makes these conformers in {folder}"
            Console(stderr=True, highlight=False).print(message, soft_wrap=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _empty_split() -> StoreSplit:
    return StoreSplit(LocalShards(Path()), SplitEntry(shards=(), size_histogram={}), "arrow", Layout())


def _build(
    molecules: Sequence[Given],
    source: Path,
    output: Path,
    curate: CurateConfig,
    embed: EmbedConfig,
    workers: int | None,
) -> None:
    if not source.is_file():  # else it holds the same molecules, perhaps written in another way
        _write_source(source, molecules)
    config = BuildConfig(
        source=SourceConfig(name="parquet", input=(str(source),), smiles_column="smiles", id_column="id"),
        curate=curate,
        embed=embed,
        output=output,
        workers=workers,
    )
    if len(molecules) <= FEW:
        _build_here(config, [molecule.curated for molecule in molecules])
    else:
        from conformer_gen import driver  # brings Ray, which takes a second to import

        driver.build(config)


def _name(molecules: Sequence[Given], curate: CurateConfig, embed: EmbedConfig) -> str:
    determines = {
        "smiles": sorted(molecule.curated.smiles for molecule in molecules),
        "curate": strict.to_tree(curate),
        "embed": strict.to_tree(embed),
        "schema": SCHEMA_VERSION,
        "rdkit": rdBase.rdkitVersion,
    }
    return hashlib.sha256(json.dumps(determines, sort_keys=True).encode()).hexdigest()[:24]


def _id(smiles: str) -> str:
    return f"{stable_hash(smiles):016x}"


def _write_source(path: Path, molecules: Sequence[Given]) -> None:
    # As given: curation on the other side starts from the same text and ends in the same molecule.
    columns = {"smiles": [m.text for m in molecules], "id": [_id(m.curated.smiles) for m in molecules]}
    commit_file(path, lambda temporary: pq.write_table(pa.table(columns), temporary))


def _failures(output: Path) -> dict[int, EmbedFailure]:
    rows = pq.read_table(output / FAILURES_NAME, columns=["id", "reason", "detail"]).to_pylist()
    return {int(row["id"], 16): EmbedFailure(reason=row["reason"], detail=row["detail"]) for row in rows}


def _build_here(config: BuildConfig, molecules: Sequence[Curated]) -> None:
    """Do what ``driver.build`` does, for few molecules and without Ray; the records are the same.

    Raises:
        ConformerError: no molecule got a conformer.
        StoreError: another process is building there.
    """
    output = config.directory
    plan = workspace.plan_build(config)
    if workspace.claim(output, plan, config.task_size):
        return
    layout = workspace.layout_of(plan)
    with workspace.locked(output):
        records: list[MoleculeRecord] = []
        failures = []
        for molecule, result in zip(molecules, _results(config, molecules), strict=True):
            if isinstance(result, MoleculeRecord):
                records.append(result)
            else:
                row = (_id(molecule.smiles), molecule.smiles, "embed", result.reason, result.detail)
                failures.append(dict(zip(FAILURE_COLUMNS, row, strict=True)))
        table = pa.Table.from_pylist(failures, pa.schema([(name, pa.string()) for name in FAILURE_COLUMNS]))
        commit_file(output / FAILURES_NAME, lambda temporary: pq.write_table(table, temporary))
        if not records:
            raise ConformerError(
                f"none of {len(molecules)} molecules got a conformer; {output / FAILURES_NAME} says why"
            )
        shard = write_shard(output, "train/shard-00000", encode(records, layout), config.backend)
        splits = {
            "train": SplitEntry(
                shards=(shard,), size_histogram=size_histogram(len(record.atomic_number) for record in records)
            ),
            "valid": SplitEntry(shards=(), size_histogram={}),
        }
        counts = Counts(read=len(molecules), stored=len(records), duplicates=0, failed=len(failures))
        tree = {**plan, "counts": strict.to_tree(counts), "splits": strict.to_tree(splits)}
        write_manifest(output, strict.build(Manifest, tree, strict.Origin(name="build")))
        shutil.rmtree(output / workspace.WORK_NAME)


def _results(config: BuildConfig, molecules: Sequence[Curated]) -> list[MoleculeRecord | EmbedFailure]:
    def embed(curated: Curated) -> MoleculeRecord | EmbedFailure:
        molecule = CuratedMolecule(
            id=_id(curated.smiles),
            smiles=curated.smiles,
            key=stable_hash(curated.smiles),
            scaffold=stable_hash(curated.scaffold_smiles),
        )
        return embed_molecule(molecule, config.embed, config.seed)

    if len(molecules) <= QUIET:
        return [embed(molecule) for molecule in molecules]
    results = []
    with StageProgress("embedding", len(molecules)) as progress:
        for molecule in molecules:
            results.append(embed(molecule))
            progress.advance(1)
            progress.tick()
    return results
