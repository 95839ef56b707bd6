"""Molecules as rows of numbers, whatever RDKit makes of them."""

import numpy as np
from rdkit import Chem
from rdkit.Chem import Descriptors, rdFingerprintGenerator

from unimol_scale.downstream.baselines import table_features as subject
from unimol_scale.downstream.baselines.table_features import NUM_DESCRIPTORS, table_features

IPC = [name for name, _ in Descriptors.descList].index("Ipc")


def test_counts_and_descriptors_are_those_of_rdkit():
    found = table_features(["CCO", "c1ccccc1O"])
    phenol = Chem.MolFromSmiles("c1ccccc1O")
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    np.testing.assert_array_equal(
        found.dense("ecfp", np.array([1]))[0], generator.GetCountFingerprintAsNumPy(phenol).astype(int)
    )
    for at, (name, function) in enumerate(Descriptors.descList):
        np.testing.assert_allclose(found.rdkit[1, at], np.arcsinh(function(phenol)), rtol=1e-5, err_msg=name)
    assert found.readable.all()


def test_a_descriptor_beyond_every_bound_stays_a_number_and_one_that_is_not_known_is_missing():
    chains = ["C" * length for length in (4, 60, 200)]
    huge = [dict(Descriptors.descList)["Ipc"](Chem.MolFromSmiles(text)) for text in chains]
    assert huge[2] > np.finfo(np.float32).max
    found = table_features([*chains, "[Fe]"])
    assert found.rdkit.shape == (4, NUM_DESCRIPTORS)
    assert not np.isinf(found.rdkit).any()
    assert (np.diff(found.rdkit[:3, IPC]) > 0).all(), "in their order"
    assert np.isnan(found.rdkit[3]).any(), "RDKit has no partial charge of iron"


def test_what_rdkit_cannot_read_has_no_features_and_repeats_have_the_same():
    found = table_features(["CCO", "not a molecule", "", "CCO"])
    assert found.readable.tolist() == [True, False, False, True]
    assert np.isnan(found.rdkit[1:3]).all()
    np.testing.assert_array_equal(found.rdkit[0], found.rdkit[3])


def test_several_processes_compute_the_same_in_the_same_order(monkeypatch):
    smiles = ["C" * length + end for length in range(1, 8) for end in "ONFS"]
    alone = table_features(smiles)
    monkeypatch.setattr(subject, "_PIECE", 5)
    monkeypatch.setattr(subject, "cores", lambda: 2)
    shared = table_features(smiles)
    np.testing.assert_array_equal(shared.rdkit, alone.rdkit)
    assert (shared.ecfp != alone.ecfp).nnz == 0
