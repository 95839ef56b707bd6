"""Bonds from elements and coordinates: the molecule that they were made for, or a reason why there is none."""

import numpy as np
import pytest
from rdkit import Chem

from conformer_gen.chemistry.bonds.bond_perception import perceive_bonds
from conformer_gen.chemistry.config import CurateConfig
from conformer_gen.chemistry.curate import Curated, curate_molecule
from conformer_gen.sources.molecule import Geometry, Rejected, SourceMolecule
from tests.helpers.frame_files import placed, positions
from unimol_scale.store.schema import ConformerOrigin

NEUTRAL = [
    "CCO",
    "C/C=C/C(=O)N[C@@H](C)C(=O)O",
    "O=c1cc[nH]c2ccccc12",
    "Cn1cc(F)cc([N+](=O)[O-])c1=O",  # in these orders of the atoms RDKit alone finds no orders of the bonds
    "CCOC(=O)c1ccc([N+](=O)[O-])c([N+](=O)[O-])c1",
    "CS(C)=O",
    "CS(=O)(=O)Nc1ccccc1",
    "COP(=O)(OC)SC",
    "CN=[N+]=[N-]",
    "[O-][n+]1ccccc1",
    "C[N+](C)(C)CC(=O)[O-]",
    "CB(O)O",
    "FC(Cl)(Br)I",
    "C1C2CC1C2",  # bridgeheads that are nearer to each other than many bonds are long
    "CC12CC(C1)O2",
    "N#Cc1ccc(C#C)cc1",
]
IONS = [
    "O=C([O-])CN(CC(=O)[O-])CC(=O)[O-]",
    "[NH-]S(=O)(=O)c1ccccc1F",
    "CC(=O)N[O-]",
    "Cc1cccc(N)[nH+]1",
    "O=C([O-])c1cc[nH+]cc1",
]
CHARGED = ["C[NH3+]", "CC(=O)[O-]", "C[N+](C)(C)C", "[O-]c1ccccc1", "C[n+]1ccccc1", "[NH3+]CCC[NH3+]", *IONS]
RADICALS = ["[CH3]", "C[CH]C"]


def row(molecule: Chem.Mol, charge: int | None = None) -> SourceMolecule:
    symbols = tuple(atom.GetSymbol() for atom in molecule.GetAtoms())
    place = positions(molecule).astype(np.float32)
    origins = (ConformerOrigin.FILE,) * len(place)
    return SourceMolecule(id="x", geometry=Geometry(symbols=symbols, positions=place, origins=origins, charge=charge))


def perceived(molecule: Chem.Mol, charge: int | None = None) -> str:
    found = curate_molecule(row(molecule, charge), CurateConfig())
    return found.smiles if isinstance(found, Curated) else found.reason


@pytest.mark.parametrize("smiles", NEUTRAL)
def test_a_molecule_comes_back_whatever_the_order_of_its_atoms(smiles: str) -> None:
    molecule = placed(smiles, frames=1)
    Chem.AssignStereochemistryFrom3D(molecule)
    expected = Chem.MolToSmiles(Chem.RemoveHs(molecule))
    shuffled = Chem.RenumberAtoms(molecule, np.random.default_rng(0).permutation(molecule.GetNumAtoms()).tolist())
    assert [perceived(molecule), perceived(shuffled)] == [expected] * 2


@pytest.mark.parametrize("smiles", [*CHARGED, *RADICALS])
def test_the_charge_is_searched_where_the_file_gives_none(smiles: str) -> None:
    molecule, expected = placed(smiles, frames=1), Chem.CanonSmiles(smiles)
    assert perceived(molecule) == expected
    assert perceived(molecule, Chem.GetFormalCharge(molecule)) == expected


def test_a_charge_that_the_atoms_cannot_have_is_a_reason() -> None:
    assert perceived(placed("CCO", frames=1), 3) == "bonds_not_perceived"


@pytest.mark.parametrize("smiles", ["CCO", "CC(C)CN", "C1CCCCC1", "c1ccccc1"])
def test_atoms_whose_hydrogens_are_missing_are_no_molecule(smiles: str) -> None:
    heavy = Chem.RemoveHs(placed(smiles, frames=1))
    assert perceived(heavy) == "bonds_not_perceived"


def test_atoms_without_known_bonds_are_rejected_by_name() -> None:
    found = perceive_bonds(("Fe", "O"), np.array([[0, 0, 0], [0, 0, 1.6]]), None)
    assert isinstance(found, Rejected)
    assert found.reason == "metal_or_unknown_element"
    assert "Fe" in found.detail


def test_several_molecules_in_a_frame_are_fragments() -> None:
    both = Chem.CombineMols(placed("CCO", frames=1), placed("O", frames=1))
    both.GetConformer().SetPositions(
        np.concatenate([positions(placed("CCO", 1))[0], positions(placed("O", 1))[0] + [6, 0, 0]])
    )
    assert perceived(both) == "CCO"
    found = curate_molecule(row(both), CurateConfig(fragments="reject"))
    assert isinstance(found, Rejected)
    assert found.reason == "several_fragments"


def test_frames_that_are_another_molecule_are_left_out() -> None:
    molecule = placed("CCO")
    place = positions(molecule)
    place[1, 2] += 2.0  # the oxygen is gone
    molecule.GetConformer(1).SetPositions(place[1])
    found = curate_molecule(row(molecule), CurateConfig())
    assert isinstance(found, Curated)
    assert (found.smiles, len(found.origins), found.left_out) == ("CCO", 2, 1)


def test_bonds_are_looked_for_in_the_frame_of_lowest_energy() -> None:
    molecule = placed("CCO")
    place = positions(molecule)
    place[0, 2] += 2.0
    molecule.GetConformer(0).SetPositions(place[0])
    without = row(molecule)
    assert without.geometry is not None
    geometry = Geometry(**{**vars(without.geometry), "energies": (5.0, 1.0, 2.0)})
    found = curate_molecule(SourceMolecule(id="x", geometry=geometry), CurateConfig())
    assert isinstance(found, Curated)
    assert (found.smiles, found.energies, found.left_out) == ("CCO", (0.0, 1.0), 1)
