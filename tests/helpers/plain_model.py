"""A ``ShardedModel`` without DeepSpeed: one rank, fp32, torch's own AdamW. mypy holds it to the protocol."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from unimol_scale.checkpoints.run.shares import Fragment
from unimol_scale.engine.parallel.deepspeed_state import ShardedState
from unimol_scale.engine.parallel.ranks import Ranks
from unimol_scale.engine.parallel.sharded_model import Read, ShardModel
from unimol_scale.engine.run.initial_weights import ReadWeights
from unimol_scale.engine.run.run_config import PretrainConfig


class PlainModel:
    """The whole model on the only rank."""

    # Whether the loss of the n-th step of this session, from 1, is not finite.
    spoilt: Callable[[int], bool] = staticmethod(lambda step: False)

    def __init__(self, factory: Callable[[], nn.Module], config: PretrainConfig, ranks: Ranks) -> None:
        torch.manual_seed(config.seed)
        self._module = factory()
        train = config.train
        assert train.optimizer == "adamw", "this model has no Muon"
        self._adam = torch.optim.AdamW(
            self.module.parameters(), betas=(train.beta1, train.beta2), weight_decay=train.weight_decay
        )
        self._state = ShardedState(
            self.module, self._adam, self._adam, stage=0, rank=0, world_size=1, averaged=train.ema_decay is not None
        )
        self._steps = 0

    @property
    def module(self) -> nn.Module:
        return self._module

    def train(self, mode: bool) -> None:
        self.module.train(mode)

    def forward(self, sample: object) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = self.module(sample)
        if self.module.training:
            self._steps += 1
            if self.spoilt(self._steps):
                sums = {name: value * math.nan for name, value in sums.items()}
        return sums

    def backward(self, loss: Tensor, *, last: bool) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    @property
    def has_whole_weights(self) -> bool:
        return True

    def add_gradients(self, gradients: Sequence[Tensor | None]) -> None:
        for parameter, gradient in zip(self.module.parameters(), gradients, strict=True):
            parameter.grad = gradient

    def step(self, learning_rate: float) -> float:
        for group in self._adam.param_groups:
            group["lr"] = learning_rate
        norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0).item()
        self._adam.step()
        self.drop_gradients()
        return norm

    def drop_gradients(self) -> None:
        self._adam.zero_grad()

    @property
    def optimizer_steps(self) -> int:
        return self._state.optimizer_steps

    def fragments(self) -> list[Fragment]:
        return self._state.fragments()

    def restore(self, read: Read, optimizer_steps: int) -> None:
        self._state.restore(read, optimizer_steps)

    def take_weights(self, read: ReadWeights) -> None:
        self._state.take_weights(read)

    def ema_update(self, decay: float) -> None:
        self._state.ema_update(decay)

    def averaged_weights(self) -> AbstractContextManager[None]:
        return self._state.averaged_weights()


PLAIN: ShardModel = PlainModel
