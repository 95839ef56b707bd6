"""Computes the validation loss on fixed molecules with fixed corruptions, without gradients."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from unimol_scale.data.dataset import validation_loader
from unimol_scale.data.loader import StepLoader
from unimol_scale.engine.optimizer_step import means
from unimol_scale.engine.parallel.ranks import Ranks
from unimol_scale.engine.parallel.sharded_model import ShardedModel
from unimol_scale.engine.run.run_config import PretrainConfig
from unimol_scale.objectives.base import Objective, Sample, corruption_of


class Validation:
    """Scores a model on the validation split.

    Args:
        config: configuration of the run.
        objective: objective of the run; a mixture is scored on each of its parts.
        complete: prepares a loaded sample for the model.
        ranks: this process among the others.

    Raises:
        StoreError: there are no validation molecules.
    """

    def __init__(
        self, config: PretrainConfig, objective: Objective, complete: Callable[[Sample], Sample], ranks: Ranks
    ) -> None:
        self._repeats = config.data.validation_repeats
        self._objective = objective
        self._complete = complete
        self._ranks = ranks
        self._loaders: Sequence[StepLoader[Sample]] = [
            validation_loader(
                config.data, corruption_of(part, config.model), rank=ranks.rank, world_size=ranks.world_size
            )
            for part in objective.parts
        ]

    @torch.no_grad()
    def __call__(self, model: ShardedModel) -> dict[str, float]:
        """Return ``valid/loss`` and ``valid/loss/<term>``, the same on every rank; every rank takes part."""
        weights = self._objective.weights
        totals, counts = dict.fromkeys(weights, 0.0), dict.fromkeys(weights, 0.0)
        scores: dict[str, list[Tensor]] = {name: [] for name in weights}
        model.train(False)
        for loader in self._loaders:
            for repeat, samples in enumerate(loader.steps(0, self._repeats)):
                counted = loader.planner(repeat)[2].num_counted(self._ranks.rank)
                for slot, sample in enumerate(samples):
                    sums = model.forward(self._complete(sample))
                    for name in sums if slot < counted else ():
                        scores[name].append(sums[name])
                        counts[name] += sample.counts[name]
        model.train(True)
        for name, values in scores.items():  # read at the end, since each read waits for the device
            for value in torch.stack(values).tolist() if values else ():
                totals[name] += value
        terms = means(self._ranks.sum(totals), self._ranks.sum(counts))
        loss = sum(weights[name] * terms[name] for name in weights)
        return {"valid/loss": loss, **{f"valid/loss/{name}": value for name, value in terms.items()}}
