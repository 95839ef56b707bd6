"""A model out of a checkpoint of a run: the bits that were trained, or an error that says what is wrong."""

import shutil

import pytest
import torch

import unimol_scale
from tests.helpers.saved_runs import CONFIG, KEPT, META, assert_is, model_of, save
from unimol_scale.checkpoints.run.checkpoint_folder import read_manifest
from unimol_scale.checkpoints.run.shares import share_name
from unimol_scale.checkpoints.weights import identify, save_checkpoint, save_pretrained
from unimol_scale.config import to_tree
from unimol_scale.errors import CheckpointError
from unimol_scale.objectives.denoise import DenoiseConfig, DenoiseObjective


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_checkpoint_and_the_run_it_is_of_give_the_trained_model(tmp_path, world_size):
    save(tmp_path, 5, world_size=world_size)
    path = save(tmp_path, 10, world_size=world_size).path
    assert_is(unimol_scale.from_pretrained(path), 10)
    assert_is(unimol_scale.from_pretrained(tmp_path), 10)
    assert_is(unimol_scale.from_pretrained(tmp_path / "checkpoints"), 10)
    assert_is(unimol_scale.from_pretrained(path.parent / "step-00000005"), 5)


def test_the_averaged_weights_are_taken_where_there_are_some(tmp_path):
    path = save(tmp_path, 10, mean=True).path
    assert_is(unimol_scale.from_pretrained(path), 1010)
    assert_is(unimol_scale.from_pretrained(path, averaged=False), 10)


def test_the_model_outlives_its_checkpoint(tmp_path):
    path = save(tmp_path, 10).path
    found = unimol_scale.from_pretrained(path)
    shutil.rmtree(path)
    assert_is(found, 10)


def test_a_finished_run_gives_its_model_and_one_cut_off_at_the_export_its_checkpoint(tmp_path):
    save(tmp_path, 10)
    (tmp_path / "model").mkdir()
    assert_is(unimol_scale.from_pretrained(tmp_path), 10)
    save_pretrained(model_of(77, KEPT), tmp_path / "model")
    found = unimol_scale.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in model_of(77, KEPT).state_dict().items())


def test_of_a_run_the_newest_intact_one_is_taken_and_the_damaged_one_named(tmp_path):
    save(tmp_path, 5)
    path = save(tmp_path, 10).path
    (path / share_name(1, 2)).unlink()
    with pytest.warns(UserWarning, match=r"skipped: .*step-00000010: share-00001-of-00002.safetensors is missing"):
        assert_is(unimol_scale.from_pretrained(tmp_path), 5)
    with pytest.raises(CheckpointError, match=r"share-00001-of-00002.safetensors is missing"):
        unimol_scale.from_pretrained(path)


def test_a_save_that_was_cut_off_is_no_model(tmp_path):
    path = save(tmp_path, 10).path
    (path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"no readable manifest.json"):
        unimol_scale.from_pretrained(path.rename(tmp_path / "checkpoints" / "tmp-step-00000010"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {**META["model"], "atom_width": 32}}, "elements, not"),
        ({"model": {k: v for k, v in META["model"].items() if k != "layers"}}, "the key 'layers' is required"),
        ({"model": {**META["model"], "layerz": 2}}, "model.layerz: unknown key 'layerz', so a newer version"),
        ({"heads": {**META["heads"], "projection": 7}}, "no 'weight' of a parameter 'projection.weight'"),
    ],
)
def test_a_checkpoint_of_another_model_than_it_says_is_refused(tmp_path, change, said):
    with pytest.raises(CheckpointError, match=said):
        unimol_scale.from_pretrained(save(tmp_path, 10, meta={**META, **change}).path)


def test_a_checkpoint_that_does_not_say_of_what_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="the key 'model' is required"):
        unimol_scale.from_pretrained(save(tmp_path, 10, meta={}).path)


def test_an_option_that_did_not_exist_when_a_checkpoint_was_saved_has_its_default(tmp_path):
    options = ("normalize_by", "pair_type", "kernel_max_distance", "geometry", "checkpoint_every")
    model = {key: value for key, value in META["model"].items() if key not in options}
    heads = {key: value for key, value in META["heads"].items() if key != "projection"}
    assert_is(unimol_scale.from_pretrained(save(tmp_path, 10, meta={**META, "model": model, "heads": heads}).path), 10)


def test_a_checkpoint_of_an_unfinished_run_says_what_pretraining_shows(tmp_path):
    seen = DenoiseObjective(DenoiseConfig()).seen(CONFIG)
    save(tmp_path, 10, meta={**META, "seen": to_tree(seen)})
    assert unimol_scale.from_pretrained(tmp_path).seen == identify(tmp_path).seen == seen
    save_checkpoint(read_manifest(tmp_path / "checkpoints" / "step-00000010"), tmp_path / "exported")
    assert unimol_scale.from_pretrained(tmp_path / "exported").seen == seen
    assert unimol_scale.from_pretrained(save(tmp_path, 11).path).seen is None, "it is older than the record"


def test_identity_covers_every_share(tmp_path):
    info = save(tmp_path, 10)
    assert identify(tmp_path) == (CONFIG, info.sha256, None)
    assert identify(save(tmp_path, 11).path)[1] != info.sha256
