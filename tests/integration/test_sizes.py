"""The published sizes as they are: built with weights, forward and backward, on a CPU."""

import gc
import math

import pytest
import torch

from tests.helpers.molecules import random_columns
from tests.helpers.random_keys import keys
from unimol_scale.data.batch import collate
from unimol_scale.model import layers
from unimol_scale.model.accounting import count_parameters
from unimol_scale.model.presets import preset
from unimol_scale.objectives.base import total_loss
from unimol_scale.objectives.denoise import DenoiseConfig, DenoiseModel, DenoiseObjective


@pytest.fixture
def _bf16_by_default():
    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_dtype(torch.float32)
    gc.collect()


@pytest.fixture
def _uniform_draws(monkeypatch):
    """Draw 1.1 billion weights in seconds: torch's cut normal distribution draws each six times, for 90 s."""

    @torch.no_grad()
    def fill(weight, std):
        weight.uniform_(-math.sqrt(3) * std, math.sqrt(3) * std)

    monkeypatch.setattr(layers, "fill_truncated_normal", fill)


@pytest.mark.usefixtures("_bf16_by_default", "_uniform_draws")
def test_the_largest_size_runs_forward_and_backward_in_bf16():
    config = preset("1.1B", checkpoint_every=1)
    torch.manual_seed(0)
    model = DenoiseModel(config)
    assert sum(p.numel() for p in model.parameters()) == count_parameters(config).total == 1_129_209_696
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    objective = DenoiseObjective(DenoiseConfig(mask_fraction=0.3))
    sample = objective.corrupt(collate(random_columns([9, 12])), keys([0, 1]))
    loss = total_loss(model(sample), sample.counts, objective.weights)
    loss.backward()
    assert torch.isfinite(loss)
    first, last = model.backbone.layers[0], model.backbone.layers[-1]
    # The coordinate head starts at zero, so what only it reads, the last pairs, gets its first gradient a step later.
    for module in (first, last.attention, last.ffn):
        for name, parameter in module.named_parameters():
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().max() > 0 or name.endswith("pair_bias"), name
