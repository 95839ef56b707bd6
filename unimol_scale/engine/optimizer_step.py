"""Does one optimizer step on all ranks: losses over global counts, gradients, and a check that both are finite.

Shapes: M micro-batches of this rank, T loss terms.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unimol_scale.data.transfer import to_device
from unimol_scale.engine.graphed_micro_batches import Capture, GraphedMicroBatches
from unimol_scale.engine.parallel.ranks import Ranks
from unimol_scale.engine.parallel.sharded_model import ShardedModel
from unimol_scale.engine.side_by_side import SideBySide
from unimol_scale.objectives.base import Objective, Sample, total_loss

# Loss term → its sum over a micro-batch.
Sums = Mapping[str, Tensor]
_COUNT = "count/"


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """The result of a step, the same on every rank.

    Attributes:
        terms: loss term → its global mean.
        loss: their weighted sum.
        grad_norm: norm of the whole gradient before clipping.
        votes: sum of the ranks' ballots.
        suspects: for a skipped step, the training molecules among which the cause lies.
    """

    terms: dict[str, float]
    loss: float
    grad_norm: float
    votes: dict[str, float]
    suspects: tuple[int, ...]

    @property
    def skipped(self) -> bool:
        """Whether the step changed nothing, because its loss or gradient was not finite."""
        return not (math.isfinite(self.loss) and math.isfinite(self.grad_norm))

    @property
    def what_failed(self) -> str:
        """Name of what was not finite."""
        return "gradient" if math.isfinite(self.loss) else "loss"


class OptimizerStep:
    """Does the steps of one run on this rank.

    Args:
        model: model shared among the ranks.
        objective: objective of the run.
        complete: moves a sample to this rank's device and adds targets that can only be computed there.
        ranks: this process among the others.
        seed: seed of the run. Dropout is seeded with it, the step, the rank and the micro-batch, so that a resumed run
            draws what the interrupted one would have drawn.
        at_once: micro-batches that are computed side by side; 1 computes one after another.
        capture: captures forward and backward pass of each shape as a graph; None: they are computed eagerly.
    """

    def __init__(
        self,
        model: ShardedModel,
        objective: Objective,
        complete: Callable[[Sample], Sample],
        ranks: Ranks,
        seed: int,
        at_once: int = 1,
        capture: Capture | None = None,
    ) -> None:
        self._model = model
        self._objective = objective
        self._complete = complete
        self._ranks = ranks
        self._seed = seed
        self._at_once = at_once
        self._side_by_side: SideBySide | None = None
        if at_once > 1:
            assert model.has_whole_weights, "threads share the weights"
            trained = (parameter for parameter in model.module.parameters() if parameter.requires_grad)
            self._side_by_side = SideBySide(trained, at_once)
        self._graphed: GraphedMicroBatches | None = None
        if capture is not None:
            assert model.has_whole_weights, "graphs read the weights"
            self._graphed = GraphedMicroBatches(model.module, capture)

    def __call__(
        self, samples: Sequence[Sample], step: int, learning_rate: float, ballot: Mapping[str, float]
    ) -> StepResult:
        """Do the step with number ``step`` in the data's order. If loss or gradient are not finite, nothing changes.

        Args:
            samples: this rank's micro-batches.
            step: selects the objective of a mixture and seeds dropout.
            learning_rate: learning rate of this step.
            ballot: numbers to sum over the ranks along the way.
        """
        weights = self._objective.at(step).weights
        counted = {_COUNT + name: sum(sample.counts[name] for sample in samples) for name in weights}
        votes = self._ranks.sum({**counted, **ballot})
        counts = {name: votes.pop(_COUNT + name) for name in weights}
        found = self._differentiate(samples, step, weights, counts)
        mine_MT = torch.stack([torch.stack([sums[name].double() for name in weights]) for sums in found])
        # One copy from the device for all micro-batches and for the sums over ranks, because a copy waits for the
        # device.
        read = torch.cat([mine_MT, self._ranks.add_up(mine_MT.sum(0))[None]]).cpu()
        scores_MT, total_T = read[:-1], read[-1]
        terms = means(dict(zip(weights, total_T.tolist(), strict=True)), counts)
        loss = sum(weights[name] * terms[name] for name in weights)
        if math.isfinite(loss):
            norm = self._model.step(learning_rate)
            sound_M = torch.full((len(samples),), math.isfinite(norm))
        else:
            norm = math.nan
            self._model.drop_gradients()
            sound_M = scores_MT.isfinite().all(1)
        suspects: tuple[int, ...] = ()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            mine = [sample.molecule_B for sample, sound in zip(samples, sound_M.tolist(), strict=True) if not sound]
            found = self._ranks.gather(torch.cat(mine).tolist() if mine else [])
            suspects = tuple(sorted({index for part in found for index in part}))
        return StepResult(terms=terms, loss=loss, grad_norm=norm, votes=votes, suspects=suspects)

    def try_out(self, sample: Sample) -> None:
        """Compute a micro-batch, as many at once as in a step; the caller drops the gradients that this adds."""
        self._differentiate([sample] * self._at_once, 0, self._objective.weights, sample.counts, graphed=False)

    def _differentiate(
        self,
        samples: Sequence[Sample],
        step: int,
        weights: Mapping[str, float],
        counts: Mapping[str, float],
        *,
        graphed: bool = True,
    ) -> Sequence[Sums]:
        """Add the gradients of micro-batches to the model's, and return the micro-batches' sums, detached."""

        def loss_of(sums: Sums) -> Tensor:
            return total_loss(sums, counts, weights)

        if self._graphed is not None and graphed:
            completed = (self._complete(sample) for sample in samples)
            replayed, gradients = self._graphed(completed, weights, counts, lambda slot: self._seed_dropout(step, slot))
            self._model.add_gradients(gradients)
            return replayed
        if self._side_by_side is not None:
            together, gradients = self._side_by_side(samples, lambda sample: self._loss_and_sums(sample, loss_of))
            self._model.add_gradients(gradients)
            return together
        found: list[Sums] = []
        for slot, sample in enumerate(samples):
            self._seed_dropout(step, slot)
            sums = self._model.forward(self._complete(sample))
            self._model.backward(loss_of(sums), last=slot == len(samples) - 1)
            found.append({name: value.detach() for name, value in sums.items()})
        return found

    def _loss_and_sums(self, sample: Sample, loss_of: Callable[[Sums], Tensor]) -> tuple[Tensor, Sums]:
        sums = self._model.module(self._complete(sample))
        return loss_of(sums), {name: value.detach() for name, value in sums.items()}

    def _seed_dropout(self, step: int, slot: int) -> None:
        torch.manual_seed(hash((self._seed, step, self._ranks.rank, slot)) % 2**63)


def means(totals: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
    """Return total / count for each term; a term with nothing to predict is 0."""
    return {name: total / max(counts[name], 1.0) for name, total in totals.items()}


def sample_completer(device: torch.device, teacher: Callable[[Sample], Sample] | None) -> Callable[[Sample], Sample]:
    """Return a function that prepares a loaded sample for the model: on the device, with the teacher's targets."""

    def complete(sample: Sample) -> Sample:
        moved = to_device(sample, device)
        return teacher(moved) if teacher is not None else moved

    return complete
