"""Losses of labels against what a reader would write by hand, and values that come back from outputs."""

import numpy as np
import pytest
import torch

from tests.helpers.tiny_finetuning import column
from unimol_scale.downstream.finetuning.model.learnt_outputs import Scaling, class_loss, masked_loss
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
