"""Finds the fp32 state of a sharded model in DeepSpeed's tensors, in one form for every ZeRO stage and precision.

DeepSpeed updates a few flat fp32 tensors, and arranges the parameters in them differently at each stage. Stage 0 keeps
every parameter whole on every rank. Stages 1 and 2 cut the concatenation of all parameters into one run of elements per
rank. Stage 3 cuts each parameter into one run per rank, with padding in the last ones. A ``Slot`` says where a run of a
parameter's elements lies; everything else in this file is the same for all stages.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unimol_scale.checkpoints.run.shares import MEAN, MOMENT, MOMENTUM, SQUARE, WEIGHT, Fragment
from unimol_scale.engine.parallel.matrix_exchange import Run
from unimol_scale.engine.parallel.muon import IS_MUON
from unimol_scale.engine.parallel.sharded_model import Read
from unimol_scale.engine.run.initial_weights import ReadWeights

# One of several classes that have no type hints.
DeepSpeedOptimizer = Any
_STEP = "step"
_EXCHANGE_ELEMENTS = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A run of elements of one flattened parameter inside one of the optimizer's tensors.

    Attributes:
        name: name of the parameter.
        parameter: the tensor that the model computes with.
        start: first element in the parameter.
        length: number of elements.
        flat: fp32 tensor that the optimizer updates.
        offset: first element in ``flat``.
    """

    name: str
    parameter: nn.Parameter
    start: int
    length: int
    flat: Tensor
    offset: int

    @property
    def stop(self) -> int:
        """The element after the last one, in the parameter."""
        return self.start + self.length

    def view(self, tensor: Tensor) -> Tensor:
        """Return the run inside ``flat``, or inside another tensor with the same layout."""
        return tensor.detach().view(-1).narrow(0, self.offset, self.length)

    def clipped(self, before: int, start: int, stop: int) -> "Slot | None":
        """Return the part that lies in [start, stop) of a concatenation with ``before`` elements ahead of this slot."""
        first, last = max(start - before, 0), min(stop - before, self.length)
        if first >= last:
            return None
        return Slot(
            name=self.name,
            parameter=self.parameter,
            start=self.start + first,
            length=last - first,
            flat=self.flat,
            offset=self.offset + first,
        )


