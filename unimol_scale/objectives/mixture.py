"""Several objectives in one run on one model: each step learns one of them, drawn from the step's number.

The draw depends only on seed and step, so every rank and every resumed run makes the same one, and all ranks run the
same modules. Every validation scores all of them. Terms are named ``denoise/token``, ``blend/path`` and so on.

A head that a step does not use gets a zero gradient; its weights still follow AdamW's momentum and weight decay, like
any weight with a zero gradient. Objectives that predict coordinates share one coordinate head: for each of them, its
displacement leads from the noised geometry to the clean one.
"""

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from torch import Tensor

from unimol_scale.data.batch import MoleculeBatch
from unimol_scale.data.corrupt import STREAM_OBJECTIVE
from unimol_scale.data.input_views import InputsSeen, joined
from unimol_scale.data.steps.random_streams import MoleculeKeys
from unimol_scale.model.accounting import RELATION_CHANNELS, Heads
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.model.presets import ModelConfig
from unimol_scale.objectives.base import Objective, Sample

T = TypeVar("T")


class MixturePart(Objective):
    """One objective of a mixture, with its terms prefixed by its name.

    Args:
        name: name in the mixture.
        objective: what is learnt.
    """

    def __init__(self, name: str, objective: Objective) -> None:
        self.name = name
        self.objective = objective
        self.takes_empty_molecules = objective.takes_empty_molecules

    @property
    def weights(self) -> Mapping[str, float]:
        """Loss term → weight in the loss of a step that learns this part."""
        return self._named(self.objective.weights)

    @property
    def heads(self) -> Heads:
        """The heads of this part."""
        return self.objective.heads

    def check(self, config: ModelConfig) -> None:
        """Check the model as the objective does."""
        self.objective.check(config)

    def seen(self, config: ModelConfig) -> InputsSeen | None:
        """Return what the objective shows."""
        return self.objective.seen(config)

    def corrupt(self, batch: MoleculeBatch, keys: MoleculeKeys) -> Sample:
        """Return the objective's sample, marked with the name of this part."""
        sample = self.objective.corrupt(batch, keys)
        return dataclasses.replace(sample, counts=self._named(sample.counts), part=self.name)

    def score(self, model: HeadedModel, sample: Sample) -> dict[str, Tensor]:
        """Return the objective's sums, prefixed with the name of this part."""
        return self._named(self.objective.score(model, sample))

    def _named(self, values: Mapping[str, T]) -> dict[str, T]:
        return {f"{self.name}/{term}": value for term, value in values.items()}


class MixtureObjective(Objective):
    """Objectives that alternate from step to step.

    Args:
        objectives: name → objective.
        shares: name → probability that a step learns it; they sum to one.
        seed: seed of the run.
    """

    def __init__(self, objectives: Mapping[str, Objective], shares: Mapping[str, float], seed: int) -> None:
        self._by_name = {name: MixturePart(name, objectives[name]) for name in shares}
        self._shares = dict(shares)
        self._seed = seed

    @property
    def weights(self) -> Mapping[str, float]:
        """Loss term of any part → its weight in the part's loss times the part's share."""
        return {
            term: share * weight
            for name, share in self._shares.items()
            for term, weight in self._by_name[name].weights.items()
        }

    @property
    def heads(self) -> Heads:
        """Every head that any part uses."""
        of_part = [part.heads for part in self.parts]
        factors = {heads.relation_factors for heads in of_part if heads.relations} or {"shared"}
        assert len(factors) == 1, "exactly one part of a mixture predicts relations"
        return Heads(
            relation_factors=factors.pop(),
            token=any(heads.token for heads in of_part),
            coordinate=any(heads.coordinate for heads in of_part),
            relations=tuple(n for n in RELATION_CHANNELS if any(n in heads.relations for heads in of_part)),
        )

    @property
    def parts(self) -> tuple[Objective, ...]:
        """The objectives, each once."""
        return tuple(self._by_name.values())

    def check(self, config: ModelConfig) -> None:
        """Refuse a model that any part refuses."""
        for part in self.parts:
            part.check(config)

    def seen(self, config: ModelConfig) -> InputsSeen:
        """Return the combined views of all parts."""
        return joined(seen for part in self.parts if (seen := part.seen(config)) is not None)

    def at(self, step: int) -> Objective:
        """Return the part that a step learns."""
        keys = MoleculeKeys(seed=self._seed, epoch_B=np.zeros(1, np.int64), molecule_B=np.array([step]))
        (draw,) = keys.uniform(STREAM_OBJECTIVE, 1)[:, 0]
        # Because of rounding, the last bound may be slightly below one.
        bounds = np.cumsum(list(self._shares.values()))[:-1]
        return self.parts[int(np.searchsorted(bounds, draw, side="right"))]

    def corrupt(self, batch: MoleculeBatch, keys: MoleculeKeys) -> Sample:
        """Raise: only the parts corrupt, chosen by ``at`` in training and ``parts`` in validation."""
        raise AssertionError("a mixture corrupts in one of its parts; call at(step).corrupt")

    def score(self, model: HeadedModel, sample: Sample) -> dict[str, Tensor]:
        """Return the sums of the part that made the sample."""
        return self._by_name[sample.part].score(model, sample)

    def training_flops(self, config: ModelConfig, num_atoms: int) -> float:
        """FLOPs of one training step for one molecule, averaged over the parts by their shares."""
        return sum(
            share * self._by_name[name].training_flops(config, num_atoms) for name, share in self._shares.items()
        )
