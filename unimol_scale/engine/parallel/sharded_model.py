"""What the engine wants of a model that ranks share: a protocol, and DeepSpeed's is one that fulfils it.

The trainer, its step, validation and checkpoints call nothing else, so that another way to share a model (torch's FSDP,
one process without any library) is a class of its own and changes no file of the engine:
``Trainer(config, ranks, shard=ThatClass)``. ``tests/helpers/plain_model.py`` is one.

*Collective* below means: every rank calls it, in the same order, with what it says; a rank that does not leaves the
others waiting. Everything else talks to nobody.
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
    """A module shared among the ranks, with its optimizer and, if asked for, the running mean of its weights.

    The optimizer is that of ``config.train``. State is fp32 whatever the module computes in: the weights, AdamW's two
    moments or Muon's momentum, the running mean. A rank holds some runs of elements of every flattened parameter; how
    they are cut is the implementation's own.
    """

    @property
    def module(self) -> nn.Module:
        """The module as built, with every parameter under its own name; its tensors may be shares."""

    def train(self, mode: bool) -> None:
        """Switch dropout on or off, on this rank."""

    def forward(self, sample: object) -> dict[str, Tensor]:
        """Run the module on a sample that is on this rank's device. Collective: other samples, as many of them.

        Returns:
            Name of a loss term → its sum over the sample's items, a scalar; with a gradient unless it is switched off.
        """

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of a loss. Collective, as often on every rank between two steps.

        Args:
            loss: scalar, this micro-batch's share of the global loss: divided by global counts, so that the gradient
                of the step is the sum over micro-batches and ranks, not a mean.
            last: this micro-batch is the last one of the step.
        """

    @property
    def has_whole_weights(self) -> bool:
        """Whether ``module`` holds every weight, so that several threads may call it at once; alike on every rank."""

    def add_gradients(self, gradients: Sequence[Tensor | None]) -> None:
        """Add gradients that were computed elsewhere, of all micro-batches of a step. Collective.

        It takes the place of ``forward`` and ``backward``; called once a step, where ``has_whole_weights``.

        Args:
            gradients: of every parameter of ``module`` that has one, in order; the global gradient is their sum over
                the ranks. None: the loss does not depend on it.
        """

    def step(self, learning_rate: float) -> float:
        """Clip the gradient at the run's norm, do the optimizer's step and forget the gradient. Collective.

        A gradient that is not finite is dropped instead: weights, moments and the number of steps stay, on all ranks.

        Returns:
            The global norm before clipping, the same on every rank; not finite if the gradient was dropped.
        """

    def drop_gradients(self) -> None:
        """Forget what ``backward`` has added since the last step. Every rank or none, or their sums differ."""

    @property
    def optimizer_steps(self) -> int:
        """Steps done, those not counted that were dropped; the same on every rank."""

    def fragments(self) -> list[Fragment]:
        """Return what a checkpoint keeps of this rank: live views, in the order of ``module.named_parameters()``.

        The fragments of all ranks cover every element of every parameter exactly once. Views are fp32, [length] each;
        the caller copies them before the next step.
        """

    def restore(self, read: Read, optimizer_steps: int) -> None:
        """Take up a state, bit for bit, by whatever ranks it was written; drops gradients. Collective.

        Args:
            read: gives the elements that this rank holds.
            optimizer_steps: done when it was written.
        """

    def take_weights(self, read: ReadWeights) -> None:
        """Begin with weights of elsewhere; the mean of the weights follows, the optimizer stays as new. Collective."""

    def ema_update(self, decay: float) -> None:
        """Move the running mean, on this rank's elements: mean ← decay · mean + (1 − decay) · weights."""

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Compute with the running mean inside, and with the very same weights as before after it.

        Collective, on entering and on leaving.
        """


# Builds one: (what makes the module, the run's configuration, this process among the others); every rank calls it. The
# weights that are drawn depend on ``config.seed`` alone, and ``config.train.ema_decay`` says whether a mean is kept.
ShardModel = Callable[[Callable[[], nn.Module], PretrainConfig, Ranks], ShardedModel]
