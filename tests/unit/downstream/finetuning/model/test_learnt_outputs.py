"""Losses of labels against what a reader would write by hand, and values that come back from outputs."""

import numpy as np
import pytest
import torch

from tests.helpers.tiny_finetuning import column
from unimol_scale.downstream.finetuning.model.learnt_outputs import Scaling, class_loss, masked_loss, rank_loss
from unimol_scale.downstream.finetuning.model.property_model import ThresholdLinear
from unimol_scale.downstream.labels.label_weights import loss_weights

NAN = float("nan")


def test_the_loss_of_classes_is_minus_the_log_of_the_softmax_by_hand():
    torch.manual_seed(0)
    out = torch.randn(4, 3)
    label = torch.tensor([[2.0], [NAN], [0.0], [1.0]], dtype=torch.float64)
    probability = out.exp() / out.exp().sum(1, keepdim=True)
    by_hand = [-probability[row, int(label[row, 0])].log() for row in (0, 2, 3)]
    assert class_loss(out, label).item() == pytest.approx(sum(by_hand).item(), rel=1e-5)
    weight = torch.tensor([[0.5], [9.0], [2.0], [0.0]], dtype=torch.float64)
    expected = 0.5 * by_hand[0] + 2.0 * by_hand[1]
    assert class_loss(out, label, weight).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["mse", "mae", "huber", None])
def test_weights_multiply_the_loss_of_each_label(name):
    torch.manual_seed(0)
    out, wanted = torch.randn(3, 2), torch.rand(3, 2).round()
    wanted[1, 0] = NAN
    weight = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.5, 4.0]], dtype=torch.float64)
    total = sum(
        weight[at].item() * masked_loss(out[at].reshape(1, 1), wanted[at].reshape(1, 1), name).item()
        for at in [(0, 0), (0, 1), (1, 1), (2, 0), (2, 1)]
    )
    assert masked_loss(out, wanted, name, weight).item() == pytest.approx(total, rel=1e-5)


def test_before_training_classes_have_their_weighted_shares():
    scaling = Scaling.of(column([0, 0, 2, NAN, 0]), "multiclass", num_classes=3)
    labels = column([0, 0, 2, NAN, 0])
    shares = torch.from_numpy(scaling.base_outputs(labels)[None])
    np.testing.assert_allclose(scaling.restore(shares)[0], np.array([3 + 1 / 3, 1 / 3, 1 + 1 / 3]) / 5)
    weights = loss_weights(labels, None, "balanced")
    balanced = scaling.restore(torch.from_numpy(scaling.base_outputs(labels, weights)[None]))[0]
    assert balanced[0].item() == pytest.approx(balanced[2].item())


def test_weights_of_rows_have_mean_1_and_classes_weigh_the_same():
    assert loss_weights(column([0, 1]), None, "none") is None
    np.testing.assert_allclose(
        loss_weights(column([5, 6, 7]), np.array([1.0, 2.0, 3.0]), "none")[:, 0], [0.5, 1.0, 1.5]
    )
    weight = loss_weights(column([0, 1, 1, 1, NAN]), None, "balanced")
    np.testing.assert_allclose(weight[:4, 0], [2.0, 2 / 3, 2 / 3, 2 / 3])


# Scaled label, side and output of five labels; the loss is of the residual where the output is on the wrong side.
WANTED = torch.tensor([[0.5], [1.0], [1.0], [-1.0], [-1.0]])
SIDES = torch.tensor([[0.0], [1.0], [1.0], [-1.0], [-1.0]], dtype=torch.float64)
OUT = torch.tensor([[2.0], [3.0], [-2.0], [-3.0], [-0.5]])
BOUNDED = {"mse": 1.5**2 + 3.0**2 + 0.5**2, "mae": 1.5 + 3.0 + 0.5, "huber": 1.0 + 2.5 + 0.125}  # golden


@pytest.mark.parametrize("name", BOUNDED)
def test_a_bound_has_a_loss_on_its_wrong_side_only(name):
    out = OUT.clone().requires_grad_()
    scaling = Scaling(task="regression", mean_L=(0.0,), std_L=(1.0,))
    loss = scaling.loss(out, WANTED.double(), name, side_BL=SIDES)
    assert loss.item() == pytest.approx(BOUNDED[name])
    loss.backward()
    assert out.grad[[1, 3]].eq(0.0).all()
    assert (out.grad[[0, 2, 4], 0] != 0.0).all()
    exact = masked_loss(OUT, WANTED, name).item()
    assert scaling.loss(OUT, WANTED.double(), name, side_BL=torch.zeros_like(SIDES)).item() == pytest.approx(exact)


def test_bounds_are_scaled_and_transformed_as_labels_are():
    scaling = Scaling.of(column([1.0, 100.0]), "regression", transforms=("log10",))
    assert (scaling.mean_L, scaling.std_L) == ((1.0,), (1.0,))
    labels = torch.tensor([[1000.0]], dtype=torch.float64)
    assert scaling.normalise(labels).item() == pytest.approx(2.0)
    assert scaling.restore(scaling.normalise(labels)).item() == pytest.approx(1000.0, rel=1e-6)
    below, above = torch.tensor([[1.5]]), torch.tensor([[2.5]])
    side = torch.tensor([[1.0]])
    assert scaling.loss(above, labels, "mse", side_BL=side).item() == 0.0
    assert scaling.loss(below, labels, "mse", side_BL=side).item() == pytest.approx(0.25)


def test_the_loss_of_ordered_classes_is_that_of_the_thresholds_by_hand():
    out = torch.tensor([[1.2, -0.3], [0.4, -2.0], [0.0, 0.0]])
    label = torch.tensor([[2.0], [0.0], [NAN]], dtype=torch.float64)
    p = out.sigmoid()
    by_hand = -(p[0, 0].log() + p[0, 1].log() + (1 - p[1, 0]).log() + (1 - p[1, 1]).log())
    assert rank_loss(out, label).item() == pytest.approx(by_hand.item(), rel=1e-5)
    weight = torch.tensor([[3.0], [0.0], [1.0]], dtype=torch.float64)
    assert rank_loss(out, label, weight).item() == pytest.approx(-3 * (p[0, 0].log() + p[0, 1].log()).item(), rel=1e-5)


def test_thresholds_in_any_order_give_no_negative_probability():
    layer = ThresholdLinear(4, 3)
    with torch.no_grad():
        layer.weight.normal_()
        layer.bias.copy_(torch.tensor([-1.0, 2.0, 0.5]))
    scaling = Scaling(task="ordinal", mean_L=(0.0,), std_L=(1.0,), num_classes=4)
    probability = scaling.restore(layer(torch.randn(20, 4)))
    assert (probability >= 0.0).all()
    np.testing.assert_allclose(probability.sum(1).detach(), 1.0)
    shares = scaling.restore(torch.from_numpy(scaling.base_outputs(column([0, 0, 1, 3]))[None]))[0]
    np.testing.assert_allclose(shares, np.array([2.25, 1.25, 0.25, 1.25]) / 5.0)
