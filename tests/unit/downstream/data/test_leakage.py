"""Leakage: test molecules are found in both splits of a store, in every shard, by key and by scaffold."""

import dataclasses

import numpy as np
import pytest
from rdkit import Chem
from tests.helpers.store_samples import random_record, write_store

from conformer_gen.chemistry.curate import scaffold_smiles
from conformer_gen.chemistry.identity import stable_hash
from unimol_scale.downstream.data.leakage import report_leakage
from unimol_scale.errors import StoreError

TRAIN = ["CCO", "c1ccccc1", "Cc1ccncc1", "CCCC", "CC(=O)O", "OC1CCCCC1"]
VALID = ["CCN", "Clc1ccccc1"]


def hashes(texts):
    return np.array([stable_hash(text) for text in texts], np.uint64)


def scaffold_of(smiles):
    return scaffold_smiles(Chem.MolFromSmiles(smiles))


@pytest.fixture(params=["arrow", "lmdb"])
def store(tmp_path, request):
    def record(smiles):
        key, scaffold = (int(text) for text in hashes([smiles, scaffold_of(smiles)]))
        return dataclasses.replace(random_record(1), smiles=smiles, key=key, scaffold=scaffold)

    train, valid = ([record(smiles) for smiles in part] for part in (TRAIN, VALID))
    return write_store(tmp_path / "zinc", train, valid, backend=request.param, shard_rows=2).path


def leakage_of(store, smiles):
    scaffolds = [scaffold_of(text) for text in smiles]
    return report_leakage(
        store, key_M=hashes(smiles), scaffold_M=hashes(scaffolds), smiles=smiles, scaffold_smiles=scaffolds
    )


def test_molecules_are_found_by_key_in_every_shard_of_both_splits(store):
    found = leakage_of(store, ["CCCCCCCC", *TRAIN, "CCO", *VALID, "c1ccoc1"])
    assert (found.molecules_by_key, found.total) == (9, 11)
    assert found.examples == tuple(TRAIN[:5])


def test_scaffolds_are_found_and_molecules_without_rings_have_none(store):
    # Two have benzene's and pyridine's scaffold; one has none, and there are others without in the store.
    found = leakage_of(store, ["Ic1ccccc1", "CCc1ccncc1", "CCCCCCI", "Cc1ccoc1"])
    assert (found.molecules_by_key, found.by_scaffold) == (0, 2)


def test_one_line_says_what_was_found(store):
    line = leakage_of(store, ["CCO", "Ic1ccccc1", "CCCCCCCC"]).describe()
    assert "of 3 test molecules, 1 (33.3 %) are in" in line
    assert "(such as CCO)" in line
    assert "1 (33.3 %) have a scaffold" in line
    assert str(store) in line
    assert "\n" not in line
    assert "none of the 1 test molecules" in leakage_of(store, ["Cc1ccoc1"]).describe()


def test_a_folder_that_is_no_store_is_an_error(tmp_path):
    with pytest.raises(StoreError):
        leakage_of(tmp_path, ["CCO"])
