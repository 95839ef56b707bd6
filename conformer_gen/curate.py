"""Which molecules enter a store, in which form and which split. Imports RDKit.

``curate_molecule`` looks at one row; ``first_occurrences`` and ``choose_valid`` look at the hashes of all of them.
"""

import dataclasses
from typing import Literal

import numpy as np
import numpy.typing as npt
from rdkit import Chem, rdBase
from rdkit.Chem.Scaffolds import MurckoScaffold

from conformer_gen.embed import stable_hash
from conformer_gen.sources.molecule import SourceMolecule
from unimol_scale.errors import ConfigError
from unimol_scale.store.schema import Float32

UInt64 = npt.NDArray[np.uint64]
Bool = npt.NDArray[np.bool_]
# A scaffold larger than this part of the validation budget stays in train, so that validation sees many scaffolds.
LARGEST_SCAFFOLD_SHARE = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurateConfig:
    """What is kept and how it is split.

    Attributes:
        max_atoms: heavy atoms; larger molecules are rejected, since a pair track costs their square.
        split: "scaffold" puts all molecules of a Murcko scaffold on one side; "random" looks at each molecule.
        valid_fraction: of the distinct molecules that goes to validation, 0 to 0.5.
    """

    max_atoms: int = 128
    split: Literal["scaffold", "random"] = "scaffold"
    valid_fraction: float = 0.05

    def __post_init__(self) -> None:
        if not 1 <= self.max_atoms <= 1000:
            raise ConfigError(f"max_atoms must be 1 to 1000, got {self.max_atoms}")
        if not 0.0 <= self.valid_fraction <= 0.5:
            raise ConfigError(f"valid_fraction must be 0 to 0.5, got {self.valid_fraction}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curated:
    """A row that is a molecule.

    Attributes:
        smiles: canonical, isomeric, largest fragment, no hydrogens as atoms, no atom maps.
        scaffold_smiles: Murcko scaffold without stereo; empty for molecules without rings.
        conformers: [k, n, 3] Å in the order of ``smiles`` where the source has geometry.
        origins: [k] codes of ``ConformerOrigin``; empty where conformers are to be made.
    """

    smiles: str
    scaffold_smiles: str
    conformers: Float32 | None = None
    origins: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rejected:
    """A row that is not: a short reason to count by, and the detail of this one."""

    reason: str
    detail: str


def curate_molecule(row: SourceMolecule, config: CurateConfig) -> Curated | Rejected:
    """Bring one row of a source into canonical form, or say why not; never raises for chemistry."""
    with rdBase.BlockLogs():
        try:
            return _curate(row, config)
        except (RuntimeError, ValueError) as error:
            return Rejected(reason="rdkit_error", detail=str(error).strip().split("\n")[0])


def _curate(row: SourceMolecule, config: CurateConfig) -> Curated | Rejected:
    parsed = _parse(row)
    if isinstance(parsed, Rejected):
        return parsed
    molecule = _largest_fragment(Chem.RemoveAllHs(parsed))
    dummies = sum(atom.GetAtomicNum() == 0 for atom in molecule.GetAtoms())
    heavy = molecule.GetNumHeavyAtoms()
    if dummies:
        return Rejected(reason="dummy_atom", detail=f"{dummies} atoms are not elements (attachment points)")
    if heavy == 0:
        return Rejected(reason="no_heavy_atom", detail="nothing but hydrogen")
    if heavy > config.max_atoms:
        return Rejected(reason="too_many_atoms", detail=f"{heavy} heavy atoms, at most {config.max_atoms} are allowed")
    if row.origin is not None and not (molecule.GetNumConformers() and molecule.GetConformer().Is3D()):
        return Rejected(
            reason="no_geometry", detail="the record has no 3D coordinates; use a SMILES source to make them"
        )
    for atom in molecule.GetAtoms():
        atom.SetAtomMapNum(0)  # a label of the source, not part of the molecule
    smiles = Chem.MolToSmiles(molecule)
    if row.origin is None:
        return Curated(smiles=smiles, scaffold_smiles=scaffold_smiles(molecule))
    order = list(molecule.GetPropsAsDict(includePrivate=True, includeComputed=True)["_smilesAtomOutputOrder"])
    positions = [conformer.GetPositions()[order] for conformer in molecule.GetConformers()]
    return Curated(
        smiles=smiles,
        scaffold_smiles=scaffold_smiles(molecule),
        conformers=np.stack(positions).astype(np.float32),
        origins=(row.origin,) * len(positions),
    )


def _parse(row: SourceMolecule) -> Chem.Mol | Rejected:
    if row.block:
        from_file: Chem.Mol | None = Chem.MolFromMolBlock(row.block)
        return from_file or Rejected(reason="not_parsed", detail="RDKit can not read this SDF record")
    if not row.smiles:
        return Rejected(reason="empty", detail="the row has no SMILES")
    from_smiles: Chem.Mol | None = Chem.MolFromSmiles(row.smiles)
    if from_smiles is not None:
        return from_smiles
    raw = Chem.MolFromSmiles(row.smiles, sanitize=False)
    if raw is None:
        return Rejected(reason="not_parsed", detail="this is not a SMILES")
    problems = [problem.Message() for problem in Chem.DetectChemistryProblems(raw)]
    return Rejected(reason="not_sanitised", detail="; ".join(problems) or "RDKit refuses its chemistry")


def scaffold_smiles(molecule: Chem.Mol) -> str:
    """Return the Murcko scaffold (Bemis and Murcko 1996) without stereo; empty for a molecule without rings."""
    scaffold: str = MurckoScaffold.MurckoScaffoldSmiles(mol=molecule)  # type: ignore[no-untyped-call]
    return scaffold


def _largest_fragment(molecule: Chem.Mol) -> Chem.Mol:
    """Return the fragment with the most heavy atoms; among equals the first in the order of their SMILES."""
    fragments = Chem.GetMolFrags(molecule, asMols=True)
    if len(fragments) <= 1:
        return molecule
    ranked = sorted(fragments, key=lambda fragment: (-fragment.GetNumHeavyAtoms(), Chem.MolToSmiles(fragment)))
    largest: Chem.Mol = ranked[0]
    return largest


def first_occurrences(keys: UInt64) -> Bool:
    """Return which of the molecules are the first with their key, [M]."""
    _, first = np.unique(keys, return_index=True)
    keep = np.zeros(len(keys), bool)
    keep[first] = True
    return keep


def choose_valid(groups: UInt64, fraction: float, seed: int) -> UInt64:
    """Choose the groups that make up the validation split.

    Groups are visited in the order of a hash of group and seed, and taken while they fit into what is left of the
    budget of ``fraction`` of the molecules (at least one molecule, where there are two groups).

    Args:
        groups: [M] scaffold hash (scaffold split) or molecule hash (random split) of every distinct molecule.
        fraction: of the molecules.
        seed: of the build.

    Returns:
        The hashes chosen, sorted.
    """
    names, counts = np.unique(groups, return_counts=True)
    if fraction == 0 or len(names) < 2:
        return names[:0]
    budget = max(1, round(fraction * len(groups)))
    largest = max(int(counts.min()), budget // LARGEST_SCAFFOLD_SHARE)
    candidates = names[counts <= largest]
    sizes = dict(zip(candidates.tolist(), counts[counts <= largest].tolist(), strict=True))
    chosen: list[int] = []
    left = max(budget, int(counts.min()))
    for name in sorted(sizes, key=lambda name: stable_hash(seed, name)):
        if sizes[name] <= left and len(chosen) < len(names) - 1:
            chosen.append(name)
            left -= sizes[name]
        if left == 0:
            break
    return np.array(sorted(chosen), np.uint64)
