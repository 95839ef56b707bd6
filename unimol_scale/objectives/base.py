"""What every objective offers to the trainer.

An objective has two halves. ``corrupt`` runs in the loader's processes: clean batch and keys in, a ``Sample`` of
tensors out. ``score`` runs the model on a sample and returns one *sum* for each loss term. The trainer divides each sum
by the term's count over all ranks and micro-batches, so that a loss does not depend on how a batch was cut.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from unimol_scale.data.batch import MoleculeBatch
from unimol_scale.data.steps.random_streams import MoleculeKeys
from unimol_scale.model.accounting import Heads, ParameterCount, count_parameters, training_flops
from unimol_scale.model.encodings import ModelInput
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.model.presets import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One corrupted micro-batch; objectives add their targets in a subclass.

    Attributes:
        input: what the model sees.
        counts: loss term → number of things it is a mean over, in this micro-batch.
        molecule_B: int64, index of each molecule in its split, to name it when something goes wrong.
        num_atoms: real atoms in the micro-batch.
        part: of a mixture, the objective that made it; else empty.
    """

    input: ModelInput
    counts: Mapping[str, float]
    molecule_B: Tensor
    num_atoms: int
    part: str = ""


class Objective(ABC):
    """A pretraining objective. It travels to loader processes, so it holds settings and no tensors.

    Attributes:
        teacher: dimensions of the frozen model whose atoms are learnt; None: there is no teacher.
    """

    teacher: ModelConfig | None = None

    @property
    @abstractmethod
    def weights(self) -> Mapping[str, float]:
        """Loss term → weight in the total loss; a term of weight 0 is a metric: logged, not learnt."""

    @property
    @abstractmethod
    def heads(self) -> Heads:
        """The heads that it uses; no others are built."""

    @property
    def kept_heads(self) -> Heads:
        """The heads that a finished run's model keeps."""
        return self.heads

    @abstractmethod
    def corrupt(self, batch: MoleculeBatch, keys: MoleculeKeys) -> Sample:
        """Return what the model is shown and what it must predict."""

    @abstractmethod
    def score(self, model: HeadedModel, sample: Sample) -> dict[str, Tensor]:
        """Return term → sum over the micro-batch, fp32 scalars; ``sample`` is what ``corrupt`` made."""

    def check(self, config: ModelConfig) -> None:  # noqa: B027
        """Refuse a model that cannot learn this.

        Raises:
            ConfigError: names the key of the model and what is needed.
        """

    def at(self, step: int) -> "Objective":
        """Return the objective that training step ``step`` learns."""
        return self

    @property
    def parts(self) -> tuple["Objective", ...]:
        """The objectives that validation scores, one after another."""
        return (self,)

    def corrupt_at(self, batch: MoleculeBatch, keys: MoleculeKeys, step: int) -> Sample:
        """Return what ``corrupt`` of that step's objective does."""
        return self.at(step).corrupt(batch, keys)

    def build_model(self, config: ModelConfig) -> "PretrainingModel":
        """Return the backbone with this objective's heads; called on a sample it returns term → sum (fp32)."""
        return PretrainingModel(config, self)

    def count_parameters(self, config: ModelConfig) -> ParameterCount:
        """Count the parameters of what ``build_model`` makes."""
        return count_parameters(config, self.heads)

    def training_flops(self, config: ModelConfig, num_atoms: int) -> float:
        """FLOPs of one training step for one molecule, everything that is computed for it counted."""
        return training_flops(config, num_atoms, self.heads)


class PretrainingModel(HeadedModel):
    """The module that is trained: called on a sample it scores it."""

    def __init__(self, config: ModelConfig, objective: Objective) -> None:
        super().__init__(config, objective.heads)
        self._objective = objective

    def forward(self, sample: Sample) -> dict[str, Tensor]:
        """Return term → sum over the micro-batch, fp32 scalars."""
        return self._objective.score(self, sample)


def total_loss(sums: Mapping[str, Tensor], counts: Mapping[str, float], weights: Mapping[str, float]) -> Tensor:
    """Return Σ weight · sum / count over the terms of weight above zero, where counts are global.

    A term with nothing to predict is zero.
    """
    terms = [weights[name] * value / max(counts[name], 1.0) for name, value in sums.items() if weights[name]]
    return torch.stack(terms).sum()
