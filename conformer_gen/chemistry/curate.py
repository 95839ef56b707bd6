"""Which rows are molecules for a store, and in which form: looks at one row. Imports RDKit.

What only the whole set can tell (duplicates, sample, split) is chosen in whole_set.py.
"""

import dataclasses
import math
import re
from pathlib import Path
from typing import Literal

from rdkit import Chem, rdBase
from rdkit.Chem.Scaffolds import MurckoScaffold

from conformer_gen.chemistry.canonical import ISOTOPE, canonical_smiles, without_hydrogens, without_isotopes
from conformer_gen.chemistry.geometry import (
    atom_numbers,
    conformer_origins,
    number_atoms,
    ordered_coordinates,
    parse_row,
    sound_conformers,
)
from conformer_gen.sources.molecule import Rejected, SourceMolecule
from unimol_scale.errors import ConfigError
from unimol_scale.store.schema import Float32

# RDKit counts what it takes for unpaired electrons from usual valences, which dative bonds to metals do not have.
NON_METALS = {1, 2, *range(5, 11), *range(14, 19), *range(32, 37), *range(51, 55), 85, 86}

MAX_ATOMS, MAX_ATOMS_WITH_GEOMETRY = 128, 256
COMMON_BRACKETS = re.compile(r"\[(?:C@@?H?|nH)\]")  # stereo centres and pyrrole nitrogen: never radicals


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurateConfig:
    """What is kept and how it is split.

    Attributes:
        max_atoms: heavy atoms; larger molecules are rejected, since a pair track costs their square and conformers of
            large ones take minutes. None: 128, and 256 for rows that bring their own geometry.
        fragments: of a row with several, such as a salt: take the "largest", or "reject" the row.
        radicals: "reject" neutral molecules with unpaired electrons, most of which are SMILES with a hydrogen
            forgotten, such as C[S](=O)=O; or "keep" them. Always kept: radical ions; metals, whose count of unpaired
            electrons means little; and rows that bring their own geometry, which needs no valences.
        isotopes: "keep" mass numbers: a labelled compound is another molecule than the plain one, with its own labels,
            and deuterium stays an atom of the record. Or "remove" them. Models see elements only: the deuterium as a
            hydrogen, ¹³C as carbon.
        exclude: files (SMILES, CSV, Parquet or SDF) of molecules that must not enter the store, such as benchmarks.
        exclude_by: what an excluded molecule takes with it: the same "molecule" whatever its stereo, isotopes and
            charges; all with its Murcko "scaffold", if it has rings; or "both".
        split: "scaffold" puts all molecules of a Murcko scaffold on one side; "random" looks at each molecule.
        valid_fraction: of the distinct molecules that goes to validation, 0 to 0.5.
        target: molecules to draw from the distinct ones; None, or no fewer than there are, keeps all.
        temperature: τ of P_scaffold = softmax(P_i / τ), P_i the share of the molecules that have scaffold i, by which
            they are drawn (Uni-Mol2: 0.005): small favours large scaffolds, large makes all scaffolds alike.
    """

    max_atoms: int | None = None
    fragments: Literal["largest", "reject"] = "largest"
    radicals: Literal["reject", "keep"] = "reject"
    isotopes: Literal["keep", "remove"] = "keep"
    exclude: tuple[Path, ...] = ()
    exclude_by: Literal["molecule", "scaffold", "both"] = "molecule"
    split: Literal["scaffold", "random"] = "scaffold"
    valid_fraction: float = 0.05
    target: int | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        if self.max_atoms is not None and not 1 <= self.max_atoms <= 1000:
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
        smiles: canonical, isomeric, largest fragment, no atom maps; no hydrogens as atoms but those that must be (see
            ``canonical``). With ChemAxon's extension where the molecule is a racemate or an atropisomer.
        scaffold_smiles: Murcko scaffold without stereo; empty for molecules without rings.
        conformers: [k, n, 3] Å where the source has geometry: the atoms of ``smiles``, followed by the other
            hydrogens, in the order of RDKit's ``AddHs``, if the source has all of them.
        origins: [k] codes of ``ConformerOrigin``; empty where conformers are to be made.
        left_out: conformers of the source that are no geometry of the molecule.
    """

    smiles: str
    scaffold_smiles: str
    conformers: Float32 | None = None
    origins: tuple[int, ...] = ()
    left_out: int = 0


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
    if not parsed.GetNumAtoms():
        return Rejected(reason="empty", detail="the row has no atoms")
    fragments = len(Chem.GetMolFrags(parsed))
    if fragments > 1 and config.fragments == "reject":
        return Rejected(reason="several_fragments", detail=f"{fragments} fragments; curate.fragments=largest takes one")
    fragment = _largest_fragment(parsed) if fragments > 1 else parsed
    if config.isotopes == "remove":
        fragment = without_isotopes(fragment)
    origins = conformer_origins(row, fragment)
    if origins:
        number_atoms(fragment)
    # Most have none left to remove, and looking for them the thorough way is a fifth of the whole work.
    heavy_only = fragment.GetNumAtoms() == fragment.GetNumHeavyAtoms()
    molecule = fragment if heavy_only else without_hydrogens(fragment)
    if isinstance(molecule, Rejected):
        return molecule
    written = canonical_smiles(molecule, extended=bool(row.block) or "|" in row.smiles)
    if isinstance(written, Rejected):
        return written
    smiles, order = written
    if (rejected := _unusable(molecule, smiles, config, has_geometry=bool(origins))) is not None:
        return rejected
    curated = Curated(smiles=smiles, scaffold_smiles=scaffold_smiles(molecule))
    if not origins:
        return curated
    sound = sound_conformers(fragment, origins)
    if isinstance(sound, Rejected):
        return sound
    coordinates = ordered_coordinates(fragment, atom_numbers(molecule, order))
    return dataclasses.replace(
        curated, conformers=coordinates[sound.kept], origins=sound.origins, left_out=len(origins) - len(sound.kept)
    )


def _unusable(molecule: Chem.Mol, smiles: str, config: CurateConfig, *, has_geometry: bool) -> Rejected | None:
    heavy = molecule.GetNumHeavyAtoms()
    if "*" in smiles:
        dummies = sum(atom.GetAtomicNum() == 0 for atom in molecule.GetAtoms())
        return Rejected(reason="dummy_atom", detail=f"{dummies} atoms are not elements (attachment points)")
    if heavy == 0:
        return Rejected(reason="no_heavy_atom", detail="nothing but hydrogen")
    limit = config.max_atoms or (MAX_ATOMS_WITH_GEOMETRY if has_geometry else MAX_ATOMS)
    if heavy > limit:
        detail = f"{heavy} heavy atoms, at most {limit} are allowed (max_atoms)"
        return Rejected(reason="too_many_atoms", detail=detail)
    # An atom with other than its usual number of hydrogens is in brackets, and is not one of the brackets seen most.
    brackets = config.radicals == "reject" and not has_geometry and "[" in COMMON_BRACKETS.sub("", smiles)
    if brackets and not Chem.GetFormalCharge(molecule):
        unpaired = [atom for atom in molecule.GetAtoms() if atom.GetNumRadicalElectrons()]
        if unpaired and all(atom.GetAtomicNum() in NON_METALS for atom in molecule.GetAtoms()):
            electrons = sum(atom.GetNumRadicalElectrons() for atom in unpaired)
            symbols = ", ".join(sorted({atom.GetSymbol() for atom in unpaired}))
            return Rejected(
                reason="radical",
                detail=f"{electrons} unpaired electrons on {symbols}: is a hydrogen missing? curate.radicals=keep",
            )
    return None


def scaffold_smiles(molecule: Chem.Mol) -> str:
    """Return the Murcko scaffold (Bemis and Murcko 1996) without stereo and isotopes; empty for one without rings."""
    scaffold: str = MurckoScaffold.MurckoScaffoldSmiles(mol=molecule)  # type: ignore[no-untyped-call]
    return scaffold_smiles(without_isotopes(molecule)) if ISOTOPE.search(scaffold) else scaffold


def _largest_fragment(molecule: Chem.Mol) -> Chem.Mol:
    """Return the fragment with the most heavy atoms; among equals the first in the order of their SMILES."""
    fragments = Chem.GetMolFrags(molecule, asMols=True)
    ranked = sorted(fragments, key=lambda fragment: (-fragment.GetNumHeavyAtoms(), Chem.MolToSmiles(fragment)))
    largest: Chem.Mol = ranked[0]
    return largest
