"""An objective of your own in one file: atoms are masked, and their elements predicted with smoothed labels.

    PYTHONPATH=tests/extensions deepspeed launch/pretrain.py --size 0.1M --objective toy_objective:SmoothedElements

Shapes: B molecules, A atoms (padded), D atom channels, V elements.
"""

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F

from unimol_scale.data import vocabulary as vocab
from unimol_scale.errors import ConfigError
from unimol_scale.model.accounting import Heads
from unimol_scale.objectives.base import Objective, Sample, clean_input

MASK_STREAM = 1000  # streams of random numbers below are unimol-scale's own


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmoothedElementsConfig:
    """The settings, ``objective.settings.*``: unknown keys are errors, and a resumed run must have the same."""

    fraction: float = 0.15
    smoothing: float = 0.1

    def __post_init__(self):
        if not 0.0 < self.fraction <= 1.0:
            raise ConfigError(f"objective.settings.fraction must be above 0 and at most 1, got {self.fraction}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmoothedElementsSample(Sample):
    """A micro-batch with its targets: tensors in fields of their own reach the device by themselves."""

    masked_BA: torch.Tensor
    element_BA: torch.Tensor


class SmoothedElements(Objective):
    """The learnt term is ``element``; ``wrong``, of weight 0, is logged only."""

    Config = SmoothedElementsConfig

    def __init__(self, config):
        self.config = config

    @property
    def weights(self):
        return {"element": 1.0, "wrong": 0.0}

    @property
    def heads(self):
        return Heads(token=True)

    def corrupt(self, batch, keys):
        # Every molecule draws by its own key: the same masks on any number of ranks, and after a resume.
        draw_BA = keys.uniform(MASK_STREAM, batch.valid_BA.shape[1])
        masked_BA = (draw_BA < self.config.fraction) & batch.valid_BA
        token_BA = np.where(masked_BA, np.uint8(vocab.TOKEN_MASK), batch.atomic_number_BA)
        return SmoothedElementsSample(
            input=dataclasses.replace(clean_input(batch), token_BA=torch.from_numpy(token_BA)),
            counts=dict.fromkeys(self.weights, float(masked_BA.sum())),  # what each sum of score is to be divided by
            molecule_B=torch.from_numpy(keys.molecule_B),
            num_atoms=int(batch.num_atoms_B.sum()),
            masked_BA=torch.from_numpy(masked_BA),
            element_BA=torch.from_numpy(batch.atomic_number_BA),
        )

    def score(self, model, sample):
        atom_BAD = model.backbone(sample.input).atom_BND[:, 1:]  # without the virtual node
        logits_BVA = model.token_head(atom_BAD).float().transpose(1, 2)
        element_BA = sample.element_BA.long()
        loss_BA = F.cross_entropy(logits_BVA, element_BA, reduction="none", label_smoothing=self.config.smoothing)
        wrong_BA = (logits_BVA.argmax(1) != element_BA).float()
        # Sums over the micro-batch: the trainer divides them by the counts of all ranks.
        return {"element": (loss_BA * sample.masked_BA).sum(), "wrong": (wrong_BA * sample.masked_BA).sum()}
