"""``us.MoleculeEmbedder``: a pretrained model's vectors as features of whatever comes next."""

import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

import unimol_scale as us
from tests.helpers.tiny_finetuning import CARBON, MOLECULES, names_in

SMILES = list(MOLECULES)


@pytest.fixture
def embedder(quick):
    return us.MoleculeEmbedder(quick["pretrained"], inputs="2d", cache=quick["cache"])


def test_vectors_are_those_of_the_model(embedder, quick):
    with pytest.raises(NotFittedError):
        embedder.transform(SMILES)
    found = embedder.fit(SMILES).transform(SMILES)
    expected = us.from_pretrained(quick["pretrained"]).embed(SMILES, inputs="2d", cache=quick["cache"])
    np.testing.assert_array_equal(found, expected)
    assert (found.dtype, embedder.n_components_) == (np.float32, 16)
    other = clone(embedder).set_params(pooling="virtual_node").fit(SMILES)
    np.testing.assert_array_equal(
        other.transform(SMILES),
        us.from_pretrained(quick["pretrained"]).embed(SMILES, pool="virtual_node", inputs="2d", cache=quick["cache"]),
    )


def test_unusable_molecules_are_named_or_have_no_vector(embedder):
    with pytest.raises(ValueError, match=r"1 of 2 molecules cannot be used: X\[1\] 'C1CC'"):
        embedder.fit(["CCO"]).transform(["CCO", "C1CC"])
    found = embedder.set_params(handle_invalid="nan").transform(["C1CC", "CCO"])
    assert np.isnan(found).all(axis=1).tolist() == [True, False]
    np.testing.assert_array_equal(found[1:], embedder.transform(["CCO"]))


def test_it_is_a_step_of_a_pipeline(embedder):
    scores = cross_val_score(make_pipeline(embedder, Ridge()), pd.Series(SMILES), CARBON, cv=3, error_score="raise")
    assert len(scores) == 3
    table = embedder.set_output(transform="pandas").fit_transform(pd.Series(SMILES, index=range(7, 37)))
    assert list(table.columns[:2]) == ["moleculeembedder0", "moleculeembedder1"]
    assert table.index.tolist() == list(range(7, 37))


def test_a_pickle_holds_the_weights(embedder, quick, tmp_path):
    shutil.copytree(quick["pretrained"], tmp_path / "gone")
    fitted = clone(embedder).set_params(pretrained=str(tmp_path / "gone")).fit(SMILES)
    expected, text = fitted.transform(SMILES), pickle.dumps(fitted)
    assert not [name for name in names_in(text) if name.startswith("torch")]
    shutil.rmtree(tmp_path / "gone")
    np.testing.assert_array_equal(pickle.loads(text).transform(SMILES), expected)
    with pytest.raises(us.CheckpointError):
        clone(fitted).fit(SMILES)
