"""The learning rate of every step and layer."""

import pytest

from tests.helpers.tiny_finetuning import fitting, model
from unimol_scale.downstream.finetuning.model.learning_rates import parameter_groups, rate_factor


def rates(total, **changes):
    return [rate_factor(step, total, fitting(**changes)) for step in range(total)]


def test_the_learning_rate_falls_from_a_layer_to_the_one_below_and_only_matrices_decay():
    deep = model()
    deep.backbone.layers.append(type(deep.backbone.layers[0])(deep.backbone.config))
    groups = parameter_groups(
        dict(deep.named_parameters()),
        len(deep.backbone.layers),
        fitting(learning_rate=1.0, layer_decay=0.5, weight_decay=0.1),
    )
    rate = {id(p): g["lr"] for g in groups for p in g["params"]}
    decay = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    named = dict(deep.named_parameters())
    assert len(rate) == len(named) == sum(len(g["params"]) for g in groups)
    for name, parameter in named.items():
        expected = 0.5 if name.startswith("backbone.layers.0.") else 1.0
        if name.startswith("backbone.") and not name.startswith("backbone.layers."):
            expected = 0.25
        assert rate[id(parameter)] == expected, name
        assert decay[id(parameter)] == (0.1 if parameter.ndim > 1 else 0.0), name
    assert any(name.startswith("out.") for name in named)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_nothing():
    assert rates(10, warm_up=0.2) == pytest.approx([0.5, 1, *(1 - n / 8 for n in range(8))])
    assert rates(3, warm_up=0.0) == pytest.approx([1.0, 1.0, 0.5])
    assert rate_factor(9, 10, fitting(warm_up=1.0)) == 1.0


def test_after_the_warm_up_the_schedule_leads_to_the_rate_that_is_asked_for():
    linear, cosine, constant = (
        [1e-3 * factor for factor in rates(12, learning_rate=1e-3, warm_up=2 / 12, schedule=name, **end)]
        for name, end in (
            ("linear", {"end_learning_rate": 1e-4}),
            ("cosine", {"end_learning_rate": 1e-4}),
            ("constant", {}),
        )
    )
    for found in (linear, cosine, constant):
        assert found[:3] == pytest.approx([0.5e-3, 1e-3, 1e-3])
    assert (linear[7], cosine[7]) == pytest.approx((0.55e-3, 0.55e-3))  # in the middle both are halfway
    assert cosine[4] > linear[4]
    assert cosine[10] < linear[10]
    assert set(constant[1:]) == {1e-3}
    for name in ("linear", "cosine"):
        end = rate_factor(12, 12, fitting(learning_rate=1e-3, schedule=name, end_learning_rate=1e-4))
        assert 1e-3 * end == pytest.approx(1e-4)
