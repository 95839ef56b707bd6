"""Our own directories: bit for bit there and back, and every damage is found before anything is loaded."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import unimol_scale
from tests.helpers.tomorrow import add_setting
from unimol_scale.checkpoints.weights import (
    identify,
    load_official_checkpoint,
    load_pretrained,
    save_official,
    save_pretrained,
)
from unimol_scale.common.files import hash_file
from unimol_scale.errors import CheckpointError
from unimol_scale.model.accounting import Heads
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.model.presets import ModelConfig
from unimol_scale.objectives.denoise import DenoiseConfig, DenoiseModel, DenoiseObjective

CONFIG = ModelConfig(layers=2, atom_width=16, heads=2, ffn_width=24, pair_width=8, pair_hidden=4, gaussians=16)
RELEASED = ModelConfig(
    layers=2, atom_width=16, heads=2, ffn_width=24, pair_width=8, pair_hidden=4,
    normalize_by="padded", pair_type="chirality",
)  # fmt: skip


@pytest.fixture
def model():
    torch.manual_seed(0)
    return DenoiseModel(CONFIG)


@pytest.fixture
def saved(model, tmp_path):
    save_pretrained(model, tmp_path / "saved")
    return tmp_path / "saved"


def assert_equal(first, second):
    assert first.backbone.config == second.backbone.config
    mine, theirs = first.state_dict(), second.state_dict()
    assert set(mine) == set(theirs)
    for name, tensor in mine.items():
        assert tensor.dtype == theirs[name].dtype
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_directory_comes_back_bit_for_bit(model, tmp_path, dtype):
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    save_pretrained(model, tmp_path / "saved")
    found = unimol_scale.from_pretrained(tmp_path / "saved")
    assert_equal(model, found)
    assert not found.training
    assert all(p.requires_grad for p in found.parameters())
    centres = found.backbone.pair_encoding.distance.centres_G
    assert torch.equal(centres, model.backbone.pair_encoding.distance.centres_G)
    assert centres.dtype == torch.float32
    assert sorted(p.name for p in (tmp_path / "saved").iterdir()) == ["config.json", "model.safetensors"]


def test_released_file_comes_back_bit_for_bit(tmp_path):
    model = DenoiseModel(RELEASED)
    save_official(model, tmp_path / "released.pt")
    content = torch.load(tmp_path / "released.pt", weights_only=True)
    assert content["args"] is None
    assert content["config"]["encoder_ffn_embed_dim"] == 24
    assert_equal(model, load_official_checkpoint(tmp_path / "released.pt"))
    assert_equal(model, load_pretrained(tmp_path / "released.pt"))


def test_a_model_beyond_the_released_format_is_not_written(model, tmp_path):
    with pytest.raises(CheckpointError, match=r"gaussians=16 \(not 128\), normalize_by=molecule .*, pair_type=element"):
        save_official(model, tmp_path / "released.pt")
    assert not (tmp_path / "released.pt").exists()


def test_a_weight_that_is_not_finite_is_not_written(model, tmp_path):
    with torch.no_grad():
        model.token_head.out.bias[7] = torch.nan
    with pytest.raises(CheckpointError, match=r"'token_head.out.bias' has 1 .* nan at 7"):
        save_pretrained(model, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_nothing_is_written_over(saved, model, tmp_path):
    with pytest.raises(CheckpointError, match=r"already holds 'config.json'"):
        save_pretrained(model, saved)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"already holds 'thesis.txt'"):
        save_pretrained(model, tmp_path / "thesis")
    (saved / "config.json").unlink()  # as a kill between the two files leaves it
    save_pretrained(model, saved)
    assert_equal(model, load_pretrained(saved))


def test_a_place_that_can_not_be_written_is_one_error(model, tmp_path):
    (tmp_path / "file").write_text("not a directory")
    for save, content in ((save_pretrained, model), (save_official, DenoiseModel(RELEASED))):
        with pytest.raises(CheckpointError, match="file/inside cannot be written"):
            save(content, tmp_path / "file" / "inside")


def rewrite(saved, change):
    """Change the tensors and make size and hash fit again."""
    file = saved / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(tensors)
    save_file(tensors, file)
    tree = json.loads((saved / "config.json").read_text())
    tree |= {"weights_bytes": file.stat().st_size, "weights_sha256": hash_file(file)}
    (saved / "config.json").write_text(json.dumps(tree))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("token_head.out.bias"), "'token_head.out.bias' is missing"),
        (lambda t: t.update({"extra": torch.ones(1)}), "first is 'extra'"),
        (
            lambda t: t.update({"token_head.out.bias": torch.ones(5)}),
            r"'token_head.out.bias' has shape \(5,\), expected",
        ),
        (lambda t: t["token_head.out.bias"][4].fill_(torch.inf), "'token_head.out.bias' has 1 .* inf at 4"),
        (lambda t: t.update({"token_head.out.bias": torch.ones(128).int()}), "'token_head.out.bias' holds torch.int32"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(saved, change, said):
    rewrite(saved, change)
    with pytest.raises(CheckpointError, match=said):
        load_pretrained(saved)


def test_a_cut_or_flipped_or_missing_weights_file_is_found(saved):
    file = saved / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    with pytest.raises(CheckpointError, match=f"has 1000 bytes, expected {len(whole)}"):
        load_pretrained(saved)
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        load_pretrained(saved)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors is missing"):
        load_pretrained(saved)


def test_a_weights_file_of_another_kind_is_refused(saved):
    file = saved / "model.safetensors"
    file.write_bytes(b"\x80\x05hello, no safetensors here")
    tree = json.loads((saved / "config.json").read_text())
    tree |= {"weights_bytes": file.stat().st_size, "weights_sha256": hash_file(file)}
    (saved / "config.json").write_text(json.dumps(tree))
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_pretrained(saved)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.update(format_version=1), "format_version 1 is not 2.* use the version that wrote the file"),
        # Whatever else a newer format has, its version is what is said.
        (lambda t: t.update(format_version=3, layout=[]), "format_version 3 is newer than 2.* update unimol-scale"),
        (lambda t: t["heads"].pop("token"), "first is 'token_head"),
        (lambda t: t["heads"].update(token=False), "first is 'token_head"),
        (lambda t: t["model"].pop("layers"), "the key 'layers' is required"),
        (
            lambda t: t["model"].update(layerz=2),
            "layerz: unknown key 'layerz', so a newer version .* update unimol",
        ),
        (lambda t: t["model"].update(heads=3), "must be a multiple of model.heads 3"),
        (lambda t: t.pop("weights_sha256"), "'weights_sha256' is required"),
    ],
)
def test_the_configuration_is_read_strictly(saved, change, said):
    tree = json.loads((saved / "config.json").read_text())
    change(tree)
    (saved / "config.json").write_text(json.dumps(tree))
    with pytest.raises(CheckpointError, match=said):
        load_pretrained(saved)


def test_an_option_that_did_not_exist_when_a_model_was_saved_has_its_default(saved):
    tree = json.loads((saved / "config.json").read_text())
    before = load_pretrained(saved)
    for option in ("normalize_by", "pair_type", "kernel_max_distance", "geometry", "checkpoint_every"):
        del tree["model"][option]
    del tree["heads"]["projection"]
    (saved / "config.json").write_text(json.dumps(tree))
    after = load_pretrained(saved)
    assert (after.backbone.config, after.heads) == (before.backbone.config, before.heads)


SEEN = DenoiseObjective(DenoiseConfig(flat_geometry=0.0)).seen(RELEASED)
UNI_MOL2 = DenoiseObjective(DenoiseConfig()).seen(RELEASED)


@pytest.mark.parametrize("seen", [SEEN, UNI_MOL2, None], ids=["never-flat", "uni-mol2", "unknown"])
def test_what_pretraining_has_shown_goes_with_the_model_in_every_format(seen, tmp_path):
    torch.manual_seed(0)
    model = HeadedModel(RELEASED, Heads(token=True, coordinate=True), seen)
    save_pretrained(model, tmp_path / "ours")
    save_official(model, tmp_path / "released.pt")
    for path in (tmp_path / "ours", tmp_path / "released.pt"):
        assert load_pretrained(path).seen == identify(path).seen == seen
    save_pretrained(load_pretrained(tmp_path / "released.pt"), tmp_path / "imported")
    assert load_pretrained(tmp_path / "imported").seen == seen


def test_a_released_file_is_of_uni_mol2_and_a_directory_from_before_there_was_a_record_is_unknown(tmp_path):
    model = HeadedModel(RELEASED, Heads(token=True, coordinate=True), SEEN)
    save_official(model, tmp_path / "released.pt")
    content = torch.load(tmp_path / "released.pt", weights_only=True)
    del content["config"]["seen"]
    torch.save(content, tmp_path / "released.pt")
    assert identify(tmp_path / "released.pt").seen == UNI_MOL2
    save_pretrained(model, tmp_path / "ours")
    tree = json.loads((tmp_path / "ours" / "config.json").read_text())
    del tree["seen"]
    (tmp_path / "ours" / "config.json").write_text(json.dumps(tree))
    assert load_pretrained(tmp_path / "ours").seen is None


def test_a_record_that_is_not_understood_is_refused(tmp_path):
    model = HeadedModel(RELEASED, Heads(token=True, coordinate=True), SEEN)
    save_official(model, tmp_path / "released.pt")
    content = torch.load(tmp_path / "released.pt", weights_only=True)
    content["config"]["seen"]["views"]["3d"]["colour"] = "red"
    torch.save(content, tmp_path / "released.pt")
    with pytest.raises(CheckpointError, match=r"released.pt: its key 'seen': .*unknown key 'colour', so a newer"):
        load_pretrained(tmp_path / "released.pt")
    save_pretrained(model, tmp_path / "ours")
    tree = json.loads((tmp_path / "ours" / "config.json").read_text())
    tree["seen"]["views"]["4d"] = tree["seen"]["views"].pop("3d")
    (tmp_path / "ours" / "config.json").write_text(json.dumps(tree))
    with pytest.raises(CheckpointError, match="unknown inputs '4d'"):
        load_pretrained(tmp_path / "ours")


def test_a_model_outlives_the_options_of_later_versions(saved, model, tmp_path):
    with pytest.MonkeyPatch.context() as tomorrow:
        for kind, name, hint, default in ((ModelConfig, "gate", str, "none"), (Heads, "charge", bool, False)):
            add_setting(tomorrow, kind, name, hint, default)
        loaded = load_pretrained(saved)
        assert (loaded.backbone.config.gate, loaded.heads.charge) == ("none", False)
        assert_equal(loaded, model)
        save_pretrained(loaded, tmp_path / "later")
    with pytest.raises(CheckpointError, match=r"later/config\.json: model\.gate: unknown key 'gate', so a newer"):
        load_pretrained(tmp_path / "later")


def test_what_is_no_checkpoint_is_said_to_be_none(saved, tmp_path):
    with pytest.raises(CheckpointError, match=r"not a checkpoint: it has no config.json"):
        load_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_pretrained(tmp_path / "nowhere")
    (saved / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json cannot be read"):
        load_pretrained(saved)


def test_the_package_does_not_import_torch_by_itself():
    code = "import sys, unimol_scale, unimol_scale.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="from_pretraind"):
        _ = unimol_scale.from_pretraind
