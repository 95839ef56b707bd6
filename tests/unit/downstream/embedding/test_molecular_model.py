"""The one line: a checkpoint and SMILES in, arrays out."""

import copy
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

import unimol_scale
from tests.helpers.flags import flags_in
from unimol_scale.checkpoints.weights import load_pretrained, save_pretrained
from unimol_scale.downstream.data import conformer_cache
from unimol_scale.errors import ConfigError, RunError, SourceError
from unimol_scale.model.accounting import Heads
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.model.presets import preset

SMILES = ["CCO", "c1ccccc1O", "OCC"]
NO_CONFORMER = "N#[C][Co]([C]#N)([C]#N)([C]#N)([C]#N)[C]#N"


@pytest.fixture
def saved(tmp_path):
    def path(**changes):
        torch.manual_seed(0)
        save_pretrained(HeadedModel(preset("0.03M", **changes), Heads()), tmp_path / "model")
        return tmp_path / "model"

    return path


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def test_smiles_become_vectors(saved, cache):
    model = unimol_scale.from_pretrained(saved())
    found = model.embed(SMILES, cache=cache)
    assert found.shape == (3, 16)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], found[2], atol=1e-6)
    np.testing.assert_allclose(model.embed("CCO", cache=cache), found[:1], atol=1e-5)
    assert [atoms.shape for atoms in model.embed(SMILES, kind="atom", cache=cache)] == [(3, 16), (7, 16), (3, 16)]
    assert model.embed(SMILES, kind="pair", cache=cache)[1].shape == (7, 7, 12)
    assert model.embed([], cache=cache).shape == (0, 16)


def test_the_second_time_no_conformer_is_made(saved, cache, monkeypatch):
    model = unimol_scale.from_pretrained(saved())
    first = model.embed(SMILES, cache=cache)
    monkeypatch.setattr(conformer_cache, "generate_conformers", None)
    np.testing.assert_array_equal(model.embed(SMILES, cache=cache), first)


def test_smiles_that_can_not_be_used_are_named(saved, cache):
    model = unimol_scale.from_pretrained(saved())
    with pytest.raises(SourceError, match=r"2 of 3 rows .* row 2 'nothing': not_parsed .* row 3 'N#.*: no_conformer"):
        model.embed(["CCO", "nothing", NO_CONFORMER], cache=cache)


def test_one_can_go_on_without_them(saved, cache):
    model = unimol_scale.from_pretrained(saved())
    found = model.embed_usable(["nothing", "OCC", NO_CONFORMER, "CN"], cache=cache)
    assert found.row_R.tolist() == [1, 3]
    assert found.smiles == ("CCO", "CN")
    np.testing.assert_allclose(found.values, model.embed(["CCO", "CN"], cache=cache), atol=1e-5)
    assert [(skipped.row, skipped.reason) for skipped in found.skipped] == [(0, "not_parsed"), (2, "no_conformer")]


def test_a_missing_smiles_is_a_row_without_a_molecule(saved, cache):
    model = unimol_scale.from_pretrained(saved())
    found = model.embed_usable(["CCO", None, float("nan")], cache=cache)
    assert found.row_R.tolist() == [0]
    assert [(skipped.row, skipped.reason) for skipped in found.skipped] == [(1, "empty"), (2, "empty")]


@pytest.mark.parametrize(
    ("smiles", "message"),
    [({"CCO", "CN"}, "a list of SMILES, got set"), (b"CCO", "got bytes"), (["CCO", 7], "row 2 is 7")],
)
def test_what_is_no_list_of_smiles_is_refused(saved, cache, smiles, message):
    with pytest.raises(SourceError, match=message):
        unimol_scale.from_pretrained(saved()).embed(smiles, cache=cache)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"pool": "max"}, "unknown pooling 'max'; .*valid: layers, mean, virtual_node"),
        ({"kind": "atoms"}, "unknown kind 'atoms'; did you mean 'atom'"),
        ({"inputs": "4d"}, "unknown inputs '4d'"),
    ],
)
def test_a_choice_that_there_is_not_is_refused(saved, cache, choice, message):
    with pytest.raises(ConfigError, match=message):
        unimol_scale.from_pretrained(saved()).embed("CCO", cache=cache, **choice)


def test_a_model_in_training_embeds_without_dropout_and_goes_on_training(saved, cache):
    model = unimol_scale.from_pretrained(saved(dropout=0.5)).train()
    np.testing.assert_array_equal(model.embed("CCO", cache=cache), model.embed("CCO", cache=cache))
    assert model.training
    assert model.backbone.layers[0].training


