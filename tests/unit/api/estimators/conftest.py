"""A pretrained model of no size, and what makes an estimator on it train for a second."""

import pytest
import torch

from tests.helpers.tiny_finetuning import TINY
from unimol_scale.checkpoints.weights import save_pretrained
from unimol_scale.model.accounting import Heads
from unimol_scale.model.model_with_heads import HeadedModel


@pytest.fixture(scope="package")
def pretrained(tmp_path_factory):
    """Path of the pretrained model; a cache is beside it."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("estimators") / "pretrained"
    save_pretrained(HeadedModel(TINY, Heads(token=True)), path)
    return path


@pytest.fixture(scope="package")
def quick(pretrained):
    """Parameters of an estimator."""
    return {
        "pretrained": str(pretrained), "epochs": 2, "learning_rate": 1e-2, "inputs": "2d",
        "cache": str(pretrained.parent / "cache"),
    }  # fmt: skip
