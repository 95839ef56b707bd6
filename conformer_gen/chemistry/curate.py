"""Decides whether a row is a molecule for the store, and in which form. Looks at one row only. Imports RDKit.

Decisions that need the whole set (duplicates, sample, split) are made in selection_passes.py.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdqueries
from rdkit.Chem.Scaffolds import MurckoScaffold

from conformer_gen.chemistry.canonical import (
    ISOTOPE,
    canonical_order,
    canonical_smiles,
    without_hydrogens,
    without_isotopes,
)
from conformer_gen.chemistry.config import CurateConfig
from conformer_gen.chemistry.geometry import (
    atom_numbers,
    conformer_origins,
    number_atoms,
    parse_row,
    positions_of,
    sound_conformers,
    source_atoms,
    stored_order,
)
from conformer_gen.sources.molecule import Geometry, Rejected, SourceMolecule
from unimol_scale.store.schema import Float32

# RDKit derives unpaired electrons from usual valences, which do not hold for dative bonds to metals.
NON_METALS = {1, 2, *range(5, 11), *range(14, 19), *range(32, 37), *range(51, 55), 85, 86}
UNPAIRED = rdqueries.NumRadicalElectronsGreaterQueryAtom(0)

MAX_ATOMS, MAX_ATOMS_WITH_GEOMETRY = 128, 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curated:
    """A row that is a valid molecule.

    Attributes:
        smiles: canonical, isomeric, largest fragment, no atom maps. Hydrogens are atoms only where they must be (see
            ``canonical``). Has ChemAxon's extension if the molecule is a racemate or an atropisomer.
        scaffold_smiles: Murcko scaffold without stereo; empty for molecules without rings.
        conformers: [k, n, 3] Å if the source has geometry: the atoms of ``smiles``, then, if the source has all of
            them, the other hydrogens in the order of RDKit's ``AddHs``.
        origins: [k] codes of ``ConformerOrigin``; empty if conformers have yet to be made.
        energies: [k] kcal/mol of ``conformers`` relative to the lowest; NaN where the source has none; empty if it has
            none at all.
        atom_labels: name → [k, n, w] of the atoms of ``conformers``.
        left_out: number of conformers of the source that are not a plausible geometry of the molecule.
    """

    smiles: str
    scaffold_smiles: str
    conformers: Float32 | None = None
    origins: tuple[int, ...] = ()
    energies: tuple[float, ...] = ()
    atom_labels: Mapping[str, Float32] = dataclasses.field(default_factory=dict)
    left_out: int = 0


def curate_molecule(row: SourceMolecule, config: CurateConfig) -> Curated | Rejected:
    """Bring one row of a source into canonical form, or return why not. Never raises for chemistry errors."""
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
    # Only a dot separates the fragments of a SMILES.
    may_have_several = "." in row.smiles or bool(row.block) or row.geometry is not None
    fragments = len(Chem.GetMolFrags(parsed)) if may_have_several else 1
    if fragments > 1 and config.fragments == "reject":
        return Rejected(reason="several_fragments", detail=f"{fragments} fragments; curate.fragments=largest takes one")
    fragment = _largest_fragment(parsed) if fragments > 1 else parsed
    if config.isotopes == "remove":
        fragment = without_isotopes(fragment)
    origins = conformer_origins(row, fragment)
    if origins:
        number_atoms(fragment)
    # Most molecules have none left to remove, and a thorough search for them takes a fifth of the total time.
    heavy_only = fragment.GetNumAtoms() == fragment.GetNumHeavyAtoms()
    molecule = fragment if heavy_only else without_hydrogens(fragment)
    if isinstance(molecule, Rejected):
        return molecule
    smiles = canonical_smiles(molecule, extended=bool(row.block) or "|" in row.smiles)
    if isinstance(smiles, Rejected):
        return smiles
    if (rejected := _unusable(molecule, smiles, config, has_geometry=bool(origins))) is not None:
        return rejected
    curated = Curated(smiles=smiles, scaffold_smiles=scaffold_smiles(molecule))
    if not origins:
        return curated
    sound = sound_conformers(fragment, origins)
    if isinstance(sound, Rejected):
        return sound
    stored = stored_order(fragment, atom_numbers(molecule, canonical_order(molecule)))
    curated = dataclasses.replace(
        curated,
        conformers=positions_of(fragment, stored)[sound.kept],
        origins=sound.origins,
        left_out=len(origins) - len(sound.kept),
    )
    return (
        _with_labels_of(row.geometry, curated, sound.kept, source_atoms(fragment, stored)) if row.geometry else curated
    )


def _with_labels_of(geometry: Geometry, curated: Curated, kept: Sequence[int], atoms: Sequence[int]) -> Curated:
    """Return the molecule with the energies and atom labels of its geometry.

    Args:
        geometry: geometry of the row.
        curated: molecule of the row.
        kept: indices of the geometry's conformers that were kept.
        atoms: indices in the geometry of the molecule's atoms.
    """
    energies = np.array(geometry.energies)[list(kept)] if geometry.energies else np.zeros(0)
    lowest = energies.min(where=~np.isnan(energies), initial=np.inf)
    return dataclasses.replace(
        curated,
        energies=tuple((energies - lowest).tolist()),
        atom_labels={name: values[kept][:, atoms] for name, values in geometry.atom_labels.items()},
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
    if config.radicals == "reject" and not has_geometry and not Chem.GetFormalCharge(molecule):
        unpaired = list(molecule.GetAtomsMatchingQuery(UNPAIRED))  # eight times as fast as a loop over all atoms
        if unpaired and all(atom.GetAtomicNum() in NON_METALS for atom in molecule.GetAtoms()):
            electrons = sum(atom.GetNumRadicalElectrons() for atom in unpaired)
            symbols = ", ".join(sorted({atom.GetSymbol() for atom in unpaired}))
            return Rejected(
                reason="radical",
                detail=f"{electrons} unpaired electrons on {symbols}: is a hydrogen missing? curate.radicals=keep",
            )
    return None


def scaffold_smiles(molecule: Chem.Mol) -> str:
    """Return the Murcko scaffold (Bemis and Murcko 1996) without stereo and isotopes; "" if there are no rings."""
    scaffold: str = MurckoScaffold.MurckoScaffoldSmiles(mol=molecule)  # type: ignore[no-untyped-call]
    return scaffold_smiles(without_isotopes(molecule)) if ISOTOPE.search(scaffold) else scaffold


def _largest_fragment(molecule: Chem.Mol) -> Chem.Mol:
    """Return the fragment with the most heavy atoms; ties go to the first in the order of their SMILES."""
    fragments = Chem.GetMolFrags(molecule, asMols=True)
    ranked = sorted(fragments, key=lambda fragment: (-fragment.GetNumHeavyAtoms(), Chem.MolToSmiles(fragment)))
    largest: Chem.Mol = ranked[0]
    return largest
