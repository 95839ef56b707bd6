"""The engine's interface to a model that ranks share: a protocol, which DeepSpeed's model implements.

Trainer, optimizer step, validation and checkpoints call nothing else, so another way to share a model (torch's FSDP, or
one process without any library) needs only a class of its own: ``Trainer(config, ranks, shard=ThatClass)``. An example
is ``tests/helpers/plain_model.py``.

*Collective* means below that every rank must make the call, in the same order, with what the docstring says; otherwise
the other ranks hang. All other methods communicate with nobody.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from torch import Tensor, nn

from unimol_scale.checkpoints.run.shares import Fragment
from unimol_scale.engine.parallel.ranks import Ranks
from unimol_scale.engine.run.initial_weights import ReadWeights
from unimol_scale.engine.run.run_config import PretrainConfig

# (parameter name, kind of state, start, stop) → fp32 [stop - start]; elements are those of the flattened parameter.
Read = Callable[[str, str, int, int], Tensor]


class ShardedModel(Protocol):
    """A module shared among the ranks, with its optimizer and, on request, the running mean of its weights.

    ``config.train`` chooses the optimizer. State is fp32 in any precision: the weights, AdamW's two moments or Muon's
    momentum, and the running mean. A rank holds some runs of elements of every flattened parameter; how they are cut is
    up to the implementation.
    """

    @property
    def module(self) -> nn.Module:
        """The module as built, with every parameter under its own name; its tensors may be shards."""

    def train(self, mode: bool) -> None:
        """Switch dropout on or off, on this rank."""

    def forward(self, sample: object) -> dict[str, Tensor]:
        """Run the module on a sample that is on this rank's device. Collective: every rank runs as many samples.

        Returns:
            Name of a loss term → its sum over the sample's items, a scalar; with a gradient unless gradients are
            disabled.
        """

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of a loss. Collective: equally often on every rank between two steps.

        Args:
            loss: scalar, this micro-batch's share of the global loss. It is divided by global counts, so the gradient
                of the step is the sum over micro-batches and ranks, not a mean.
            last: whether this micro-batch is the last one of the step.
        """

    @property
    def has_whole_weights(self) -> bool:
        """Whether ``module`` holds every weight, so that several threads may use it at once; the same on every rank."""

    def add_gradients(self, gradients: Sequence[Tensor | None]) -> None:
        """Add gradients that were computed elsewhere, summed over all micro-batches of a step. Collective.

        Replaces ``forward`` and ``backward``; called once per step, and only if ``has_whole_weights``.

        Args:
            gradients: one for every parameter of ``module`` that requires one, in order; the global gradient is their
                sum over the ranks. None means that the loss does not depend on the parameter.
        """

    def step(self, learning_rate: float) -> float:
        """Clip the gradient to the run's norm, do the optimizer's step and clear the gradient. Collective.

        A gradient that is not finite is dropped instead; weights, moments and step count stay unchanged on all ranks.

        Returns:
            The global norm before clipping, the same on every rank; not finite if the gradient was dropped.
        """

    def drop_gradients(self) -> None:
        """Drop what ``backward`` has added since the last step. All ranks must do so or none, or their sums differ."""

    @property
    def optimizer_steps(self) -> int:
        """Number of steps done, without dropped ones; the same on every rank."""

    def fragments(self) -> list[Fragment]:
        """Return this rank's part of a checkpoint: live views, in the order of ``module.named_parameters()``.

        The fragments of all ranks cover every element of every parameter exactly once. Views are fp32, [length] each;
        the caller copies them before the next step.
        """

    def restore(self, read: Read, optimizer_steps: int) -> None:
        """Load a state exactly, whatever ranks wrote it; this drops gradients. Collective.

        Args:
            read: returns the elements that this rank holds.
            optimizer_steps: steps done when the state was written.
        """

    def take_weights(self, read: ReadWeights) -> None:
        """Start from given weights; the mean of the weights follows them, the optimizer stays new. Collective."""

    def ema_update(self, decay: float) -> None:
        """Update the running mean of this rank's elements: mean ← decay · mean + (1 − decay) · weights."""

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Use the running mean inside the block, and restore the exact weights after it.

        Collective, on entry and on exit.
        """


# Creates one from (factory of the module, configuration of the run, this process among the others); every rank calls
# it. The initial weights depend only on ``config.seed``, and ``config.train.ema_decay`` says whether a mean is kept.
ShardModel = Callable[[Callable[[], nn.Module], PretrainConfig, Ranks], ShardedModel]
