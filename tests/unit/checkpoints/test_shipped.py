"""The models in the package are small, are found by name, have a card, and compute what they computed when packed."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

import unimol_scale as us
from unimol_scale.checkpoints.shipped import DEFAULT_MODEL, shipped_models

# Written by this file's main part when a model is packed: vectors of 2D inputs, which need no conformer.
EXPECTED = Path(__file__).resolve().parents[2] / "golden" / "shipped_vectors.json"
SMILES = ("CCO", "c1ccccc1O", "CC(=O)Nc1ccc(O)cc1", "C[C@H](N)C(=O)O", "FC(F)(F)c1ccncc1", "[NH3+]CC([O-])=O")
STUDENT = "unimol-scale-2m-2d"
SHOWN = 8  # numbers of each vector
NAMES = [model.name for model in shipped_models()]


def vectors(name):
    return us.from_pretrained(name).embed(list(SMILES), inputs="2d")[:, :SHOWN]


def test_the_default_is_there_and_all_are_small(tmp_path):
    assert DEFAULT_MODEL in NAMES
    of_name = {model.name: model.folder for model in shipped_models()}
    recommended = [file for name in (DEFAULT_MODEL, STUDENT) for file in of_name[name].iterdir()]
    assert sum(file.stat().st_size for file in recommended) < 10e6
    # With the earlier model, which stays for those who name it, what a user downloads is as small.
    with zipfile.ZipFile(tmp_path / "wheel.zip", "w", zipfile.ZIP_DEFLATED) as wheel:  # as wheels are packed
        for model in shipped_models():
            for file in model.folder.iterdir():
                wheel.write(file)
    assert (tmp_path / "wheel.zip").stat().st_size < 10e6
    assert all(model.about.endswith(".") for model in shipped_models())


@pytest.mark.parametrize("name", NAMES)
def test_a_model_computes_the_vectors_that_were_kept(name):
    expected = np.array(json.loads(EXPECTED.read_text())[name])
    np.testing.assert_allclose(vectors(name), expected, rtol=0, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", NAMES)
def test_a_card_says_what_a_user_must_know(name):
    card = next(model.card for model in shipped_models() if model.name == name).read_text()
    for part in ("Use", "Training data", "Pretraining", "Scores", "Intended use", "Limits", "Applicability domain"):
        assert f"\n## {part}\n" in card
    assert f'us.from_pretrained("{name}")' in card


if __name__ == "__main__":
    kept = {name: np.round(vectors(name).astype(float), 5).tolist() for name in NAMES}
    EXPECTED.write_text(json.dumps(kept, indent=1) + "\n")
