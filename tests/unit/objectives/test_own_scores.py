"""What is said when the score of somebody else's objective is not one number for each term."""

import dataclasses

import numpy as np
import pytest
import torch

from unimol_scale.data.steps.random_streams import MoleculeKeys
from unimol_scale.engine.planning.rank_memory import MicroBatchShape
from unimol_scale.engine.planning.rehearsal import carbon_chains
from unimol_scale.errors import ConfigError
from unimol_scale.model.presets import PRESETS
from unimol_scale.objectives.denoise import DenoiseConfig, DenoiseObjective

BATCH = carbon_chains(MicroBatchShape(molecules=2, num_atoms=4))
KEYS = MoleculeKeys(seed=0, epoch_B=np.zeros(2, np.int64), molecule_B=np.arange(2, dtype=np.int64))


def scored(returned):
    """Return what a model says of an objective whose score returns something."""

    class Mine(DenoiseObjective):
        def score(self, model, sample):
            return returned

    objective = Mine(DenoiseConfig(token_weight=1.0, coordinate_weight=0.0, distance_weight=0.0))
    sample = objective.corrupt(BATCH, KEYS)
    return objective.build_model(PRESETS["0.03M"])(dataclasses.replace(sample, counts={"token": 1.0}))


def test_a_sum_for_each_term_is_taken():
    assert scored({"token": torch.tensor(2.0)})["token"] == 2.0


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (torch.tensor(1.0), "Mine: score must return a dictionary, term → sum, not a Tensor"),
        ({"tokens": torch.tensor(1.0)}, "Mine: score returns the terms tokens, but corrupt counted token"),
        ({"token": 1.0}, "token is float"),
        ({"token": torch.zeros(3)}, r"token is torch\.float32 \[3\]"),
        ({"token": torch.tensor(1.0).bfloat16()}, r"in torch\.float32; token is torch\.bfloat16 \[\]"),
    ],
)
def test_anything_else_is_told(returned, message):
    with pytest.raises(ConfigError, match=message):
        scored(returned)
