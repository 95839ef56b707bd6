"""How a step moves the weights: as it always did unless a setting says otherwise, and the mean of the weights."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers.tiny_finetuning import AROMATIC, CARBON, TINY, column, fitting, model, prepared, problem
from unimol_scale.downstream.compute import limited_threads
from unimol_scale.downstream.data.batches import each_row_once, training_batches
from unimol_scale.downstream.finetuning.model import training
from unimol_scale.downstream.finetuning.model.head_initialisation import initialise_head
from unimol_scale.downstream.finetuning.model.learning_rates import parameter_groups
from unimol_scale.downstream.finetuning.model.property_model import PropertyModel
from unimol_scale.downstream.finetuning.model.training import fit, predict
from unimol_scale.downstream.finetuning.model.weight_updates import WeightUpdates
from unimol_scale.downstream.metrics import score
from unimol_scale.downstream.registry import METRICS

CPU = torch.device("cpu")
NAME = "backbone.layers.0.ffn.up_weight"


@pytest.fixture(scope="module")
def molecules(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("cache"))


def seeded_model(**options):
    torch.manual_seed(0)
    return model(**options)


def weights_of(fitted):
    return {name: parameter.detach().clone() for name, parameter in fitted.named_parameters()}


def test_without_new_settings_every_bit_is_as_it_was(molecules):
    """The loop of the version without schedules, moments, dropouts, heads, means and noise, written out."""
    chosen, config = problem(molecules, column(CARBON), "regression", "rmse"), fitting(epochs=3, dropout=0.2)
    fitted, by_hand = seeded_model(dropout=0.2), seeded_model(dropout=0.2)
    epochs = fit(fitted, chosen, config, seed=4, device=CPU)
    assert epochs[-1].best == 3, "the weights of another epoch were kept"

    steps_per_epoch = 3
    total = config.epochs * steps_per_epoch

    def factor(step):
        rising = max(1, math.ceil(config.warm_up * total))
        return (step + 1) / rising if step < rising else max(0.0, (total - step) / max(total - rising, 1))

    with torch.random.fork_rng(devices=[]), limited_threads(by_hand, CPU):
        torch.manual_seed(4)
        initialise_head(by_hand, chosen.train, chosen.make_sample, np.zeros(1), None, CPU)
    groups = parameter_groups(dict(by_hand.named_parameters()), 1, config)
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    steps = training_batches(chosen.train, chosen.make_sample, config, 4, CPU).steps(0, total)
    torch.manual_seed(4)
    list(each_row_once(chosen.valid, chosen.make_sample, None, CPU))  # the loader draws, too
    with limited_threads(by_hand, CPU):
        for step in range(total):
            if step % steps_per_epoch == 0:  # as after the validation
                by_hand.train()
            samples = next(steps)
            count = int(sum((~sample.label_BL.isnan()).sum() for sample in samples))
            for sample in samples:
                out_BL = by_hand(sample.input)
                wanted_BL = chosen.scaling.normalise(sample.label_BL)
                (nn.functional.mse_loss(out_BL, wanted_BL, reduction="sum") / count).backward()
            nn.utils.clip_grad_norm_(by_hand.parameters(), config.gradient_clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
    for name, expected in weights_of(by_hand).items():
        assert torch.equal(weights_of(fitted)[name], expected), name


def test_the_moments_of_the_optimizer_are_those_of_the_settings():
    fitted = seeded_model()
    before = weights_of(fitted)
    updates = WeightUpdates(
        fitted, fitting(learning_rate=1.0, weight_decay=0.0, beta1=0.5, beta2=0.75, epsilon=1e-3, warm_up=0.0), 10
    )
    moments = {name: (torch.zeros_like(value), torch.zeros_like(value)) for name, value in before.items()}
    torch.manual_seed(1)
    for step in (1, 2):
        gradients = {name: 1e-4 * torch.randn_like(value) for name, value in before.items()}
        for name, parameter in fitted.named_parameters():
            parameter.grad = gradients[name].clone()
        updates.step()
        for name, (first, second) in moments.items():
            first.mul_(0.5).add_(0.5 * gradients[name])
            second.mul_(0.75).add_(0.25 * gradients[name] ** 2)
            root = (second / (1 - 0.75**step)).sqrt() + 1e-3
            before[name] = before[name] - first / (1 - 0.5**step) / root
    for name, found in weights_of(fitted).items():
        torch.testing.assert_close(found, before[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_mean_of_the_weights_is_kept_in_fp32(precision):
    fitted = seeded_model()
    expected = weights_of(fitted)[NAME]
    updates = WeightUpdates(fitted, fitting(learning_rate=1e-4, ema_decay=0.75, precision=precision), 10)
    for _ in range(4):
        for parameter in updates.weights.named.values():
            parameter.grad = torch.ones_like(parameter)
        updates.step()
        expected = 0.75 * expected + 0.25 * updates.weights.named[NAME].detach()
    assert updates.snapshot()[NAME].dtype == torch.float32
    torch.testing.assert_close(updates.snapshot()[NAME], expected, rtol=0, atol=1e-7)
    trained = weights_of(fitted)
    with updates.result():
        inside = weights_of(fitted)
    assert torch.equal(inside[NAME], updates.snapshot()[NAME].to(inside[NAME].dtype))
    assert not torch.equal(inside[NAME], trained[NAME]) or precision == "bf16"
    for name, value in weights_of(fitted).items():
        assert torch.equal(value, trained[name]), f"{name} is not as it was before it was replaced"
    assert fitted.get_parameter("out.weight") is updates.weights.named["out.weight"], "what the optimizer moves"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_fit_validates_and_returns_the_mean_of_the_weights(molecules, precision, monkeypatch):
    chosen = problem(molecules, column(CARBON + AROMATIC), "regression", "rmse", valid=range(16, 30))
    plain, averaged, seen = seeded_model(), seeded_model(), []
    before = fit(plain, chosen, fitting(epochs=6, precision=precision), seed=0, device=CPU)

    class Watched(WeightUpdates):
        def step(self):
            super().step()
            seen.append(self.weights.snapshot()[NAME])

    monkeypatch.setattr(training, "WeightUpdates", Watched)
    start = weights_of(averaged)[NAME]
    epochs = fit(averaged, chosen, fitting(epochs=6, precision=precision, ema_decay=0.8), seed=0, device=CPU)
    assert [epoch.loss for epoch in epochs] == [epoch.loss for epoch in before], "the training itself does not change"
    assert [epoch.score for epoch in epochs] != [epoch.score for epoch in before]
    mean = start
    for value in seen[: 3 * epochs[-1].best]:
        mean = 0.8 * mean + 0.2 * value
    torch.testing.assert_close(weights_of(averaged)[NAME], mean, rtol=0, atol=1e-6)
    prediction_RL = predict(averaged, each_row_once(chosen.valid, chosen.make_sample, 40_000, CPU), chosen.scaling, CPU)
    found = score(METRICS["rmse"], chosen.valid.labels_RL, prediction_RL).value
    assert found == pytest.approx(epochs[epochs[-1].best - 1].score, rel=1e-6 if precision == "fp32" else 0.02)


def test_every_setting_changes_what_is_learnt(molecules):
    changes = [
        {}, {"schedule": "cosine"}, {"schedule": "constant"}, {"end_learning_rate": 5e-3}, {"beta1": 0.5},
        {"beta2": 0.9}, {"epsilon": 1e-2}, {"backbone_dropout": 0.2}, {"attention_dropout": 0.2},
        {"triangle_dropout": 0.2}, {"activation_dropout": 0.2}, {"drop_path": 0.2}, {"ema_decay": 0.5},
    ]  # fmt: skip
    chosen, scores = problem(molecules, column(CARBON), "regression", "rmse"), {}
    for change in changes:
        config = fitting(epochs=2, **change)
        torch.manual_seed(0)
        # Two layers: the pairs of the last one lead nowhere.
        fitted = PropertyModel(config.with_dropouts(dataclasses.replace(TINY, layers=2)), 1, "mean", 0.0)
        scores[str(change)] = tuple(epoch.score for epoch in fit(fitted, chosen, config, seed=0, device=CPU))
    assert len(set(scores.values())) == len(changes), scores
