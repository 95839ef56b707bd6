"""The interface of every pretraining objective.

An objective has two halves. ``corrupt`` runs in the loader's processes and turns a clean batch and keys into a
``Sample`` of tensors. ``score`` runs the model on a sample and returns one *sum* for each loss term. The trainer
divides each sum by the term's count over all ranks and micro-batches, so a loss does not depend on how a batch was cut.

``objective.name=package.module:Class`` selects one of your own, with its settings under ``objective.settings.*``. It
has
to keep these rules:

- Corruption is a pure function of seed, epoch and molecule: random numbers come only from the ``MoleculeKeys``
  (``keys.uniform(stream, slots)``), never from a global generator, the time or the position in the batch. Then a run
  is the same on any number of ranks and however often it is stopped. Streams below 1000 are reserved.
- Return sums and counts, never means: only the trainer knows the other ranks and micro-batches.
- Padding never counts. Nothing in ``score`` waits for a value from the device (no ``.item()``, no ``nonzero``).
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
from unimol_scale.data.input_views import InputsSeen
from unimol_scale.data.steps.buckets import Buckets
from unimol_scale.data.steps.random_streams import MoleculeKeys
from unimol_scale.errors import ConfigError
from unimol_scale.model.accounting import Heads, ParameterCount, count_parameters, training_flops
from unimol_scale.model.encodings import ModelInput, with_path_bonds
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.model.presets import ModelConfig
from unimol_scale.objectives.padding import pad_fields


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One corrupted micro-batch; an objective's subclass adds its targets.

    Attributes:
        input: what the model sees.
        counts: loss term → number of items that it is a mean over, in this micro-batch.
        molecule_B: int64, index of each molecule in its split, to name it if something goes wrong.
        num_atoms: number of real atoms in the micro-batch.
        part: in a mixture, the objective that made it; otherwise "".
        PADDING: name of a tensor → its value at padding, where that is not 0; see ``Objective.takes_empty_molecules``.
    """

    PADDING: ClassVar[Mapping[str, float]] = MappingProxyType({})

    input: ModelInput
    counts: Mapping[str, float]
    molecule_B: Tensor
    num_atoms: int
    part: str = ""

    def padded(self, molecules: int, num_atoms: int) -> "Sample":
        """Return the sample with more atoms, which are padding, and more molecules, which have no atoms.

        Only ``molecule_B`` keeps its length, so it names the real molecules. Counts stay as they are.

        Args:
            molecules: number of molecules afterwards.
            num_atoms: padded number of atoms of each afterwards.
        """
        return pad_fields(self, {"B": molecules, "A": num_atoms}, self.PADDING, frozenset({"molecule_B"}))


class Objective(ABC):
    """A pretraining objective. It is pickled to loader processes, so it holds settings and no tensors.

    Attributes:
        Config: frozen dataclass of its settings, which is passed to the class; None: it has no settings, and the class
            is called without arguments.
        implied: settings of a run that follow from the objective unless the user gives others, as a tree, such as
            ``{"model": {"geometry": False}}``.
        mixable: whether it can be part of a mixture.
        takes_empty_molecules: whether its samples have fields named by their dimensions, such as ``target_BA``, and
            molecules without atoms add exactly zero to its sums; ``data.buckets`` needs that.
        teacher: dimensions of the frozen model whose atom representations are learnt; None: there is no teacher.
    """

    Config: ClassVar[type[Any] | None] = None
    implied: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    mixable: ClassVar[bool] = False
    takes_empty_molecules: bool = False
    teacher: ModelConfig | None = None

    @property
    @abstractmethod
    def weights(self) -> Mapping[str, float]:
        """Loss term → weight in the total loss, always for the same terms; a term of weight 0 is only logged."""

    @property
    @abstractmethod
    def heads(self) -> Heads:
        """The heads that it uses; no others are built.

        An objective with modules of its own overrides ``build_model``, ``count_parameters`` and ``training_flops``.
        Modules other than the backbone and these heads are not part of a finished run's model.
        """

    @property
    def kept_heads(self) -> Heads:
        """The heads to keep in a finished run's model."""
        return self.heads

    @abstractmethod
    def corrupt(self, batch: MoleculeBatch, keys: MoleculeKeys) -> Sample:
        """Return what the model sees and what it must predict.

        Args:
            batch: clean molecules, as NumPy arrays padded to the largest; must not be modified.
            keys: keys of the same molecules, the only source of random numbers.
        """

    @abstractmethod
    def score(self, model: HeadedModel, sample: Sample) -> dict[str, Tensor]:
        """Return term → sum over the micro-batch, as fp32 scalars, for each term of ``sample.counts``.

        Args:
            model: backbone and heads.
            sample: the result of ``corrupt``, on the model's device.
        """

    def check(self, config: ModelConfig) -> None:  # noqa: B027
        """Refuse a model that cannot learn this objective.

        Raises:
            ConfigError: the message names the model's key and the value it needs.
        """

    def seen(self, config: ModelConfig) -> InputsSeen | None:
        """Return which inputs a model with this objective sees, and how; None if that is not stated.

        It is stored with the model, so that molecules are later shown as in pretraining. Every embedding that a view
        reads
        must be one that ``corrupt`` also reads.
        """
        return None

    def at(self, step: int) -> "Objective":
        """Return the objective that training step ``step`` learns; in a mixture, one of its parts."""
        return self

    @property
    def parts(self) -> tuple["Objective", ...]:
        """The objectives that validation scores, one after another."""
        return (self,)

    def corrupt_at(self, batch: MoleculeBatch, keys: MoleculeKeys, step: int) -> Sample:
        """Apply ``corrupt`` of the objective of that step."""
        return self.at(step).corrupt(batch, keys)

    def build_model(self, config: ModelConfig) -> "PretrainingModel":
        """Return the backbone with this objective's heads; called on a sample, it returns term → sum (fp32)."""
        return PretrainingModel(config, self)

    def count_parameters(self, config: ModelConfig) -> ParameterCount:
        """Count the parameters of the model from ``build_model``."""
        return count_parameters(config, self.heads)

    def training_flops(self, config: ModelConfig, num_atoms: int) -> float:
        """FLOPs of one training step for one molecule, including everything that is computed for it."""
        return training_flops(config, num_atoms, self.heads)


