"""A model of unimol-scale goes into a Hugging Face folder and back, and says the same of molecules. Offline."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from transformers import AutoConfig, AutoModel

import unimol_scale as us
from tests.helpers.tiny_finetuning import TINY
from unimol_scale.checkpoints.weights import save_pretrained
from unimol_scale.errors import SourceError
from unimol_scale.huggingface import SmilesCollator, UniMol2Model
from unimol_scale.model.accounting import DENOISE_HEADS
from unimol_scale.model.model_with_heads import HeadedModel

SMILES = ["CCO", "c1ccccc1O", "CC(=O)N"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model of ours, and the Hugging Face folder that it became."""
    place = tmp_path_factory.mktemp("hf")
    torch.manual_seed(3)
    save_pretrained(HeadedModel(TINY, DENOISE_HEADS), place / "ours")
    UniMol2Model.from_unimol_scale(str(place / "ours")).save_pretrained(place / "theirs")
    return place


def test_a_model_that_was_saved_and_loaded_gives_the_vectors_of_ours(folders):
    model = AutoModel.from_pretrained(folders / "theirs")
    assert isinstance(model, UniMol2Model)
    assert AutoConfig.from_pretrained(folders / "theirs").model_config == TINY
    batch = SmilesCollator(model.config, cache=folders / "cache")(SMILES)
    with torch.no_grad():
        output = model.eval()(**batch)
    expected = us.from_pretrained(folders / "ours").embed(SMILES, cache=folders / "cache")
    np.testing.assert_allclose(output.pooler_output.numpy(), expected, atol=1e-5)
    B, N = len(SMILES), 1 + 7
    assert output.last_hidden_state.shape == (B, N, TINY.atom_width)
    assert output.pair_state.shape == (B, N, N, TINY.pair_width)
    assert output.attention_mask.sum(1).tolist() == [4, 8, 5]


def test_the_folder_holds_its_own_code_for_programs_that_do_not_import_ours_first(folders, tmp_path):
    config = json.loads((folders / "theirs" / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_unimol2.UniMol2Config", "AutoModel": "modeling_unimol2.UniMol2Model"
    }  # fmt: skip
    code = (
        "import sys; from transformers import AutoModel\n"
        "model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "print(type(model).__module__.split('.')[0], sum(p.numel() for p in model.parameters()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folders / "theirs")], capture_output=True, text=True, check=True,
        env={**__import__("os").environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    ours = us.from_pretrained(folders / "ours").backbone
    assert done.stdout.split() == ["transformers_modules", str(sum(p.numel() for p in ours.parameters()))]


def test_the_collator_carries_labels_and_names_what_cannot_be_used(folders):
    model = UniMol2Model.from_unimol_scale(str(folders / "ours"))
    collate = SmilesCollator(model.config, inputs="2d", cache=folders / "cache")
    batch = collate([{"smiles": text, "labels": [1.0]} for text in SMILES])
    assert batch["labels"].tolist() == [[1.0]] * 3
    assert "labels" not in collate(SMILES)
    with pytest.raises(SourceError, match=r"row 2 'broken\('"):
        collate(["CCO", "broken("])
