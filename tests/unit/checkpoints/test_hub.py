"""Models by their name on the hub; nothing is fetched here: the library is a stand-in."""

import sys
import types

import pytest
import torch

import unimol_scale
from unimol_scale.checkpoints.hub import is_hub_name
from unimol_scale.checkpoints.weights import save_pretrained
from unimol_scale.errors import CheckpointError
from unimol_scale.model.presets import ModelConfig
from unimol_scale.objectives.denoise import DenoiseModel

CONFIG = ModelConfig(layers=1, atom_width=16, heads=2, ffn_width=24, pair_width=8, pair_hidden=4, gaussians=16)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def install(monkeypatch, snapshot_download):
    module = types.ModuleType("huggingface_hub")
    module.snapshot_download = snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)


def test_owner_and_name_are_fetched_and_loaded(tmp_path, monkeypatch):
    model = DenoiseModel(CONFIG)
    save_pretrained(model, tmp_path / "cache")
    asked = []

    def snapshot_download(name, *, allow_patterns):
        asked.append((name, sorted(allow_patterns)))
        return str(tmp_path / "cache")

    install(monkeypatch, snapshot_download)
    found = unimol_scale.from_pretrained("owner/small-model_1.0")
    assert asked == [("owner/small-model_1.0", ["config.json", "model.safetensors"])]
    assert all(torch.equal(tensor, found.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_a_path_wins_over_a_name(tmp_path, monkeypatch):
    install(monkeypatch, lambda *_, **__: pytest.fail("fetched"))
    save_pretrained(DenoiseModel(CONFIG), tmp_path / "owner" / "name")
    unimol_scale.from_pretrained("owner/name")
    for lost in ("owner/mistyped", "models/lost.pt", "lost", "a/b/c", str(tmp_path / "lost")):
        with pytest.raises(CheckpointError, match="does not exist"):
            unimol_scale.from_pretrained(lost)


def test_without_the_library_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"owner/name does not exist here .* pip install 'unimol-scale\[hub\]'"):
        unimol_scale.from_pretrained("owner/name")


@pytest.mark.parametrize("error", [OSError("404 not found"), ValueError("no such name")])
def test_a_model_that_can_not_be_fetched_is_one_error(monkeypatch, error):
    def snapshot_download(*_, **__):
        raise error

    install(monkeypatch, snapshot_download)
    with pytest.raises(CheckpointError, match=f"owner/name does not exist here and cannot be fetched .*: {error}"):
        unimol_scale.from_pretrained("owner/name")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("owner/name", True), ("Owner-1/na_me.v2", True), ("name", False), ("a/b/c", False), ("../b", False)],
)
def test_what_reads_as_a_name(text, expected):
    assert is_hub_name(text) == expected
