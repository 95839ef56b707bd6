"""Fine-tunings of the last layers: what moves, in both precisions."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.helpers.tiny_finetuning import TINY, fitting
from unimol_scale.checkpoints.weights import load_pretrained, save_pretrained
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.downstream.finetuning.model.saved_model import load_member, read_config
from unimol_scale.errors import ConfigError
from unimol_scale.model.accounting import DENOISE_HEADS
from unimol_scale.model.model_with_heads import HeadedModel


@pytest.fixture(scope="module")
def three_layers(tmp_path_factory):
    """A model of three layers."""
    folder = tmp_path_factory.mktemp("three")
    torch.manual_seed(3)
    save_pretrained(HeadedModel(dataclasses.replace(TINY, layers=3), DENOISE_HEADS), folder)
    return folder


def moved(folder, pretrained):
    """Return the names of the backbone's tensors that a fine-tuning has changed."""
    saved = read_config(folder)
    now = load_member(folder, saved, saved.members[0]).backbone.state_dict()
    before = load_pretrained(pretrained).backbone.state_dict()
    return {name for name, value in before.items() if not np.array_equal(value.numpy(), now[name].numpy())}


@pytest.mark.parametrize("changes", [{}, {"precision": "bf16"}, {"ema_decay": 0.5}], ids=lambda changes: str(changes))
def test_only_the_last_layers_and_the_head_move(settings, three_layers, changes):
    config = settings(
        pretrained=str(three_layers), inputs="2d", seeds=1, train=fitting(trained_layers=2, epochs=2, **changes)
    )
    finetune(config)
    names = {name.split(".")[1] for name in moved(config.output, three_layers) if name.startswith("layers.")}
    assert names == {"1", "2"}
    assert all(name.startswith("layers.") for name in moved(config.output, three_layers))
    assert "the last 2 layers and the head were trained" in (config.output / "report.md").read_text()


def test_more_layers_than_there_are_are_refused_before_anything_is_read(settings, three_layers):
    config = settings(pretrained=str(three_layers), inputs="2d", train=fitting(trained_layers=4))
    with pytest.raises(ConfigError, match="the model has 3 layers"):
        finetune(config)
    assert not config.output.exists() or not any(config.output.iterdir())
