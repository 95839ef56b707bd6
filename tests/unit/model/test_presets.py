import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.helpers.molecules import random_columns
from tests.helpers.random_keys import keys
from unimol_scale.data.batch import collate
from unimol_scale.errors import ConfigError
from unimol_scale.model import kernels
from unimol_scale.model.accounting import count_parameters, forward_flops
from unimol_scale.model.native.library import torch_only
from unimol_scale.model.presets import PRESETS, preset
from unimol_scale.objectives.denoise import DenoiseConfig, DenoiseModel, DenoiseObjective

PUBLISHED = {
    "42M": 43_788_112,
    "84M": 84_116_080,
    "164M": 164_772_016,
    "310M": 310_082_880,
    "570M": 570_233_696,
    "1.1B": 1_129_209_696,
}


@pytest.mark.parametrize("size", PRESETS)
def test_built_models_have_the_parameters_that_accounting_says(size):
    with torch.device("meta"):
        model = DenoiseModel(preset(size))
    count = count_parameters(preset(size))
    assert sum(p.numel() for p in model.parameters()) == count.total
    layers = sum(p.numel() for p in model.backbone.layers.parameters())
    assert layers == count.non_embedding
    heads = [*model.token_head.parameters(), *model.coordinate_head.parameters()]
    assert sum(p.numel() for p in heads) == count.heads


@pytest.mark.parametrize(("size", "parameters"), PUBLISHED.items())
def test_the_published_sizes_have_the_published_parameters(size, parameters):
    assert count_parameters(preset(size)).total == parameters


def test_small_presets_span_the_sizes_they_are_named_after():
    for size in ("0.03M", "0.06M", "0.1M", "0.2M", "0.3M", "0.5M", "1M", "2M", "4M"):
        named = float(size[:-1]) * 1e6
        assert 0.7 < count_parameters(preset(size)).total / named < 1.35


@pytest.mark.parametrize(("size", "layers"), [("1M", 5), ("84M", 1)])
@pytest.mark.parametrize("atoms", [5, 24])
def test_flops_agree_with_what_torch_counts(size, layers, atoms, monkeypatch):
    monkeypatch.setattr(kernels, "ONEDNN_MIN_WIDTH", 1 << 30)  # torch's counter does not know oneDNN's product
    config = dataclasses.replace(preset(size), layers=layers)
    objective = DenoiseObjective(DenoiseConfig(mask_fraction=1.0))
    model = objective.build_model(config).eval()
    sample = objective.corrupt(collate(random_columns([atoms] * 2)), keys([0, 1]))
    with torch_only(), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(sample)
    assert forward_flops(config, atoms) * 2 == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_unknown_sizes_name_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean '1\.1B'"):
        preset("1.1b")


def test_impossible_dimensions_are_refused():
    with pytest.raises(ConfigError, match=r"multiple of model\.heads"):
        preset("0.1M", heads=5)
    with pytest.raises(ConfigError, match=r"dropout must be in \[0, 1\)"):
        preset("0.1M", dropout=1.0)
