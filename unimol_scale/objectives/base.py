"""What every objective offers to the trainer.

An objective has two halves. ``corrupt`` runs in the loader's processes: clean batch and keys in, a ``Sample`` of
tensors out. ``build_model`` makes the module that turns a sample into one *sum* for each loss term. The trainer divides
each sum by the term's count over all ranks and micro-batches, so that a loss does not depend on how a batch was cut.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from unimol_scale.data.batch import MoleculeBatch
from unimol_scale.data.streams import MoleculeKeys
from unimol_scale.model.encodings import ModelInput
from unimol_scale.model.presets import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One corrupted micro-batch; objectives add their targets in a subclass.

    Attributes:
        input: what the model sees.
        counts: loss term → number of things it is a mean over, in this micro-batch.
        molecule_B: int64, index of each molecule in its split, to name it when something goes wrong.
        num_atoms: real atoms in the micro-batch.
    """

    input: ModelInput
    counts: Mapping[str, float]
    molecule_B: Tensor
    num_atoms: int


class Objective(Protocol):
    """A pretraining objective."""

    @property
    def weights(self) -> Mapping[str, float]:
        """Loss term → weight in the total loss."""

    def corrupt(self, batch: MoleculeBatch, keys: MoleculeKeys) -> Sample:
        """Return what the model is shown and what it must predict."""

    def build_model(self, config: ModelConfig) -> nn.Module:
        """Return the backbone with this objective's heads; called on a sample it returns term → sum (fp32)."""


def total_loss(sums: Mapping[str, Tensor], counts: Mapping[str, float], weights: Mapping[str, float]) -> Tensor:
    """Return Σ weight · sum / count over the terms, where counts are global; a term with nothing to predict is zero."""
    terms = [weights[name] * value / max(counts[name], 1.0) for name, value in sums.items()]
    return torch.stack(terms).sum()
