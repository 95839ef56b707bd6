"""A model that DeepSpeed shards: builds it, runs it, steps it, and saves and restores its state.

It works around several properties of DeepSpeed, each measured or read in its source. Gradients of a variable number of
micro-batches need explicit boundaries. Stage 3 and offloading update a parameter that a step does not use with its last
gradient. Stage 3 leaves buffers on the CPU. Stage 0 in fp32 neither reports the gradient norm nor refuses a gradient
that is not finite. Stage 0 in bf16 begins with a step.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, redirect_stdout, suppress
from typing import Any

import torch
from torch import Tensor, nn

from unimol_scale.checkpoints.run.shares import Fragment
from unimol_scale.engine.parallel.deepspeed_settings import deepspeed_settings
from unimol_scale.engine.parallel.deepspeed_state import ShardedState
from unimol_scale.engine.parallel.hidden_weights import HiddenWeight, hidden_weights
from unimol_scale.engine.parallel.matrix_exchange import MatrixExchange
from unimol_scale.engine.parallel.muon import MuonAdamW
from unimol_scale.engine.parallel.ranks import Ranks
from unimol_scale.engine.parallel.sharded_model import Read
from unimol_scale.engine.run.initial_weights import ReadWeights
from unimol_scale.engine.run.run_config import PretrainConfig
from unimol_scale.engine.run.train_config import TrainConfig
from unimol_scale.errors import ConfigError

_NO_COMPILER = "TORCHDYNAMO_DISABLE"


class DeepSpeedModel:
    """A ``ShardedModel`` based on DeepSpeed, with its optimizer.

    Every rank makes the same calls. The fp32 weights that ``factory`` draws depend only on ``config.seed``, not on
    stage, ranks or precision (apart from rounding to bf16).

    Args:
        factory: builds the module; called inside DeepSpeed's construction context under stage 3.
        config: of the run; ``train.ema_decay`` decides whether a running mean of the weights is kept.
        ranks: this process among the others.

    Raises:
        ConfigError: the DeepSpeed settings contradict the run's, or the run could not be resumed exactly.
    """

    def __init__(self, factory: Callable[[], nn.Module], config: PretrainConfig, ranks: Ranks) -> None:
        settings = deepspeed_settings(config, cuda=ranks.device.type == "cuda")
        import deepspeed

        self._ranks = ranks
        self._stage = config.zero.stage_used
        torch.manual_seed(config.seed)
        with deepspeed.zero.Init(config_dict_or_path=settings, enabled=self._stage == 3):
            module = factory()
        _move_buffers(module, ranks.device)
        matrices = _matrices_of(module, config.train)
        _import_muon_uncompiled()
        # Some of its optimizers print memory statistics on every rank.
        with redirect_stdout(None):
            self._engine, *_ = deepspeed.initialize(
                model=module,
                model_parameters=list(module.parameters()),
                optimizer=_muon(module, matrices, config.train) if matrices else None,
                config=settings,
            )
        self._optimizer: Any = self._engine.optimizer
        # Stage 0 in fp32 uses torch's own optimizer without a wrapper.
        self._is_plain = self._optimizer is self._engine.basic_optimizer
        self._state = ShardedState(
            self.module,
            self._optimizer,
            self._engine.basic_optimizer,
            stage=self._stage,
            rank=ranks.rank,
            world_size=ranks.world_size,
            averaged=config.train.ema_decay is not None,
        )
        if matrices:
            exchange = MatrixExchange(self._state.runs(matrices), matrices, ranks)
            self._engine.basic_optimizer.start(exchange, matrices, self._state.flats)

    @property
    def module(self) -> nn.Module:
        """The module as built; under stage 3 its weights are shards."""
        module: nn.Module = self._engine.module
        return module

    def train(self, mode: bool) -> None:
        """Switch dropout on or off."""
        self._engine.train(mode)

    def forward(self, sample: object) -> dict[str, Tensor]:
        """Run the module on a sample that is on this rank's device."""
        sums: dict[str, Tensor] = self._engine(sample)
        return sums

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of a share of the global loss; ``last`` marks the last micro-batch of the step.

        DeepSpeed averages gradients over ranks, but every rank's loss is already divided by global counts, so a sum is
        needed.
        """
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss * self._ranks.world_size)

    @property
    def has_whole_weights(self) -> bool:
        """Whether ``module`` holds every weight, which is so below stage 3."""
        return self._stage < 3

    def add_gradients(self, gradients: Sequence[Tensor | None]) -> None:
        """Add gradients that were computed elsewhere, summed over all micro-batches of a step."""
        parameters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        pairs = [pair for pair in zip(parameters, gradients, strict=True) if pair[1] is not None]
        # A function with exactly these gradients, so that everything DeepSpeed does in a backward pass happens here as
        # well.
        loss: Tensor = _GivenGradients.apply([given for _, given in pairs], *(parameter for parameter, _ in pairs))  # type: ignore[no-untyped-call]
        self.backward(loss, last=True)

    def step(self, learning_rate: float) -> float:
        """Clip, update the weights, and return the gradient norm before clipping, the same on every rank.

        A gradient that is not finite is dropped: weights, moments and step counters stay unchanged on all ranks, and
        the
        returned norm is not finite.
        """
        norm: Any = None
        if self._is_plain:
            gradients = [parameter.grad for parameter in self.module.parameters() if parameter.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients).item()
            if not math.isfinite(norm):
                self.drop_gradients()
                return float(norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        self._forget_last()
        if norm is None:
            norm = self._engine.get_global_grad_norm()
        return float(norm)

    def drop_gradients(self) -> None:
        """Drop what ``backward`` has added since the last step."""
        if self._stage == 0:
            self._engine.zero_grad()
            return
        optimizer = self._optimizer
        optimizer.zero_grad()
        if self._stage == 3:
            optimizer.averaged_gradients = {}
        elif hasattr(optimizer, "averaged_gradients"):
            optimizer._release_preflattened_grad_buffers()
            for gradients in (optimizer.averaged_gradients, optimizer.all_grad_tensors):
                gradients.update(dict.fromkeys(gradients))
            optimizer.micro_step_id = -1
        if getattr(optimizer, "cpu_offload", False) or getattr(optimizer, "offload_optimizer", False):
            optimizer.reset_cpu_buffers()
        self._forget_last()

    def _forget_last(self) -> None:
        """Clear gradients that DeepSpeed keeps; they would update a parameter again that the next step does not use."""
        if self._stage == 3:
            self._optimizer.grad_partitions_flat_buffer.zero_()
        self._state.clear_gradients()

    @property
    def optimizer_steps(self) -> int:
        """Number of optimizer steps done, without skipped ones."""
        return self._state.optimizer_steps

    def fragments(self) -> list[Fragment]:
        """Return this rank's share of the state: live views, in the order of ``named_parameters``.

        The fragments of all ranks cover every element of every parameter exactly once.
        """
        return self._state.fragments()

    def restore(self, read: Read, optimizer_steps: int) -> None:
        """Load a state exactly, whatever ranks and stage wrote it.

        Args:
            read: (parameter name, kind, start, stop) → fp32 elements [stop - start].
            optimizer_steps: steps done when the state was written.
        """
        self.drop_gradients()
        self._state.restore(read, optimizer_steps)

    def take_weights(self, read: ReadWeights) -> None:
        """Start from given weights; the optimizer stays new.

        Args:
            read: (parameter name, start, stop) → fp32 elements [stop - start]; None keeps the initial ones.
        """
        self._state.take_weights(read)

    def ema_update(self, decay: float) -> None:
        """Update the running mean of the weights: mean ← decay · mean + (1 − decay) · weights."""
        self._state.ema_update(decay)

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Use the mean of the weights inside the block, and restore the exact weights after it."""
        return self._state.averaged_weights()


