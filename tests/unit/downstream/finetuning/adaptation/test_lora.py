"""Low-rank adapters: how they begin, what learns, and what is left of them in the saved model."""

import dataclasses
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.helpers.tiny_finetuning import CARBON, MOLECULES, TINY, column, fitting, model, prepared, problem
from unimol_scale.checkpoints.weights import load_pretrained
from unimol_scale.downstream.data.batches import each_row_once
from unimol_scale.downstream.finetuning.adaptation.adapt import adapt
from unimol_scale.downstream.finetuning.adaptation.lora import merge_adapters
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.downstream.finetuning.model.property_model import PropertyModel
from unimol_scale.downstream.finetuning.model.saved_model import load_member, read_config
from unimol_scale.downstream.finetuning.model.training import add_gradient
from unimol_scale.downstream.finetuning.predict import predict_molecules
from unimol_scale.errors import ConfigError

CPU = torch.device("cpu")
TWO_LAYERS = dataclasses.replace(TINY, layers=2)


@pytest.fixture
def task(tmp_path):
    return problem(prepared(tmp_path / "cache"), column(CARBON), "regression", "rmse")


def outputs(one, task):
    with torch.no_grad():
        return torch.cat([one(sample.input) for sample in each_row_once(task.train, task.make_sample, None, CPU)])


def adapted(config=TINY, **changes):
    torch.manual_seed(1)
    one = PropertyModel(config, 1, "mean", 0.0).eval()
    adapt(one.backbone, fitting(lora_rank=2, lora_alpha=8.0, **changes), seed=5)
    return one


def with_updates(one):
    """Give every B a value, as training does."""
    torch.manual_seed(9)
    with torch.no_grad():
        for name, parameter in one.named_parameters():
            if name.endswith(".B"):
                parameter.normal_(std=0.3)
    return one


def test_it_begins_as_the_frozen_model_to_the_bit_and_only_adapters_and_head_learn(task):
    torch.manual_seed(1)
    plain, one = PropertyModel(TWO_LAYERS, 1, "mean", 0.0).eval(), adapted(TWO_LAYERS)
    torch.nn.init.normal_(plain.out.weight)
    one.out.load_state_dict(plain.out.state_dict())
    assert torch.equal(outputs(plain, task), outputs(one, task))
    add_gradient(with_updates(one), list(each_row_once(task.train, task.make_sample, None, CPU)), task, CPU)
    named = dict(one.named_parameters())
    learning = {name for name, parameter in named.items() if parameter.grad is not None}
    adapters = {name for name in learning if name.startswith("backbone.")}
    assert {name.rpartition(".")[2] for name in adapters} == {"A", "B"}
    assert learning - adapters == {name for name, _ in plain.named_parameters() if not name.startswith("backbone.")}
    assert not learning & {name for name, parameter in named.items() if not parameter.requires_grad}
    # The linear maps of the first layer, and of the last one those that the atoms depend on.
    assert len([name for name in adapters if ".layers.0." in name]) == 2 * 12
    assert len([name for name in adapters if ".layers.1." in name]) == 2 * 5
    assert all(named[name].grad.abs().max() > 0.0 for name in adapters)


def test_a_is_kaiming_uniform_by_the_seed_b_is_zero_and_the_update_is_alpha_over_rank(task):
    one, again = adapted(), adapted()
    part = one.backbone.layers[0].ffn.parametrizations.up_weight
    original, update = part.original, part[0]
    assert torch.equal(update.A, again.backbone.layers[0].ffn.parametrizations.up_weight[0].A)
    bound = math.sqrt(6.0 / ((1.0 + 5.0) * TINY.atom_width))
    assert 0.5 * bound < update.A.abs().max() <= bound
    assert not update.B.any()
    with_updates(one)
    torch.testing.assert_close(one.backbone.layers[0].ffn.up_weight, original + 4.0 * update.B @ update.A)


def test_tracks_and_layers_can_be_chosen():
    names = {name for name, parameter in adapted(lora_targets=("atom",)).named_parameters() if parameter.requires_grad}
    tensors = {name.split(".")[5] for name in names if name.startswith("backbone.")}
    assert tensors == {"qkv_weight", "out_weight", "up_weight", "down_weight"}
    assert not any("pair" in name for name in names)


def test_merged_it_has_the_tensors_of_any_model_and_predicts_as_before(task):
    one = with_updates(adapted())
    before = outputs(one, task)
    merge_adapters(one.backbone)
    assert one.state_dict().keys() == model().state_dict().keys()
    torch.testing.assert_close(outputs(one, task), before, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_fine_tuning_saves_the_sum_and_leaves_everything_else_as_it_was(settings, place, precision):
    train = fitting(lora_rank=2, epochs=3, lora_targets=("atom",), precision=precision)
    config = settings(inputs="2d", seeds=1, train=train)
    done = finetune(config)
    assert done.seeds[0].losses[-1] < done.seeds[0].losses[0]
    saved = read_config(config.output)
    now = load_member(config.output, saved, saved.members[0]).backbone.state_dict()
    before = load_pretrained(place / "pretrained").backbone.state_dict()
    moved = {name for name, value in before.items() if not np.array_equal(value.numpy(), now[name].numpy())}
    assert {name.removeprefix("layers.0.") for name in moved} == {
        "attention.qkv_weight", "attention.out_weight", "ffn.up_weight", "ffn.down_weight"
    }  # fmt: skip
    difference = now["layers.0.ffn.up_weight"] - before["layers.0.ffn.up_weight"]
    assert torch.linalg.matrix_rank(difference, rtol=1e-3) <= 2
    options = {"smiles_column": None, "skip_bad": False, "cache": place / "cache", "max_pairs": None}
    found = predict_molecules(list(MOLECULES), config.output, device_name="cpu", **options).value_SRL[0, :, 0]
    table = pq.read_table(config.output / "predictions-seed-0.parquet").column("predicted size").to_numpy()
    np.testing.assert_allclose(found, table, rtol=1e-5)
    assert (
        "LoRA: the head and updates of rank 2 (alpha 16) of the atom track of all layers"
        in (config.output / "report.md").read_text()
    )


def test_wrong_settings_are_refused():
    for changes in ({"lora_rank": -1}, {"lora_alpha": 0.0}, {"lora_targets": ()}):
        with pytest.raises(ConfigError, match=r"train\.lora_rank must not be negative"):
            fitting(**changes)
    with pytest.raises(ConfigError, match="trains no layer"):
        fitting(probe="mlp", lora_rank=2)
