"""Fine-tuned models on disk: what is loaded predicts the same, and what is damaged is named."""

import json

import pytest
import torch

from tests.helpers.tiny_finetuning import CARBON, TINY, column, model, prepared, problem
from unimol_scale.downstream.data.batches import each_row_once
from unimol_scale.downstream.finetuning.model.saved_model import (
    FORMAT_VERSION,
    FinetunedConfig,
    Member,
    load_member,
    read_config,
    save_config,
    save_member,
)
from unimol_scale.downstream.finetuning.model.training import predict
from unimol_scale.errors import CheckpointError

CPU = torch.device("cpu")


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    fitted = model(pooling="virtual_node", dropout=0.5).eval()
    sha256 = save_member(tmp_path, "seed-0.safetensors", fitted)
    member = Member(file="seed-0.safetensors", sha256=sha256, mean_L=(-400.123456789,), std_L=(1e-3,))
    config = FinetunedConfig(
        format_version=FORMAT_VERSION,
        model=TINY,
        pooling="virtual_node",
        inputs="2d",
        task="regression",
        targets=("energy",),
        units={"energy": "Ha"},
        metric="mae",
        max_atoms=None,
        members=(member,),
    )
    save_config(tmp_path, config)
    return tmp_path, config, fitted


def test_what_is_loaded_predicts_the_same(saved, tmp_path):
    folder, config, fitted = saved
    read = read_config(folder)
    assert read == config
    loaded = load_member(folder, read, read.members[0])
    assert not loaded.training
    chosen = problem(prepared(tmp_path / "cache"), column(CARBON), "regression", "mae")
    both = [
        predict(
            m,
            each_row_once(chosen.valid, chosen.make_sample, 40_000, torch.device("cpu")),
            chosen.scaling,
            torch.device("cpu"),
        )
        for m in (fitted, loaded)
    ]
    assert (both[0] == both[1]).all()


def test_a_folder_without_the_last_file_is_no_model(tmp_path):
    with pytest.raises(CheckpointError, match=r"is not a fine-tuned model: it has no finetuned\.json"):
        read_config(tmp_path)


def test_a_damaged_file_is_named(saved):
    folder, config, _ = saved
    path = folder / "seed-0.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"seed-0\.safetensors is damaged"):
        load_member(folder, config, config.members[0])
    path.unlink()
    with pytest.raises(CheckpointError, match=r"seed-0\.safetensors is missing"):
        load_member(folder, config, config.members[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 9}, "format_version 9 is newer than 1, which"),
        ({"members": []}, "members is empty"),
        ({"pooling": "max"}, "pooling: unknown value 'max'"),
        ({"surplus": 1}, "surplus: unknown key 'surplus', so a newer version of unimol-scale wrote this file"),
        ({"model": {"layers": 0}}, "finetuned.json"),
    ],
)
def test_a_description_that_is_wrong_says_where(saved, change, message):
    folder, _, _ = saved
    path = folder / "finetuned.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match="cannot be read") as caught:
        read_config(folder)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1, 2]", '{"format_version": 1'])
def test_a_description_that_is_cut_off_says_so(saved, text):
    folder, _, _ = saved
    (folder / "finetuned.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"finetuned\.json cannot be read"):
        read_config(folder)


def test_tensors_of_another_model_are_refused(saved):
    folder, config, _ = saved
    sha256 = save_member(folder, "seed-0.safetensors", model(num_targets=2))
    member = Member(file="seed-0.safetensors", sha256=sha256, mean_L=(0.0,), std_L=(1.0,))
    with pytest.raises(CheckpointError, match=r"seed-0\.safetensors does not hold the model of finetuned\.json"):
        load_member(folder, config, member)


def test_a_folder_from_before_a_setting_was_there_has_what_was_done_then(saved):
    folder, config, _ = saved
    path = folder / "finetuned.json"
    tree = json.loads(path.read_text())
    assert tree.pop("fragments") == "largest"
    path.write_text(json.dumps(tree))
    assert read_config(folder) == config
