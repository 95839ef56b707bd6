"""Checkpoints of a run that was never trained, each of other weights, and what a model of one must hold."""

import torch

from tests.helpers.run_states import evenly
from unimol_scale.checkpoints.run import checkpoint_folder
from unimol_scale.checkpoints.run.shares import MEAN, MOMENT, MOMENTUM, SQUARE, WEIGHT, write_share
from unimol_scale.config import to_tree
from unimol_scale.model.accounting import Heads
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.model.presets import ModelConfig

CONFIG = ModelConfig(layers=2, atom_width=16, heads=2, ffn_width=24, pair_width=8, pair_hidden=4, gaussians=16)
TRAINED = Heads(token=True, coordinate=True)
KEPT = Heads(token=True)
META = {"model": to_tree(CONFIG), "heads": to_tree(KEPT), "validation_loss": None}


def model_of(seed, heads=TRAINED):
    torch.manual_seed(seed)
    return HeadedModel(CONFIG, heads)


def save(run, step, *, mean=False, muon=False, world_size=2, meta=META):
    """Write a checkpoint of ``model_of(step)``; the mean of its weights is those of ``model_of(step + 1000)``."""
    weights, means = (dict(model_of(seed).named_parameters()) for seed in (step, step + 1000))
    state = {}
    for name, weight in weights.items():
        flat = weight.detach().flatten()
        state[name] = {WEIGHT: flat, MOMENT: flat * 0.1, SQUARE: flat**2}
        if muon and weight.dim() == 2:
            state[name] = {WEIGHT: flat, MOMENTUM: flat * 0.1}
        if mean:
            state[name][MEAN] = means[name].detach().flatten()
    root = run / "checkpoints"
    for rank, fragments in enumerate(evenly(state, world_size)):
        write_share(checkpoint_folder.temporary_folder(root, step), rank, world_size, fragments)
    return checkpoint_folder.publish(root, step, world_size, meta)


def assert_is(found, seed):
    expected = model_of(seed).state_dict()
    assert found.heads == KEPT
    assert not found.training
    assert found.backbone.config == CONFIG
    assert not [name for name in found.state_dict() if name.startswith("coordinate_head")]
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