class _GivenGradients(torch.autograd.Function):
    """A scalar zero that depends on some parameters and has given gradients."""

    @staticmethod
    def forward(ctx: Any, gradients: list[Tensor], *parameters: Tensor) -> Tensor:  # noqa: ANN401
        ctx.gradients = gradients
        return parameters[0].new_zeros((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        factor = grad.item()
        return None, *(gradient if factor == 1.0 else gradient * factor for gradient in ctx.gradients)


def _import_muon_uncompiled() -> None:
    """Import DeepSpeed's own Muon without torch's compiler.

    Its optimizers ask whether they were given that Muon, which this project never uses. The import would prepare its
    functions for compilation, and loading the compiler takes a rank 0.7 s [measured]. Older versions have no Muon.
    """
    before = os.environ.get(_NO_COMPILER)
    os.environ[_NO_COMPILER] = "1"
    try:
        with suppress(ImportError):
            from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam  # noqa: F401
    finally:
        del os.environ[_NO_COMPILER]
        if before is not None:
            os.environ[_NO_COMPILER] = before


def _move_buffers(module: nn.Module, device: torch.device) -> None:
    """Move buffers to the module's device: DeepSpeed's construction context places only parameters."""
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, buffer.to(device))


def _matrices_of(module: nn.Module, train: TrainConfig) -> dict[str, HiddenWeight]:
    """Return the weights that Muon updates, by name; {} if the run uses AdamW only.

    Raises:
        ConfigError: Muon is requested, but there are no such weights.
    """
    if train.optimizer == "adamw":
        return {}
    # Under stage 3 a parameter stores its full shape under another name.
    shapes = {name: tuple(getattr(weight, "ds_shape", weight.shape)) for name, weight in module.named_parameters()}
    found = hidden_weights(module, shapes, train.tracks_of_muon)
    if not found:
        raise ConfigError(
            f"train.optimizer=muon: the objective's model has no two-track layers with hidden matrices of "
            f"{train.muon_tracks}; use train.optimizer=adamw"
        )
    return found


def _muon(module: nn.Module, matrices: Mapping[str, HiddenWeight], train: TrainConfig) -> MuonAdamW:
    weights = dict(module.named_parameters())
    return MuonAdamW(
        [weights[name] for name in matrices],
        [weight for name, weight in weights.items() if name not in matrices],
        lr=train.learning_rate,
        betas=(train.beta1, train.beta2),
        weight_decay=train.weight_decay,
        pair_rate=train.muon_pair_rate,
        momentum=train.muon_momentum,
        iterations=train.muon_iterations,
        dtype=torch.bfloat16 if train.precision == "bf16" else torch.float32,
    )