class ShardedState:
    """Master weights, optimizer states and running mean of the weights, for the elements that this rank holds.

    Args:
        module: the model.
        optimizer: DeepSpeed's optimizer around ``adam``; at stage 0 in fp32 ``adam`` itself.
        adam: a torch.optim.AdamW; with Muon it has two groups, Muon's last.
        stage: ZeRO stage.
        rank: rank of this process.
        world_size: number of ranks.
        averaged: keep a running mean of the weights.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: DeepSpeedOptimizer,
        adam: torch.optim.Optimizer,
        *,
        stage: int,
        rank: int,
        world_size: int,
        averaged: bool,
    ) -> None:
        self._optimizer = optimizer
        self._adam = adam
        self._stage = stage
        find = {0: _whole_slots, 3: _stage3_slots}.get(stage, _stage12_slots)
        self._held = [slot for slot in find(module, optimizer, adam, rank) if slot.length > 0]
        # At stage 0 all ranks hold the same state, and each saves an equal part of it.
        self._owned = self._held if stage else _equal_part(self._held, rank, world_size)
        stepped = list(_stepped(optimizer, adam, stage))
        # All tensors that the optimizer updates, including those that contain only padding.
        self.flats = [flat for flat, _ in stepped]
        self._start_states(stepped)
        self._means = {id(flat): flat.detach().clone() for flat in self.flats} if averaged else {}
        self._exchanged = False

    def _start_states(self, stepped: Sequence[tuple[Tensor, bool]]) -> None:
        """Create the optimizer's states as they are before the first step, so that they can be saved and restored.

        At stage 0 in bf16 DeepSpeed has already done a step without gradients, which decayed the master weights and was
        counted.
        """
        with torch.no_grad():
            for slot in self._held if self._stage == 0 else ():
                slot.view(slot.flat).copy_(slot.parameter.view(-1))
        for flat, is_muon in stepped:
            kinds = (MOMENTUM,) if is_muon else (MOMENT, SQUARE)
            moments = {kind: torch.zeros_like(flat, requires_grad=False) for kind in kinds}
            count = {} if is_muon else {_STEP: torch.zeros((), dtype=torch.float32, device=flat.device)}
            self._adam.state[flat] = {**count, **moments}

    @property
    def optimizer_steps(self) -> int:
        """Number of steps done, without skipped ones."""
        return int(self._adam.state[self.flats[0]][_STEP].item())

    def runs(self, names: Collection[str]) -> list[Run]:
        """Return where the elements of some parameters lie that this rank updates, by index of the flat tensor."""
        numbers = {id(flat): number for number, flat in enumerate(self.flats)}
        return [
            Run(name=slot.name, start=slot.start, length=slot.length, flat=numbers[id(slot.flat)], offset=slot.offset)
            for slot in self._held
            if slot.name in names
        ]

    def fragments(self) -> list[Fragment]:
        """Return live views of the elements that this rank saves, in the order of ``named_parameters``."""
        assert not self._exchanged, "the weights are currently swapped with their mean"
        return [
            Fragment(
                name=slot.name,
                start=slot.start,
                states={kind: slot.view(tensor) for kind, tensor in self._states(slot.flat).items()},
            )
            for slot in self._owned
        ]

    @torch.no_grad()
    def restore(self, read: Read, optimizer_steps: int) -> None:
        """Fill every state from ``read``; every rank takes part."""
        for slot in self._held:
            for kind, tensor in self._states(slot.flat).items():
                slot.view(tensor).copy_(read(slot.name, kind, slot.start, slot.stop))
        for flat in self.flats:
            if _STEP in (state := self._adam.state[flat]):
                state[_STEP].fill_(optimizer_steps)
        self._publish()

    @torch.no_grad()
    def take_weights(self, read: ReadWeights) -> None:
        """Replace the weights, and their running mean, by given ones; every rank takes part.

        Args:
            read: (parameter name, start, stop) → fp32 [stop - start]; None keeps those elements.
        """
        for slot in self._held:
            elements = read(slot.name, slot.start, slot.stop)
            if elements is not None:
                for kind in self._states(slot.flat).keys() & {WEIGHT, MEAN}:
                    slot.view(self._states(slot.flat)[kind]).copy_(elements)
        self._publish()

    def clear_gradients(self) -> None:
        """Clear DeepSpeed's copies of gradients next to the optimizer; they outlive a step only with offloading."""
        for flat in self.flats:
            if flat.grad is not None:
                flat.grad.zero_()

    @torch.no_grad()
    def ema_update(self, decay: float) -> None:
        """Update the running mean of the weights: mean ← decay · mean + (1 − decay) · weights."""
        assert self._means, "no mean of the weights is kept"
        for flat in self.flats:
            self._means[id(flat)].lerp_(flat.detach(), 1.0 - decay)

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Use the mean of the weights inside the block, and restore the exact weights after it."""
        assert self._means, "no mean of the weights is kept"
        self._exchange()
        # Not in a finally: an error ends the run, and swapping back would wait for ranks that may never come.
        yield
        self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for flat in self.flats:
            mean = self._means[id(flat)]
            halves = (torch.split(tensor.view(-1), _EXCHANGE_ELEMENTS) for tensor in (flat.detach(), mean))
            for weight_part, mean_part in zip(*halves, strict=True):
                kept = weight_part.clone()
                weight_part.copy_(mean_part)
                mean_part.copy_(kept)
        self._exchanged = not self._exchanged
        self._publish()

    def _states(self, flat: Tensor) -> Mapping[str, Tensor]:
        """Return kind of state → tensor with the layout of ``flat``."""
        moments = {kind: tensor for kind, tensor in self._adam.state[flat].items() if kind != _STEP}
        states = {WEIGHT: flat, **moments}
        return {**states, MEAN: self._means[id(flat)]} if self._means else states

    def _publish(self) -> None:
        """Copy the master weights of all ranks into the weights that the model computes with."""
        if self._stage == 0:
            for slot in self._held:
                if slot.flat is not slot.parameter:
                    slot.parameter.data.view(-1).copy_(slot.view(slot.flat))
        elif self._stage < 3:
            self._optimizer.update_lp_params()
        else:
            optimizer = self._optimizer
            optimizer._partition_all_parameters()
            for group in range(len(optimizer.fp32_partitioned_groups_flat)):
                optimizer._reassign_or_swap_out_partitioned_parameters(group)
            # Small parameters are kept whole on every rank.
            if persistent := optimizer.persistent_parameters:
                persistent[0].all_gather(persistent)


def _stepped(optimizer: DeepSpeedOptimizer, adam: torch.optim.Optimizer, stage: int) -> Iterator[tuple[Tensor, bool]]:
    """Yield each tensor that the optimizer updates, in the same order on all ranks, and whether Muon updates it."""
    if stage == 3:
        for index, flat in enumerate(optimizer.fp32_partitioned_groups_flat):
            yield flat, adam.param_groups[optimizer.sub_group_to_group_id[index]].get(IS_MUON, False)
        return
    for group in adam.param_groups:
        for flat in group["params"]:
            yield flat, group.get(IS_MUON, False)


def _whole_slots(
    module: nn.Module, optimizer: DeepSpeedOptimizer, adam: torch.optim.Optimizer, rank: int
) -> Iterator[Slot]:
    """Stage 0: in fp32 parameters are their own masters; in bf16 each has one master."""
    masters: dict[int, Tensor] = {}
    if optimizer is not adam:
        for low, high in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
            masters |= {id(parameter): master for parameter, master in zip(low, high, strict=True)}
    for name, parameter in module.named_parameters():
        master = masters.get(id(parameter), parameter)
        yield Slot(name=name, parameter=parameter, start=0, length=parameter.numel(), flat=master, offset=0)


def _stage12_slots(
    module: nn.Module, optimizer: DeepSpeedOptimizer, adam: torch.optim.Optimizer, rank: int
) -> Iterator[Slot]:
    """Stages 1 and 2: a rank holds the parameters, or parts of them, that overlap its run of elements."""
    for name, parameter in module.named_parameters():
        mapping = parameter._hp_mapping  # type: ignore[attr-defined]  # DeepSpeed's
        if mapping is None:
            continue
        yield Slot(
            name=name,
            parameter=parameter,
            start=mapping.lp_fragment_address.start,
            length=mapping.lp_fragment_address.numel,
            flat=adam.param_groups[mapping.param_group_index]["params"][0],
            offset=mapping.hp_fragment_address.start,
        )


def _stage3_slots(
    module: nn.Module, optimizer: DeepSpeedOptimizer, adam: torch.optim.Optimizer, rank: int
) -> Iterator[Slot]:
    """Stage 3: a rank holds an equal run of each parameter; the last runs contain padding, or nothing else."""
    for name, parameter in module.named_parameters():
        group, offset, padded = optimizer.grad_position[optimizer.get_param_id(parameter)]
        start = rank * padded
        yield Slot(
            name=name,
            parameter=parameter,
            start=start,
            length=min(padded, parameter.ds_numel - start),  # type: ignore[attr-defined]  # DeepSpeed's
            flat=optimizer.fp32_partitioned_groups_flat[group],
            offset=offset,
        )


def _equal_part(slots: list[Slot], rank: int, world_size: int) -> list[Slot]:
    """Return the rank-th of ``world_size`` equal runs of elements of the concatenated slots."""
    total = sum(slot.length for slot in slots)
    start, stop = total * rank // world_size, total * (rank + 1) // world_size
    part, before = [], 0
    for slot in slots:
        if (clipped := slot.clipped(before, start, stop)) is not None:
            part.append(clipped)
        before += slot.length
    return part
