"""Maps rows with SMILES, or the rows of a store, to molecules in a store, and says why some rows have none.

Shapes: M rows.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from rdkit import Chem, rdBase

from conformer_gen.chemistry.config import CurateConfig
from conformer_gen.chemistry.curate import Curated, curate_molecule, scaffold_smiles
from conformer_gen.chemistry.config import ConformerConfig
from conformer_gen.chemistry.identity import stable_hash
from conformer_gen.sources.lines import smiles_problem
from conformer_gen.sources.molecule import Rejected, SourceMolecule
from unimol_scale.downstream.config import Fragments
from unimol_scale.downstream.data.conformer_cache import Given, cached_store
from unimol_scale.downstream.data.own_geometry.smiles_with_geometry import (
    has_geometry,
    smiles_with_geometry,
    without_geometry,
)
from unimol_scale.downstream.data.skipped_rows import Skipped, count_reasons
from unimol_scale.errors import ConfigError, SourceError, StoreError, nearest
from unimol_scale.store.manifest import SplitEntry
from unimol_scale.store.schema import ConformerOrigin, Int64
from unimol_scale.store.shards import Store, StoreSplit, open_store
from unimol_scale.store.source import LocalShards

UInt64 = npt.NDArray[np.uint64]

NO_PROBLEMS: Mapping[int, str] = {}
FRAGMENT_KEPT, LEFT_OUT = "largest fragment kept", "; left out: "
ISOTOPES_LOST = "isotope labels removed"
ROWS_SHOWN = 3  # number of rows that a line names
# SMILES that may have several fragments, atom maps or isotopes; others need not be parsed again.
_SUSPECT = re.compile(r"\.|:\d+\]|\[\d")


class ChangeCount:
    """Counts the rows whose molecule was changed before the model sees it, and names the first ones."""

    def __init__(self) -> None:
        self._rows = self._reduced = self._unlabelled = 0
        self._first: list[str] = []

    def add(self, row: int, changes: str) -> None:
        """Count a row (from 0); ``changes`` is the return value of ``describe_changes``."""
        self._rows += 1
        self._unlabelled += ISOTOPES_LOST in changes
        if FRAGMENT_KEPT in changes:
            self._reduced += 1
            if len(self._first) < ROWS_SHOWN:
                left_out = changes.partition(LEFT_OUT)[2].partition("; ")[0]
                self._first.append(f"row {row + 1} without {left_out}")

    def describe(self) -> str:
        """Return a line on rows whose molecule was changed; "" if there are none."""
        said = []
        if self._reduced:
            more = f"; and {self._reduced - ROWS_SHOWN:,} more" if self._reduced > ROWS_SHOWN else ""
            said.append(
                f"{self._reduced:,} of {self._rows:,} rows have several fragments and were reduced to the largest "
                f"({'; '.join(self._first)}{more}), so a salt gets the value of its largest ion; set fragments to "
                "reject to refuse such rows"
            )
        if self._unlabelled:
            said.append(f"{self._unlabelled:,} of {self._rows:,} rows lost their isotope labels")
        return ". ".join(said)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """Rows, and the positions of their molecules.

    Attributes:
        split: the molecules.
        position_M: position of each row's molecule in ``split``, int64; -1 for skipped rows. Rows may share a position.
        smiles: [M] canonical SMILES in the atom order of the records; "" for skipped rows.
        key_M: hash of the canonical SMILES, uint64; 0 for skipped rows.
        scaffold_M: hash of the Murcko scaffold, uint64; 0 for skipped rows.
        scaffold_smiles: [M] Murcko scaffold without stereo; "" for molecules without rings and for skipped rows.
        skipped: rows without a molecule, ascending.
        changes: [M] how the molecule differs from that in the row, in words; "" if it does not, and for skipped rows.
        hydrogens: whether the molecules have hydrogens as atoms.
    """

    split: StoreSplit
    position_M: Int64
    smiles: tuple[str, ...]
    key_M: UInt64
    scaffold_M: UInt64
    scaffold_smiles: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    changes: tuple[str, ...]
    hydrogens: bool

    def describe_counts(self) -> str:
        """Return a line on how many rows were skipped, by reason, or reduced to a fragment; "" if there are none."""
        said = [f"{count:,} skipped ({reason})" for reason, count in count_reasons(self.skipped).items()]
        if reduced := sum(FRAGMENT_KEPT in change for change in self.changes):
            said.append(f"{reduced:,} reduced to the largest fragment")
        return f"of {len(self.smiles):,} rows: {', '.join(said)}" if said else ""

    def describe_changes(self) -> str:
        """Return a line on rows whose molecule was changed; "" if there are none."""
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
    hydrogens: bool = False,
    conformers: int = 1,
) -> Prepared:
    """Canonicalise SMILES, and generate conformers of all molecules that the cache lacks.

    Radicals are accepted, unlike in pretraining, where most of them are errors of a molecule library. A SMILES with 3D
    coordinates in its extension, as ``listed`` makes it from an RDKit molecule, keeps its own geometry.

    Args:
        smiles: [M] SMILES as the user wrote them.
        cache: folder of the conformers; made if it is missing.
        geometry: generate conformers; if False, 2D depictions are made for models that see only the graph.
        max_atoms: refuse molecules with more heavy atoms; None: 128.
        workers: number of processes that generate conformers, if there are many; None: all cores.
        refuse: called with the rows without a molecule before conformers are generated, and again with those without a
            conformer; raises an error unless they may be skipped. None: they are skipped.
        fragments: for molecules of several fragments, such as salts: use the "largest", or "reject" the row.
        problems: row → why it could not be read, for rows that have no SMILES for that reason.
        hydrogens: keep hydrogens as atoms.
        conformers: number of conformers per molecule; without ``geometry`` there is one depiction.

    Returns:
        The rows. Those without a usable molecule, or without a conformer, are in ``skipped``.

    Raises:
        StoreError: the cache cannot be written, or is damaged.
    """
    curate = _curation(max_atoms, fragments)
    curated_M = [
        _curated(text.strip(), curate, problems.get(row, ""), keeps_geometry=geometry)
        for row, text in enumerate(smiles)
    ]
    shown = [without_geometry(text) for text in smiles]
    skipped = [
        Skipped(row=row, smiles=text, reason=result.reason, detail=result.detail)
        for row, (text, result) in enumerate(zip(shown, curated_M, strict=True))
        if isinstance(result, Rejected)
    ]
    if refuse is not None:
        refuse(skipped)
    given_M = [
        Given(text=text.strip(), curated=result) if isinstance(result, Curated) else None
        for text, result in zip(smiles, curated_M, strict=True)
    ]
    distinct: dict[int, Given] = {}
    for one in filter(None, given_M):
        distinct.setdefault(one.key, one)
    recipe = ConformerConfig(
        engine="rdkit" if geometry else "depiction", count=conformers if geometry else 1, hydrogens=hydrogens
    )
    split, place, failures = cached_store(list(distinct.values()), cache, curate, recipe, workers)
    position_M = np.full(len(smiles), -1, np.int64)
    for row, given in enumerate(given_M):
        if given is None:
            continue
        if (why := failures.get(given.key)) is not None:
            skipped.append(Skipped(row=row, smiles=shown[row], reason=why.reason, detail=why.detail))
        else:
            if given.key not in place:
                lacking = given.curated.smiles
                raise StoreError(f"the cache {cache} lacks the molecule {lacking}: delete it to have it built again")
            position_M[row] = place[given.key]
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
        changes=tuple(describe_changes(t.strip(), r.smiles) if r else "" for t, r in zip(shown, used, strict=True)),
        hydrogens=hydrogens,
    )


def listed(smiles: str | Sequence[str], caller: str) -> list[str]:
    """Return a list of SMILES; missing ones (None, NaN) become "".

    RDKit molecules become SMILES with the coordinates of their 3D conformer, if they have one.

    Args:
        smiles: one SMILES or molecule, or many.
        caller: name of the function that received them, for messages.

    Raises:
        SourceError: they have no order, are a table, or one is neither text nor a molecule.
    """
    if isinstance(smiles, str):
        return [smiles]
    if isinstance(smiles, Mapping) or hasattr(smiles, "columns"):
        raise SourceError(f"{caller} expects a SMILES or a list of SMILES, got a table; give its column of SMILES")
    if hasattr(smiles, "to_pylist"):  # an Arrow column
        smiles = smiles.to_pylist()
    if isinstance(smiles, bytes) or not hasattr(smiles, "__getitem__"):
        raise SourceError(f"{caller} expects a SMILES or a list of SMILES, got {type(smiles).__name__}")
    texts = [_text_of(one) for one in smiles]
    for row, text in enumerate(texts, start=1):
        if not isinstance(text, str):
            raise SourceError(f"{caller}: row {row} is {text!r}, which is not text; give SMILES or RDKit molecules")
    return texts


def _text_of(one: Any) -> Any:  # noqa: ANN401 - any element of a list
    """Return the SMILES of an RDKit molecule, "" for a missing value, and anything else unchanged."""
    if isinstance(one, Chem.Mol):
        return smiles_with_geometry(one)
    return "" if one is None or (isinstance(one, float) and math.isnan(one)) else one


def why_refused(molecule: SourceMolecule, max_atoms: int | None, fragments: Fragments) -> Rejected | None:
    """Return why ``prepare`` would skip a row before generating conformers; None if it would not."""
    result = _curated(molecule.smiles.strip(), _curation(max_atoms, fragments), molecule.problem)
    return result if isinstance(result, Rejected) else None


def prepare_store(path: Path, *, scaffolds: bool = True) -> Prepared:
    """Return all molecules of a store as rows, train before valid; none is skipped.

    Args:
        path: folder of the store.
        scaffolds: compute the scaffolds; if False, all ``scaffold_smiles`` are "".

    Raises:
        StoreError: the store is missing, unfinished or damaged.
    """
    store = open_store(path)
    split = whole_split(store)
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
        hydrogens=store.manifest.hydrogens,
    )


def leaves_out_hydrogens(stored: bool, wanted: bool, where: str) -> bool:
    """Return whether hydrogens must be removed from molecules before a model sees them.

    Args:
        stored: whether the molecules have hydrogens as atoms.
        wanted: whether the model sees hydrogens as atoms.
        where: the store, for messages.

    Raises:
        ConfigError: the model sees hydrogens, but the store has none as atoms.
    """
    if wanted and not stored:
        raise ConfigError(
            f"the model sees hydrogens as atoms, but the store at {where} has none. Build it with hydrogens "
            "(unimol-scale build --hydrogens), give a table of SMILES, whose conformers have hydrogens, or continue "
            "without hydrogens (hydrogens=false)"
        )
    return stored and not wanted


def whole_split(store: Store) -> StoreSplit:
    """Return the molecules of train, followed by those of valid, as one split."""
    entries = [store.split(name).entry for name in store.manifest.splits]
    histogram: Counter[str] = Counter()
    for entry in entries:
        histogram.update(entry.size_histogram)
    entry = SplitEntry(shards=tuple(shard for entry in entries for shard in entry.shards), size_histogram=histogram)
    return StoreSplit(LocalShards(store.path), entry, store.manifest.backend, store.manifest.layout)


def _curation(max_atoms: int | None, fragments: Fragments) -> CurateConfig:
    if fragments not in get_args(Fragments):
        raise ConfigError(f"unknown fragments {fragments!r}; {nearest(fragments, get_args(Fragments))}")
    return CurateConfig(max_atoms=max_atoms, fragments=fragments, radicals="keep", valid_fraction=0.0)


def _curated(text: str, config: CurateConfig, problem: str, *, keeps_geometry: bool = False) -> Curated | Rejected:
    if problem:
        return Rejected(reason="unreadable_row", detail=problem)
    origin = ConformerOrigin.FILE if keeps_geometry and has_geometry(text) else None
    result = curate_molecule(SourceMolecule(id="", smiles=text, origin=origin, problem=smiles_problem(text)), config)
    if isinstance(result, Rejected) and "curate." in result.detail:  # keys of a build
        return dataclasses.replace(result, detail=result.detail.replace("curate.", ""))
    return result


def describe_changes(text: str, smiles: str) -> str:
    """Return how curation changed the molecule of a row, in words; "" if it is the same molecule.

    Molecules that differ only in atom order, Kekulé or aromatic bonds, or explicit hydrogens are the same.

    Args:
        text: SMILES as the user wrote it, which RDKit can read.
        smiles: SMILES of the curated molecule.
    """
    if not _SUSPECT.search(text):
        return ""
    with rdBase.BlockLogs():
        given, used = Chem.MolFromSmiles(text), Chem.MolFromSmiles(smiles)
    if given is None or used is None:
        return ""
    said = []
    fragments = Chem.GetMolFrags(given, asMols=True)
    if len(fragments) > 1:
        said.append(_kept(fragments, used, smiles))
    if re.search(r":\d+\]", text):
        said.append("atom maps removed")
    lost = _isotopes(given) - _isotopes(used)
    if len(fragments) == 1 and lost:
        said.append(f"{ISOTOPES_LOST}: {', '.join(sorted(lost.elements()))}")
    return "; ".join(said)


def _kept(fragments: tuple[Chem.Mol, ...], used: Chem.Mol, smiles: str) -> str:
    """Return a text with the fragment that is used and those that were left out, with their counts."""
    counts = Counter(Chem.MolToSmiles(_unmapped(fragment)) for fragment in fragments)
    counts[smiles if smiles in counts else _nearest(counts, used)] -= 1
    left_out = [f"{name} ({number} times)" if number > 1 else name for name, number in counts.items() if number]
    charge = Chem.GetFormalCharge(used)
    charged = f" (charge {charge:+d})" if charge else ""
    return f"{FRAGMENT_KEPT}: {smiles}{charged}{LEFT_OUT}{', '.join(left_out)}"


def _nearest(counts: Counter[str], used: Chem.Mol) -> str:
    """Return the fragment with the same number of heavy atoms as ``used``, whose SMILES curation may have changed."""
    heavy = used.GetNumHeavyAtoms()
    return next((name for name in counts if _heavy(name) == heavy), next(iter(counts)))


def _heavy(smiles: str) -> int:
    molecule = Chem.MolFromSmiles(smiles)
    return -1 if molecule is None else int(molecule.GetNumHeavyAtoms())


def _unmapped(molecule: Chem.Mol) -> Chem.Mol:
    for atom in molecule.GetAtoms():
        atom.SetAtomMapNum(0)
    return molecule


def _isotopes(molecule: Chem.Mol) -> Counter[str]:
    return Counter(f"{atom.GetIsotope()}{atom.GetSymbol()}" for atom in molecule.GetAtoms() if atom.GetIsotope())
