"""Conformers against the stereo of their SMILES; mirror images are made by turning the sign of all coordinates."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from conformer_gen.chemistry.stereo import compare_stereo
from unimol_scale.store.schema import ConformerStereo

AS_GIVEN, OPEN, CHANGED = ConformerStereo
CHIRAL = ["C[C@H](N)C(=O)O", "C[C@](F)(Cl)Br", "C[S@](=O)CC", "C[P@](=O)(O)OC", "C[N@]1CC1(C)C", "C[C@H](O)[C@H](C)O"]
SAME_IN_THE_MIRROR = ["C[C@@H]1CC[C@H](C)CC1", "F[C@H]1C[C@H](F)C1", "C[C@H](O)[C@@H](C)O", "F/C=C/Cl"]


def placed(smiles: str) -> tuple[Chem.Mol, np.ndarray]:
    """Return the molecule with hydrogens and two conformers [2, n, 3], which have its stereo."""
    full = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMultipleConfs(full, 2, randomSeed=1)
    return full, np.stack([conformer.GetPositions() for conformer in full.GetConformers()])


def codes(smiles: str, of: str, *, heavy: bool = False, mirrored: bool = False, flat: bool = False) -> list[int]:
    """Judge conformers made of the SMILES ``of`` by the SMILES ``smiles``, which has the same atom order."""
    full, _ = placed(smiles)
    coordinates = placed(of)[1] * (-1 if mirrored else 1) * ([1, 1, 0] if flat else 1)
    n = full.GetNumHeavyAtoms() if heavy else full.GetNumAtoms()
    return compare_stereo(smiles, full, coordinates[:, :n], np.full(2, flat)).tolist()


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("smiles", CHIRAL + SAME_IN_THE_MIRROR)
def test_conformers_of_a_smiles_have_its_stereo(smiles: str, heavy: bool) -> None:
    assert codes(smiles, of=smiles, heavy=heavy) == [AS_GIVEN, AS_GIVEN]


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("smiles", CHIRAL)
def test_the_mirror_image_of_a_chiral_molecule_is_another_one(smiles: str, heavy: bool) -> None:
    assert codes(smiles, of=smiles, heavy=heavy, mirrored=True) == [CHANGED, CHANGED]


@pytest.mark.parametrize("smiles", SAME_IN_THE_MIRROR)
def test_the_mirror_image_of_a_molecule_without_handedness_is_the_same(smiles: str) -> None:
    assert codes(smiles, of=smiles, mirrored=True) == [AS_GIVEN, AS_GIVEN]


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize(
    ("smiles", "other"),
    [
        ("F/C=C/Cl", "F/C=C\\Cl"),
        ("C/C=N/O", "C/C=N\\O"),
        ("C1CCCCC/C=C/1", "C1CCCCC/C=C\\1"),
        ("C[C@@H]1CC[C@H](C)CC1", "C[C@@H]1CC[C@@H](C)CC1"),
        ("C[C@H](O)[C@@H](C)O", "C[C@H](O)[C@H](C)O"),
    ],
)
def test_another_stereoisomer_is_noticed(smiles: str, other: str, heavy: bool) -> None:
    assert codes(smiles, of=other, heavy=heavy) == [CHANGED, CHANGED]


def test_one_conformer_does_not_speak_for_another() -> None:
    full, coordinates = placed(CHIRAL[0])
    assert compare_stereo(CHIRAL[0], full, coordinates * [[[1]], [[-1]]], np.zeros(2, bool)).tolist() == [
        AS_GIVEN,
        CHANGED,
    ]


@pytest.mark.parametrize("smiles", ["CC(N)C(=O)O", "FC=CCl", "CS(=O)CC", "F/C=C/C(F)C", "CC(N)=NO", "CC(=N)N"])
def test_a_smiles_that_leaves_an_element_open_says_so(smiles: str) -> None:
    assert codes(smiles, of=smiles) == [OPEN, OPEN]


@pytest.mark.parametrize("smiles", ["CCO", "C1CCC=CC1", "NC(=N)N", "O=C=NC", "C=C=CC", "CN(CC)CCC", "CC(=O)N(C)CC"])
def test_a_molecule_without_stereo_elements_leaves_none_open(smiles: str) -> None:
    assert codes(smiles, of=smiles) == [AS_GIVEN, AS_GIVEN]


def test_a_given_element_that_is_another_one_counts_more_than_an_open_one() -> None:
    assert codes("C[C@H](N)C(F)Cl", of="C[C@@H](N)C(F)Cl") == [CHANGED, CHANGED]


def test_a_depiction_shows_double_bonds_and_no_centres() -> None:
    assert codes("F/C=C/Cl", of="F/C=C/Cl", flat=True) == [AS_GIVEN, AS_GIVEN]
    assert codes("F/C=C/Cl", of="F/C=C\\Cl", flat=True) == [CHANGED, CHANGED]
    assert codes("C[C@H](N)C(=O)O", of="C[C@H](N)C(=O)O", flat=True) == [OPEN, OPEN]


@pytest.mark.parametrize("smiles", [CHIRAL[0], "C[C@H](O)[C@@H](C)O"])
def test_a_centre_that_lies_flat_has_lost_its_stereo(smiles: str) -> None:
    full, coordinates = placed(smiles)
    assert compare_stereo(smiles, full, coordinates * [1, 1, 0], np.zeros(2, bool)).tolist() == [CHANGED, CHANGED]


def test_double_bonds_that_trade_places_make_the_same_molecule() -> None:
    assert codes("C/C=C/C=C\\C", of="C/C=C\\C=C\\C") == [AS_GIVEN, AS_GIVEN]


def test_the_arrangement_around_a_metal_is_not_judged() -> None:
    smiles = "C[Pt@SP1](F)(Cl)[NH3]"
    full = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert compare_stereo(smiles, full, np.zeros((1, full.GetNumAtoms(), 3)), np.zeros(1, bool)).tolist() == [OPEN]