def test_full_memory_is_told_by_the_names_of_arguments(saved, cache, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = unimol_scale.from_pretrained(saved())
    monkeypatch.setattr(type(model.backbone), "forward", full)
    for embed in (model.embed, model.embed_usable):
        with pytest.raises(RunError, match=r"memory is full: .*micro-batch \(max_pairs, ") as raised:
            embed("CCO", inputs="2d", cache=cache)
        assert not flags_in(raised.value)


def test_a_student_of_the_graph_makes_no_conformer(saved, cache):
    model = unimol_scale.from_pretrained(saved(geometry=False))
    assert model.embed(["CCO", NO_CONFORMER], cache=cache).shape == (2, 16)
    with pytest.raises(ConfigError, match="only the 2D graph"):
        model.embed("CCO", cache=cache, inputs="3d")


def test_loading_a_model_does_not_start_with_ray():
    code = "import sys, unimol_scale; unimol_scale.from_pretrained; print('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_released_checkpoint_embeds(shared_golden, cache):
    model = unimol_scale.from_pretrained(shared_golden / "checkpoint.pt")
    assert model.backbone.config.normalize_by == "padded"
    many = model.embed(["CC(=O)Nc1ccc(O)cc1", *SMILES], cache=cache)
    assert np.isfinite(many).all()
    np.testing.assert_allclose(model.embed(SMILES, cache=cache), many[1:], atol=1e-5, rtol=1e-5)
    assert np.abs(many[0] - many[1]).max() > 1e-2


def test_a_salt_is_reduced_with_a_warning_or_refused(saved, cache):
    model = unimol_scale.from_pretrained(saved())
    with pytest.warns(UserWarning, match=r"1 of 2 rows have several fragments .*\(row 2 without Cl") as told:
        found = model.embed(["CCN", "CCN.Cl"], inputs="2d", cache=cache)
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    usable = model.embed_usable(["CCN", "CCN.Cl"], inputs="2d", cache=cache)
    assert not flags_in(told[0].message)
    assert usable.changes == ("", "largest fragment kept: CCN; left out: Cl")
    with pytest.raises(SourceError, match=r"row 2 'CCN.Cl': several_fragments"):
        model.embed(["CCN", "CCN.Cl"], inputs="2d", cache=cache, fragments="reject")


def test_the_model_is_used_like_the_torch_module_inside_it(saved):
    path = saved()
    model = unimol_scale.from_pretrained(path)
    assert model.source == str(path)
    assert not model.training
    assert model.train() is model
    assert model.to(torch.float64) is model
    assert model.half() is model
    assert next(model.parameters()).dtype == torch.float16
    assert model.heads == Heads()
    assert {"embed", "backbone", "state_dict"} <= set(dir(model))
    assert not hasattr(model, "projection")
    plain = load_pretrained(path)
    loaded = model.float().load_state_dict(plain.state_dict())
    assert (loaded.missing_keys, loaded.unexpected_keys) == ([], [])
    assert repr(model).startswith("MolecularModel(")


def test_a_model_can_be_copied_pickled_and_saved_again(saved, tmp_path):
    model = unimol_scale.from_pretrained(saved())
    save_pretrained(model, tmp_path / "again")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), load_pretrained(tmp_path / "again")):
        found = other.state_dict()
        assert all(torch.equal(tensor, found[name]) for name, tensor in model.state_dict().items())


def test_hydrogens_are_atoms_for_a_model_that_was_pretrained_with_them(saved, cache):
    path = saved()
    unknown = unimol_scale.from_pretrained(path)
    assert [len(atoms) for atoms in unknown.embed(SMILES, kind="atom", cache=cache)] == [3, 7, 3]
    shown = unknown.embed(SMILES, kind="atom", hydrogens=True, cache=cache)
    assert [len(atoms) for atoms in shown] == [9, 13, 9]
    tree = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**tree, "hydrogens": True}))
    model = unimol_scale.from_pretrained(path)
    assert [len(atoms) for atoms in model.embed(SMILES, kind="atom", cache=cache)] == [9, 13, 9]
    assert len(model.embed_usable("CCO", kind="atom", hydrogens=False, cache=cache).values[0]) == 3
    np.testing.assert_array_equal(model.embed(SMILES, kind="atom", cache=cache)[1], shown[1])


def test_several_conformers_are_averaged_and_kept_apart_in_the_cache(saved, cache):
    model = unimol_scale.from_pretrained(saved())
    one, three = (model.embed(["CCCCCO", "CCO"], conformers=number, cache=cache) for number in (1, 3))
    assert three.shape == (2, 16)
    assert np.abs(one - three).max() > 1e-5
    np.testing.assert_array_equal(model.embed(["CCCCCO", "CCO"], cache=cache), one)
    atoms = model.embed(["CCCCCO"], kind="atom", conformers=3, cache=cache)[0]
    np.testing.assert_allclose(atoms.mean(axis=0), three[0], atol=1e-5)
    for conformers, message in ((0, "at least 1, got 0"), (256, "must be 1 to 255, got 256")):
        with pytest.raises(ConfigError, match=message):
            model.embed("CCO", conformers=conformers, cache=cache)
    with pytest.raises(ConfigError, match="the same for all conformers"):
        model.embed("CCO", inputs="2d", conformers=2, cache=cache)