class PretrainingModel(HeadedModel):
    """The module to train; calling it on a sample scores the sample."""

    def __init__(self, config: ModelConfig, objective: Objective) -> None:
        super().__init__(config, objective.heads, objective.seen(config))
        self._objective = objective

    def forward(self, sample: Sample) -> dict[str, Tensor]:
        """Return term → sum over the micro-batch, fp32 scalars.

        Raises:
            ConfigError: the objective does not return exactly the terms that it counted, each as one number.
        """
        sums, name = self._objective.score(self, sample), type(self._objective).__name__
        if not isinstance(sums, Mapping):
            raise ConfigError(f"{name}: score must return a dictionary, term → sum, not a {type(sums).__name__}")
        if sums.keys() != sample.counts.keys():
            raise ConfigError(
                f"{name}: score returns the terms {', '.join(sums)}, but corrupt counted {', '.join(sample.counts)}"
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
    """Return clean molecules as model input, with nothing masked, hidden or noised."""
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
    """A corruption followed by a search for the bonds along paths, done in loader processes so that no model waits.

    Attributes:
        corrupt: see ``Objective.corrupt_at``.
    """

    corrupt: Callable[[MoleculeBatch, MoleculeKeys, int], Sample]

    def __call__(self, batch: MoleculeBatch, keys: MoleculeKeys, step: int) -> Sample:
        """Return the sample."""
        sample = self.corrupt(batch, keys, step)
        return replace(sample, input=with_path_bonds(sample.input))


@dataclass(frozen=True, kw_only=True)
class InBuckets:
    """A corruption followed by padding to one of a few shapes.

    Attributes:
        corrupt: see ``Objective.corrupt_at``.
        buckets: the shapes.
    """

    corrupt: Callable[[MoleculeBatch, MoleculeKeys, int], Sample]
    buckets: Buckets

    def __call__(self, batch: MoleculeBatch, keys: MoleculeKeys, step: int) -> Sample:
        """Return the sample."""
        return self.corrupt(batch, keys, step).padded(*self.buckets.shape(*batch.valid_BA.shape))


def corruption_of(
    objective: Objective, config: ModelConfig, buckets: Buckets | None = None
) -> Callable[[MoleculeBatch, MoleculeKeys, int], Sample]:
    """Return the function that loader processes apply to a clean batch: ``corrupt_at``, path bonds and padding.

    Args:
        objective: objective of the run.
        config: configuration of the model.
        buckets: shapes to pad to; None: samples are as large as their batch.

    Raises:
        ConfigError: samples are to be padded, and what is learnt depends on the padding.
    """
    readers = (config,) if objective.teacher is None else (config, objective.teacher)
    corrupt: Callable[[MoleculeBatch, MoleculeKeys, int], Sample] = objective.corrupt_at
    if any(reader.edges == "path" for reader in readers):
        corrupt = WithPathBonds(corrupt=corrupt)
    if buckets is None:
        return corrupt
    if any(reader.normalize_by == "padded" for reader in readers):
        raise ConfigError(
            "data.buckets pads molecules, on which a model with normalize_by=padded depends; set data.buckets=false"
        )
    for part in objective.parts:
        if not part.takes_empty_molecules:
            raise ConfigError(
                f"data.buckets pads micro-batches by molecules without atoms, and {type(part).__name__} does not say "
                "that it takes them (takes_empty_molecules); set data.buckets=false"
            )
    return InBuckets(corrupt=corrupt, buckets=buckets)


def total_loss(sums: Mapping[str, Tensor], counts: Mapping[str, float], weights: Mapping[str, float]) -> Tensor:
    """Return Σ weight · sum / count over the terms of positive weight, with global counts.

    A term with nothing to predict counts as zero.
    """
    terms = [value * (weights[name] / max(counts[name], 1.0)) for name, value in sums.items() if weights[name]]
    return torch.stack(terms).sum()
