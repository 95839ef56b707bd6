"""Molecules of RDKit that bring a conformer: the model sees that one, and none is made."""

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import rdDepictor, rdDistGeom, rdMolTransforms

import unimol_scale as us
from unimol_scale.checkpoints.weights import save_pretrained
from unimol_scale.downstream.data import conformer_cache
from unimol_scale.downstream.data.own_geometry.smiles_with_geometry import has_geometry, smiles_with_geometry
from unimol_scale.model.accounting import Heads
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.model.presets import preset

CHIRAL = "C[C@H](N)CCc1ccccc1"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of no size; of three dimensions it sees the distances."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("own-geometry") / "model"
    save_pretrained(HeadedModel(preset("0.03M"), Heads()), folder)
    return us.from_pretrained(folder)


@pytest.fixture
def embed(model, tmp_path):
    """Return vectors from a cache of the test's own."""
    return lambda *molecules, **options: model.embed(list(molecules), cache=tmp_path / "cache", **options)


def placed(smiles=CHIRAL, seed=1, hydrogens=True):
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(molecule, randomSeed=seed) == 0
    return molecule if hydrogens else Chem.RemoveHs(molecule)


def turned(molecule, degrees=120.0):
    """Return the molecule with another dihedral angle of its chain."""
    copy = Chem.Mol(molecule)
    atoms = copy.GetSubstructMatch(Chem.MolFromSmarts("NCCC"))
    conformer = copy.GetConformer()
    rdMolTransforms.SetDihedralDeg(conformer, *atoms, rdMolTransforms.GetDihedralDeg(conformer, *atoms) + degrees)
    return copy


def test_the_given_conformer_is_seen_and_none_is_made(embed, monkeypatch):
    monkeypatch.setattr(conformer_cache, "_build", None)  # which makes conformers
    molecule = placed()
    one, other, without_hydrogens = embed(molecule, turned(molecule), Chem.RemoveHs(molecule))
    assert np.abs(one - other).max() > 1e-4
    np.testing.assert_allclose(without_hydrogens, one, atol=1e-4)
    np.testing.assert_array_equal(embed(turned(molecule))[0], other)  # whatever came before under this SMILES


def test_neither_the_order_of_atoms_nor_the_place_in_space_matters(embed):
    molecule = placed()
    shuffled = Chem.RenumberAtoms(molecule, np.random.default_rng(0).permutation(molecule.GetNumAtoms()).tolist())
    rdMolTransforms.TransformConformer(shuffled.GetConformer(), np.diag([-1.0, -1.0, 1.0, 1.0]))  # a rotation
    first, second = embed(molecule, shuffled)
    np.testing.assert_allclose(first, second, atol=1e-3)  # the store has hundredths of Å


def test_a_depiction_is_no_conformer(embed):
    flat, none = Chem.MolFromSmiles(CHIRAL), Chem.MolFromSmiles(CHIRAL)
    rdDepictor.Compute2DCoords(flat)
    made, of_flat, of_none = embed(CHIRAL, flat, none)
    np.testing.assert_allclose(of_flat, made, atol=1e-6)
    np.testing.assert_allclose(of_none, made, atol=1e-6)
    flat.GetConformer().Set3D(True)  # as some programs mark their drawings
    np.testing.assert_allclose(embed(flat)[0], made, atol=1e-6)


def test_a_flat_molecule_has_a_conformer_all_the_same():
    water = placed("O")
    positions = water.GetConformer().GetPositions()
    positions[:, 2] = 0.0
    water.GetConformer().SetPositions(positions)
    text = smiles_with_geometry(water)
    assert has_geometry(text)
    back = Chem.MolFromSmiles(text, _with_hydrogens()).GetConformer()
    assert back.Is3D()
    assert rdMolTransforms.GetBondLength(back, 0, 1) == pytest.approx(np.linalg.norm(positions[1] - positions[0]), 1e-4)


def test_a_model_of_hydrogens_says_which_conformer_lacks_them(embed):
    assert embed(placed(), hydrogens=True).shape == (1, 16)
    with pytest.raises(us.SourceError, match=r"row 2 '\S+': no_hydrogens \(.*addCoords=True"):
        embed(placed(), placed(hydrogens=False), hydrogens=True)


def test_a_conformer_whose_atoms_clash_is_refused_by_row(embed):
    clashing = placed()
    positions = clashing.GetConformer().GetPositions()
    positions[5] = positions[2] + 0.4
    clashing.GetConformer().SetPositions(positions)
    with pytest.raises(us.SourceError, match=r"row 2 '[^|]+': \w+ \(.*Å"):
        embed(placed(), clashing)


def test_the_graph_alone_needs_no_conformer(embed):
    np.testing.assert_allclose(*embed(placed(), CHIRAL, inputs="2d"), atol=1e-6)


def test_of_several_conformers_the_first_is_seen(embed):
    several = placed()
    several.AddConformer(turned(several).GetConformer(), assignId=True)
    np.testing.assert_allclose(*embed(several, placed()), atol=1e-6)


def test_prediction_is_that_of_a_store_with_the_same_geometry(model, tmp_path):
    molecules = [turned(placed(), degrees) for degrees in range(0, 360, 30)] + [
        placed(f"{'C' * n}N", seed=n) for n in range(2, 14)
    ]
    angle = np.arange(len(molecules), dtype=float)
    regressor = us.MoleculeRegressor(
        model.source, epochs=2, learning_rate=1e-2, inputs="3d", cache=tmp_path / "cache", random_state=0
    )
    regressor.fit(molecules, angle)
    asked = molecules[::5]
    with Chem.SDWriter(str(tmp_path / "own.sdf")) as writer:
        for molecule in asked[2:]:  # a store has each molecule once
            writer.write(molecule)
    us.build_store("sdf", input=tmp_path / "own.sdf", output=tmp_path / "store", settings={"curate.valid_fraction": 0})
    of_store = us.predict(regressor.folder_, tmp_path / "store", domain=False)
    found = us.predict(regressor.folder_, asked, cache=tmp_path / "cache", domain=False)
    order = [of_store.smiles.tolist().index(smiles) for smiles in found.smiles_used[2:]]
    np.testing.assert_allclose(of_store.values[order], found.values[2:], atol=1e-3)
    assert len(set(found.values[:3, 0].tolist())) == 3  # one molecule in three shapes
    assert not any("|" in smiles for smiles in found.smiles)
    np.testing.assert_array_equal(regressor.predict(asked), found.values[:, 0])
    with pytest.warns(UserWarning, match="1 of 2 molecules have a conformer, which is used"):
        regressor.predict([asked[0], "CCO"])


def _with_hydrogens():
    parameters = Chem.SmilesParserParams()
    parameters.removeHs = False
    return parameters
