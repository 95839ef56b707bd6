"""Which molecules enter a store, in which form and which split. Imports RDKit.

``curate_molecule`` looks at one row; ``first_occurrences`` and ``choose_valid`` look at the hashes of all of them.
"""

import dataclasses
import math
from typing import Literal

import numpy as np
import numpy.typing as npt
from rdkit import Chem, rdBase
from rdkit.Chem.Scaffolds import MurckoScaffold

from conformer_gen.embed import stable_hash
from conformer_gen.geometry import conformer_origins, ordered_coordinates, parse_row
from conformer_gen.sources.molecule import Rejected, SourceMolecule
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
        target: molecules to draw from the distinct ones; None, or no fewer than there are, keeps all.
        temperature: τ of P_scaffold = softmax(P_i / τ), P_i the share of the molecules that have scaffold i, by which
            they are drawn (Uni-Mol2: 0.005): small favours large scaffolds, large makes all scaffolds alike.
    """

    max_atoms: int = 128
    split: Literal["scaffold", "random"] = "scaffold"
    valid_fraction: float = 0.05
    target: int | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.max_atoms <= 1000:
            raise ConfigError(f"max_atoms must be 1 to 1000, got {self.max_atoms}")
        if not 0.0 <= self.valid_fraction <= 0.5:
            raise ConfigError(f"valid_fraction must be 0 to 0.5, got {self.valid_fraction}")
        if (self.target is None) != (self.temperature is None):
            raise ConfigError("curate.target and curate.temperature need each other: give both, or neither")
        if self.target is not None and self.target < 1:
            raise ConfigError(f"target must be at least 1, got {self.target}")
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise ConfigError(f"temperature must be above 0 and finite, got {self.temperature}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curated:
    """A row that is a molecule.

    Attributes:
        smiles: canonical, isomeric, largest fragment, no hydrogens as atoms, no atom maps.
        scaffold_smiles: Murcko scaffold without stereo; empty for molecules without rings.
        conformers: [k, n, 3] Å where the source has geometry: heavy atoms in the order of ``smiles``, followed by the
            hydrogens, in the order of RDKit's ``AddHs``, if the source has all of them.
        origins: [k] codes of ``ConformerOrigin``; empty where conformers are to be made.
    """

    smiles: str
    scaffold_smiles: str
    conformers: Float32 | None = None
    origins: tuple[int, ...] = ()


def curate_molecule(row: SourceMolecule, config: CurateConfig) -> Curated | Rejected:
    """Bring one row of a source into canonical form, or say why not; never raises for chemistry."""
    with rdBase.BlockLogs():
        try:
            return _curate(row, config)
        except (RuntimeError, ValueError) as error:
            return Rejected(reason="rdkit_error", detail=str(error).strip().split("\n")[0])


def _curate(row: SourceMolecule, config: CurateConfig) -> Curated | Rejected:
    parsed = parse_row(row)
    if isinstance(parsed, Rejected):
        return parsed
    fragment = _largest_fragment(parsed)
    molecule = Chem.RemoveAllHs(fragment)
    dummies = sum(atom.GetAtomicNum() == 0 for atom in molecule.GetAtoms())
    heavy = molecule.GetNumHeavyAtoms()
    if dummies:
        return Rejected(reason="dummy_atom", detail=f"{dummies} atoms are not elements (attachment points)")
    if heavy == 0:
        return Rejected(reason="no_heavy_atom", detail="nothing but hydrogen")
    if heavy > config.max_atoms:
        return Rejected(reason="too_many_atoms", detail=f"{heavy} heavy atoms, at most {config.max_atoms} are allowed")
    for atom in molecule.GetAtoms():
        atom.SetAtomMapNum(0)  # a label of the source, not part of the molecule
    smiles = Chem.MolToSmiles(molecule)
    origins = conformer_origins(row, fragment)
    if not origins:
        return Curated(smiles=smiles, scaffold_smiles=scaffold_smiles(molecule))
    order = list(molecule.GetPropsAsDict(includePrivate=True, includeComputed=True)["_smilesAtomOutputOrder"])
    return Curated(
        smiles=smiles,
        scaffold_smiles=scaffold_smiles(molecule),
        conformers=ordered_coordinates(fragment, order),
        origins=origins,
    )


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
