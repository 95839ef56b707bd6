"""Several objectives in one run, on one model: each step learns one of them, drawn by the step's number.

The draw depends on seed and step alone, so every rank and every resumed run takes the same one, and all ranks run the
same modules. Validation scores each of them every time. Terms are named ``denoise/token``, ``blend/path`` and so on.

A head that a step does not use has no gradient in it; its weights still follow AdamW's momentum and weight decay, as
any weight does whose gradient is zero in a step. Objectives that predict coordinates share one coordinate head: to each
of them its displacement leads from the noised geometry to the clean one.
"""

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from torch import Tensor

from unimol_scale.data.batch import MoleculeBatch
from unimol_scale.data.corrupt import STREAM_OBJECTIVE
from unimol_scale.data.steps.random_streams import MoleculeKeys
from unimol_scale.model.accounting import RELATION_CHANNELS, Heads
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.model.presets import ModelConfig
from unimol_scale.objectives.base import Objective, Sample

T = TypeVar("T")


class MixturePart(Objective):
    """One objective of a mixture: itself, with its terms under its name.

    Args:
        name: in the mixture.
        objective: what is learnt.
    """

    def __init__(self, name: str, objective: Objective) -> None:
        self.name = name
        self.objective = objective

    @property
    def weights(self) -> Mapping[str, float]:
        """Loss term → weight in the loss of a step that learns this part."""
        return self._named(self.objective.weights)

    @property
    def heads(self) -> Heads:
        """The heads of this part."""
        return self.objective.heads

    def check(self, config: ModelConfig) -> None:
        """Refuse what the objective refuses."""
        self.objective.check(config)

    def corrupt(self, batch: MoleculeBatch, keys: MoleculeKeys) -> Sample:
        """Return the objective's sample, marked with the part."""
        sample = self.objective.corrupt(batch, keys)
        return dataclasses.replace(sample, counts=self._named(sample.counts), part=self.name)

    def score(self, model: HeadedModel, sample: Sample) -> dict[str, Tensor]:
        """Return the objective's sums under this part's name."""
        return self._named(self.objective.score(model, sample))

    def _named(self, values: Mapping[str, T]) -> dict[str, T]:
        return {f"{self.name}/{term}": value for term, value in values.items()}


class MixtureObjective(Objective):
    """Objectives that take turns.

    Args:
        objectives: name → objective.
        shares: name → probability that a step learns it; they sum to one.
        seed: of the run.
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
        """Every head that a part uses."""
        of_part = [part.heads for part in self.parts]
        factors = {heads.relation_factors for heads in of_part if heads.relations} or {"shared"}
        assert len(factors) == 1, "one part of a mixture predicts relations"
        return Heads(
            relation_factors=factors.pop(),
            token=any(heads.token for heads in of_part),
            coordinate=any(heads.coordinate for heads in of_part),
            relations=tuple(n for n in RELATION_CHANNELS if any(n in heads.relations for heads in of_part)),
        )

    @property
    def parts(self) -> tuple[Objective, ...]:
        """Each objective once."""
        return tuple(self._by_name.values())

    def check(self, config: ModelConfig) -> None:
        """Refuse what any part refuses."""
        for part in self.parts:
            part.check(config)

    def at(self, step: int) -> Objective:
        """Return the part that a step learns."""
        keys = MoleculeKeys(seed=self._seed, epoch_B=np.zeros(1, np.int64), molecule_B=np.array([step]))
        (draw,) = keys.uniform(STREAM_OBJECTIVE, 1)[:, 0]
        # The last bound may be a rounding below one.
        bounds = np.cumsum(list(self._shares.values()))[:-1]
        return self.parts[int(np.searchsorted(bounds, draw, side="right"))]

    def corrupt(self, batch: MoleculeBatch, keys: MoleculeKeys) -> Sample:
        """Never called: a part corrupts, chosen by ``at`` for training, by ``parts`` for validation."""
        raise AssertionError("a mixture corrupts in one of its parts; call at(step).corrupt")

    def score(self, model: HeadedModel, sample: Sample) -> dict[str, Tensor]:
        """Return the sums of the part that made the sample."""
        return self._by_name[sample.part].score(model, sample)

    def training_flops(self, config: ModelConfig, num_atoms: int) -> float:
        """FLOPs of one training step for one molecule, the mean over the parts' shares."""
        return sum(
            share * self._by_name[name].training_flops(config, num_atoms) for name, share in self._shares.items()
        )
