"""What every objective offers to the trainer.

An objective has two halves. ``corrupt`` runs in the loader's processes: clean batch and keys in, a ``Sample`` of
tensors out. ``score`` runs the model on a sample and returns one *sum* for each loss term. The trainer divides each sum
by the term's count over all ranks and micro-batches, so that a loss does not depend on how a batch was cut.

``objective.name=package.module:Class`` takes anybody's. Its settings are ``objective.settings.*``. What it must keep:

- A draw is a pure function of seed, epoch and molecule: random numbers come from the ``MoleculeKeys`` alone
  (``keys.uniform(stream, slots)``), never from a global generator, the time or the place in the batch. Then a run is
  the same on any number of ranks and however often it is stopped. Streams below 1000 are ours.
- Sums and counts, never means: the trainer knows the other ranks and micro-batches, an objective does not.
- Padding counts for nothing. Nothing in ``score`` asks the device for a value (no ``.item()``, no ``nonzero``).
- A module uses only parameters that it owns, since ZeRO-3 gathers weights module by module.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from unimol_scale.data.batch import MoleculeBatch
from unimol_scale.data.steps.random_streams import MoleculeKeys
from unimol_scale.errors import ConfigError
from unimol_scale.model.accounting import Heads, ParameterCount, count_parameters, training_flops
from unimol_scale.model.encodings import ModelInput, with_path_bonds
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
    """A pretraining objective. It is sent to loader processes, so it holds settings and no tensors.

    Attributes:
        Config: frozen dataclass of its settings, with which the class is called; None: it has none, and the class is
            called without arguments.
        implied: settings of a run that follow from the objective unless the user gives others, as a tree, such as
            ``{"model": {"geometry": False}}``.
        mixable: whether it can be part of a mixture.
        teacher: dimensions of the frozen model whose atoms are learnt; None: there is no teacher.
    """

    Config: ClassVar[type[Any] | None] = None
    implied: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    mixable: ClassVar[bool] = False
    teacher: ModelConfig | None = None

    @property
    @abstractmethod
    def weights(self) -> Mapping[str, float]:
        """Loss term → weight in the total loss, always the same terms; one of weight 0 is logged and not learnt."""

    @property
    @abstractmethod
    def heads(self) -> Heads:
        """The heads that it uses; no others are built.

        An objective with modules of its own overrides ``build_model``, ``count_parameters`` and ``training_flops``.
        What it trains beside the backbone and these heads is not part of a finished run's model.
        """

    @property
    def kept_heads(self) -> Heads:
        """The heads that a finished run's model keeps."""
        return self.heads

    @abstractmethod
    def corrupt(self, batch: MoleculeBatch, keys: MoleculeKeys) -> Sample:
        """Return what the model is shown and what it must predict.

        Args:
            batch: clean molecules, NumPy arrays padded to the largest; not to be written to.
            keys: of the same molecules, from which all random numbers come.
        """

    @abstractmethod
    def score(self, model: HeadedModel, sample: Sample) -> dict[str, Tensor]:
        """Return term → sum over the micro-batch, fp32 scalars for each term of ``sample.counts``.

        Args:
            model: backbone and heads.
            sample: what ``corrupt`` made, on the model's device.
        """

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
        """Return term → sum over the micro-batch, fp32 scalars.

        Raises:
            ConfigError: the objective does not return the terms that it counted, each as one number.
        """
        sums, name = self._objective.score(self, sample), type(self._objective).__name__
        if not isinstance(sums, Mapping):
            raise ConfigError(f"{name}: score must return a dictionary, term → sum, not a {type(sums).__name__}")
        if sums.keys() != sample.counts.keys():
            raise ConfigError(
                f"{name}: score returns the terms {', '.join(sums)}, and corrupt has counted {', '.join(sample.counts)}"
            )
        for term, value in sums.items():
            if not isinstance(value, Tensor) or value.dim() or value.dtype != torch.float32:
                found = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise ConfigError(
                    f"{name}: score must return one sum over the micro-batch for each term, a tensor without "
                    f"dimensions in torch.float32; {term} is {found}"
                )
        return sums


def clean_input(batch: MoleculeBatch) -> ModelInput:
    """Return clean molecules as the model sees them: nothing is masked, hidden or noised."""
    return ModelInput(
        token_BA=torch.from_numpy(batch.atomic_number_BA),
        atom_features_BA8=torch.from_numpy(batch.atom_features_BA8),
        degree_BA=torch.from_numpy(batch.degree_BA),
        bond_features_BAA3=torch.from_numpy(batch.bond_features_BAA3),
        path_BAA=torch.from_numpy(batch.path_BAA),
        hidden_B=torch.zeros(len(batch.num_atoms_B), dtype=torch.bool),
        coordinates_BA3=torch.from_numpy(batch.coordinates_BA3),
    )


@dataclass(frozen=True, kw_only=True)
class WithPathBonds:
    """A corruption, and then the bonds along the paths: found in loader processes, a model need not wait for them.

    Attributes:
        corrupt: see ``Objective.corrupt_at``.
    """

    corrupt: Callable[[MoleculeBatch, MoleculeKeys, int], Sample]

    def __call__(self, batch: MoleculeBatch, keys: MoleculeKeys, step: int) -> Sample:
        """Return the sample."""
        sample = self.corrupt(batch, keys, step)
        return replace(sample, input=with_path_bonds(sample.input))


def corruption_of(objective: Objective, config: ModelConfig) -> Callable[[MoleculeBatch, MoleculeKeys, int], Sample]:
    """Return what loader processes do to a clean batch: ``corrupt_at``, and what the model or its teacher reads else.

    Args:
        objective: that is learnt.
        config: of the model.
    """
    readers = (config,) if objective.teacher is None else (config, objective.teacher)
    if any(reader.edges == "path" for reader in readers):
        return WithPathBonds(corrupt=objective.corrupt_at)
    return objective.corrupt_at


def total_loss(sums: Mapping[str, Tensor], counts: Mapping[str, float], weights: Mapping[str, float]) -> Tensor:
    """Return Σ weight · sum / count over the terms of weight above zero, where counts are global.

    A term with nothing to predict is zero.
    """
    terms = [weights[name] * value / max(counts[name], 1.0) for name, value in sums.items() if weights[name]]
    return torch.stack(terms).sum()
