"""A finished run becomes a folder for others, with a card of what was recorded. The hub is a stand-in."""

import hashlib
import json
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

import unimol_scale as us
from unimol_scale.checkpoints import shipped
from unimol_scale.checkpoints.weights import identify, load_pretrained
from unimol_scale.cli.main import main
from unimol_scale.downstream.publishing.packed_model import pack_model
from unimol_scale.errors import CheckpointError

EARLIER = Path(__file__).resolve().parents[3] / "earlier" / "2026-11-28"
SMILES = ["CCO", "c1ccccc1O", "CC(=O)Nc1ccc(O)cc1"]


@pytest.fixture
def run(tmp_path):
    """A finished run, and the store that it names."""
    shutil.copytree(EARLIER / "stores" / "arrow", tmp_path / "stores" / "arrow")
    shutil.copytree(EARLIER / "runs" / "denoise", tmp_path / "runs" / "denoise")
    config = tmp_path / "runs" / "denoise" / "config.yaml"
    config.write_text(config.read_text().replace("/earlier/stores", str(tmp_path / "stores")))
    return tmp_path / "runs" / "denoise"


@pytest.fixture
def box(tmp_path, monkeypatch):
    """An empty place for models that come with the package, and another current folder."""
    monkeypatch.setattr(shipped, "SHIPPED_FOLDER", tmp_path / "box")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "box"


def test_the_card_says_what_was_recorded(run, tmp_path):
    pack_model(run, tmp_path / "small-1", scores="| set | RMSE |\n| --- | --- |\n| ESOL | 0.9 |\n")
    card = (tmp_path / "small-1" / "README.md").read_text()
    assert "# small-1\n" in card
    assert "It sees the molecular graph" in card
    assert "| ESOL | 0.9 |" in card
    assert 'us.from_pretrained("small-1")' in card
    store = us.open_store(tmp_path / "stores" / "arrow")
    assert f"on {len(store.train):,} molecules" in card
    assert "elements that at least one molecule in a thousand has: C" in card


def test_the_card_of_a_model_from_several_sources_names_the_files_of_each(run, tmp_path):
    manifest = tmp_path / "stores" / "arrow" / "manifest.json"
    tree = json.loads(manifest.read_text())
    light = {"name": "zinc20", "inputs": ["AAAA.smi (12 bytes)", "BBAA.smi (20 bytes)"]}
    heavy = {"name": "smiles", "inputs": ["mine.smi (9 bytes)"]}
    tree |= {"source": "zinc20 + smiles", "parameters": {"sources": {"zinc20-1": light, "smiles-2": heavy}}}
    manifest.write_text(json.dumps(tree))
    summary = json.loads((run / "summary.json").read_text())
    summary["data_manifest_sha256"] = hashlib.sha256(manifest.read_bytes()).hexdigest()
    (run / "summary.json").write_text(json.dumps(summary))
    pack_model(run, tmp_path / "small-1")
    card = (tmp_path / "small-1" / "README.md").read_text()
    assert "| source | zinc20: AAAA.smi, BBAA.smi; smiles: mine.smi |" in card


def test_a_packed_model_is_found_by_its_name_and_computes_what_the_run_computes(run, box, capsys):
    assert main(["model", "pack", str(run), "--output", str(box / "small-1")]) == 0
    assert main(["model", "list"]) == 0
    assert "small-1" in capsys.readouterr().out
    assert main(["model", "card", "small-1"]) == 0
    assert "## Applicability domain" in capsys.readouterr().out
    expected = us.from_pretrained(run).embed(SMILES)
    np.testing.assert_array_equal(us.from_pretrained("small-1").embed(SMILES), expected)
    assert identify("small-1") == identify(run)


def test_bf16_halves_the_file_and_computes_in_fp32(run, tmp_path):
    pack_model(run, tmp_path / "whole")
    pack_model(run, tmp_path / "half", stored="bf16")
    size = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")}
    assert size["half"] < 0.6 * size["whole"]
    whole, half = load_pretrained(tmp_path / "whole").state_dict(), load_pretrained(tmp_path / "half").state_dict()
    assert {tensor.dtype for tensor in half.values()} == {torch.float32}
    for name, tensor in whole.items():
        torch.testing.assert_close(half[name], tensor, rtol=2**-8, atol=0)


def test_a_folder_of_that_name_wins_over_the_package(run, box, tmp_path):
    pack_model(run, box / "small-1")
    pack_model(run, Path("small-1"), stored="bf16")
    assert identify("small-1").sha256 != identify(box / "small-1").sha256
    with pytest.raises(CheckpointError, match="does not exist"):
        load_pretrained("small-2")


def test_what_is_no_finished_run_gets_no_card(run, tmp_path):
    (run / "summary.json").unlink()
    with pytest.raises(us.UnimolScaleError, match=r"summary\.json cannot be read"):
        pack_model(run, tmp_path / "packed")
    with pytest.raises(CheckpointError, match="is not a run"):
        pack_model(tmp_path, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_without_its_store_there_is_no_card(run, tmp_path):
    shutil.rmtree(tmp_path / "stores")
    with pytest.raises(CheckpointError, match="a model card must describe the training data, but the store"):
        pack_model(run, tmp_path / "packed")


class Hub:
    """Stands in for the library: keeps what it was told."""

    def __init__(self, token=None):
        self.token = token

    sent: dict[str, object] = {}  # noqa: RUF012 - of the one test

    def create_repo(self, name, *, private, exist_ok):
        assert exist_ok
        if name == "owner/forbidden":
            raise OSError("403 forbidden")
        return f"https://hub.example/{name}{'?private' if private else ''}"

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        assert commit_message
        Hub.sent[repo_id] = {path.name for path in Path(folder_path).iterdir()}


def test_a_run_and_a_packed_model_go_to_the_hub_with_their_cards(run, tmp_path, monkeypatch, capsys):
    module = types.ModuleType("huggingface_hub")
    module.HfApi = Hub
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    assert us.push_to_hub(run, "owner/mine", private=True) == "https://hub.example/owner/mine?private"
    pack_model(run, tmp_path / "packed")
    assert main(["model", "push", str(tmp_path / "packed"), "owner/packed"]) == 0
    assert capsys.readouterr().out == "https://hub.example/owner/packed\n"
    assert us.push_to_hub(us.from_pretrained(run), "owner/loaded") == "https://hub.example/owner/loaded"
    files = {"README.md", "config.json", "model.safetensors"}
    assert Hub.sent == {"owner/mine": files, "owner/packed": files, "owner/loaded": files}
    with pytest.raises(CheckpointError, match=r"cannot be uploaded to owner/forbidden .* 403 forbidden"):
        us.push_to_hub(run, "owner/forbidden")
    with pytest.raises(CheckpointError, match="write owner/name"):
        us.push_to_hub(run, "mine")


def test_without_the_library_the_message_says_how_to_get_it(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"pip install 'unimol-scale\[hub\]'"):
        us.push_to_hub(run, "owner/mine")
