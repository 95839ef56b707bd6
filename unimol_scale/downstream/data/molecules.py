"""SMILES or a store → rows of molecules: where in a store each row's molecule lies, and why some have none.

Imports RDKit and the builder. Shapes: M rows.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rdkit import Chem, rdBase

from conformer_gen.chemistry.config import CurateConfig
from conformer_gen.chemistry.curate import Curated, curate_molecule, scaffold_smiles
from conformer_gen.chemistry.config import ConformerConfig
from conformer_gen.chemistry.identity import stable_hash
from conformer_gen.sources.lines import smiles_problem
from conformer_gen.sources.molecule import Rejected, SourceMolecule
from unimol_scale.downstream.data.molecule_changes import ChangeCount, describe_changes
from unimol_scale.downstream.config import Fragments
from unimol_scale.downstream.data.conformer_cache import Given, cached_store
from unimol_scale.errors import SourceError, StoreError
from unimol_scale.store.manifest import SplitEntry
from unimol_scale.store.schema import Int64
from unimol_scale.store.shards import Store, StoreSplit, open_store
from unimol_scale.store.source import LocalShards

UInt64 = npt.NDArray[np.uint64]

ROW_NUMBERS = "rows count from 1, without the header"
NAMED = 5  # rows named in a message
NO_PROBLEMS: Mapping[int, str] = {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skipped:
    """A row without a molecule.

    Attributes:
        row: from 0.
        smiles: as given.
        reason: short, to count by.
        detail: of this one.
    """

    row: int
    smiles: str
    reason: str
    detail: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """Rows, and where their molecules are.

    Attributes:
        split: the molecules.
        position_M: int64, of each row in it; rows of one molecule have one position; -1 where skipped.
        smiles: [M] canonical, whose atom order is that of the records; "" where skipped.
        key_M: uint64, hash of the canonical SMILES; 0 where skipped.
        scaffold_M: uint64, hash of the Murcko scaffold; 0 where skipped.
        scaffold_smiles: [M] Murcko scaffold without stereo; "" without rings, and where skipped.
        skipped: rows without a molecule, ascending.
        changes: [M] what made another molecule of what a row has, in words; "" for nothing, and where skipped.
    """

    split: StoreSplit
    position_M: Int64
    smiles: tuple[str, ...]
    key_M: UInt64
    scaffold_M: UInt64
    scaffold_smiles: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    changes: tuple[str, ...]

    def describe_changes(self) -> str:
        """Return a line on rows of which the model sees another molecule than was given; "" if there are none."""
        count = ChangeCount()
        for row, changes in enumerate(self.changes):
            count.add(row, changes)
        return count.describe()


def prepare(
    smiles: Sequence[str],
    *,
    cache: Path,
    geometry: bool,
    max_atoms: int | None,
    workers: int | None,
    refuse: Callable[[Sequence[Skipped]], None] | None = None,
    fragments: Fragments = "largest",
    problems: Mapping[int, str] = NO_PROBLEMS,
) -> Prepared:
    """Bring rows into canonical form and get every distinct molecule its conformer, unless the cache has it.

    Radicals are taken at their word here, unlike in pretraining, where most of them are mistakes of a library.

    Args:
        smiles: [M] as a user wrote them.
        cache: folder of the stores; made if it is not there.
        geometry: make conformers; without, the 2D depiction stands in, for models that read the graph only.
        max_atoms: refuse molecules with more heavy atoms; None: 128.
        workers: processes where many conformers are to be made; None: all cores.
        refuse: is shown the rows without a molecule before any conformer is made, and again those without a conformer,
            and raises where they must not be; None: they are skipped.
        fragments: of a row with several, such as a salt: take the "largest", or "reject" the row.
        problems: row → why it could not be read, of rows that have no SMILES for that reason.

    Returns:
        The rows; those whose SMILES is no usable molecule, or whose molecule got no conformer, are in ``skipped``.

    Raises:
        StoreError: the cache cannot be written, or is damaged.
    """
    curate = _curation(max_atoms, fragments)
    curated_M = [_curated(text.strip(), curate, problems.get(row, "")) for row, text in enumerate(smiles)]
    skipped = [
        Skipped(row=row, smiles=text, reason=result.reason, detail=result.detail)
        for row, (text, result) in enumerate(zip(smiles, curated_M, strict=True))
        if isinstance(result, Rejected)
    ]
    if refuse is not None:
        refuse(skipped)
    distinct: dict[str, Given] = {}
    for text, result in zip(smiles, curated_M, strict=True):
        if isinstance(result, Curated):
            distinct.setdefault(result.smiles, Given(text=text.strip(), curated=result))
    conformers = ConformerConfig(engine="rdkit" if geometry else "depiction")
    split, place, failures = cached_store(list(distinct.values()), cache, curate, conformers, workers)
    position_M = np.full(len(smiles), -1, np.int64)
    for row, (text, result) in enumerate(zip(smiles, curated_M, strict=True)):
        if isinstance(result, Rejected):
            continue
        key = stable_hash(result.smiles)
        if (why := failures.get(key)) is not None:
            skipped.append(Skipped(row=row, smiles=text, reason=why.reason, detail=why.detail))
        else:
            if key not in place:
                raise StoreError(f"the cache {cache} lacks the molecule {result.smiles}: delete it, it is made again")
            position_M[row] = place[key]
    if refuse is not None:
        refuse(skipped)
    used = [r if isinstance(r, Curated) and p >= 0 else None for r, p in zip(curated_M, position_M, strict=True)]
    return Prepared(
        split=split,
        position_M=position_M,
        smiles=tuple(r.smiles if r else "" for r in used),
        key_M=np.array([stable_hash(r.smiles) if r else 0 for r in used], np.uint64),
        scaffold_M=np.array([stable_hash(r.scaffold_smiles) if r else 0 for r in used], np.uint64),
        scaffold_smiles=tuple(r.scaffold_smiles if r else "" for r in used),
        skipped=tuple(sorted(skipped, key=lambda one: one.row)),
        changes=tuple(describe_changes(t.strip(), r.smiles) if r else "" for t, r in zip(smiles, used, strict=True)),
    )


def refusal(molecule: SourceMolecule, max_atoms: int | None, fragments: Fragments) -> Rejected | None:
    """Return why ``prepare`` would skip a row before any conformer is made; None if it would not."""
    result = _curated(molecule.smiles.strip(), _curation(max_atoms, fragments), molecule.problem)
    return result if isinstance(result, Rejected) else None


def prepare_store(path: Path, *, scaffolds: bool = True) -> Prepared:
    """Return all molecules of a store as rows, those of train before those of valid; nothing is skipped.

    Args:
        path: of the store.
        scaffolds: find those of the molecules; without, ``scaffold_smiles`` is empty texts.

    Raises:
        StoreError: missing, unfinished or damaged.
    """
    split = whole_split(open_store(path))
    smiles = tuple(split.column("smiles").to_pylist())
    with rdBase.BlockLogs():
        found = tuple(scaffold_smiles(Chem.MolFromSmiles(text)) if scaffolds else "" for text in smiles)
    return Prepared(
        split=split,
        position_M=np.arange(len(split), dtype=np.int64),
        smiles=smiles,
        key_M=split.column("key").to_numpy(),
        scaffold_M=split.column("scaffold").to_numpy(),
        scaffold_smiles=found,
        skipped=(),
        changes=("",) * len(smiles),
    )


def whole_split(store: Store) -> StoreSplit:
    """Return the molecules of train and, after them, of valid as one split."""
    entries = [store.split(name).entry for name in store.manifest.splits]
    histogram: Counter[str] = Counter()
    for entry in entries:
        histogram.update(entry.size_histogram)
    entry = SplitEntry(shards=tuple(shard for entry in entries for shard in entry.shards), size_histogram=histogram)
    return StoreSplit(LocalShards(store.path), entry, store.manifest.backend, store.manifest.layout)


def refuse_skipped(skipped: Sequence[Skipped], num_rows: int, where: str, remedy: str) -> None:
    """Do nothing if no row was skipped.

    Args:
        skipped: of the rows.
        num_rows: of all.
        where: what the rows are of, for the message.
        remedy: what to do, for the message.

    Raises:
        SourceError: names the first rows.
    """
    if not skipped:
        return
    first = "; ".join(f"row {s.row + 1} {s.smiles!r}: {s.reason} ({s.detail})" for s in skipped[:NAMED])
    more = f"; and {len(skipped) - NAMED:,} more" if len(skipped) > NAMED else ""
    raise SourceError(
        f"{where}: {len(skipped):,} of {num_rows:,} rows have no usable molecule: {first}{more}. {remedy} "
        f"({ROW_NUMBERS})"
    )


def _curation(max_atoms: int | None, fragments: Fragments) -> CurateConfig:
    return CurateConfig(max_atoms=max_atoms, fragments=fragments, radicals="keep", valid_fraction=0.0)


def _curated(text: str, config: CurateConfig, problem: str) -> Curated | Rejected:
    if problem:
        return Rejected(reason="unreadable_row", detail=problem)
    result = curate_molecule(SourceMolecule(id="", smiles=text, problem=smiles_problem(text)), config)
    if isinstance(result, Rejected) and "curate." in result.detail:  # the settings of a build
        return dataclasses.replace(result, detail=result.detail.replace("curate.", ""))
    return result
