"""States of made-up runs, cut into the fragments of ranks."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from unimol_scale.checkpoints.run.shares import MOMENT, SQUARE, WEIGHT, Fragment

State = dict[str, dict[str, Tensor]]


def random_state(sizes: Mapping[str, int], kinds: Sequence[str] = (WEIGHT, MOMENT, SQUARE), seed: int = 0) -> State:
    """Return parameter → kind → fp32 [size]."""
    generator = torch.Generator().manual_seed(seed)
    return {name: {kind: torch.randn(size, generator=generator) for kind in kinds} for name, size in sizes.items()}


def cut(state: State, bounds: Mapping[str, Sequence[int]]) -> list[Fragment]:
    """Return each parameter as views, cut at ``bounds`` (which begin with 0 and end with its size)."""
    return [
        Fragment(name=name, start=first, states={kind: tensor[first:last] for kind, tensor in state[name].items()})
        for name in state
        for first, last in zip(bounds[name], bounds[name][1:], strict=False)
    ]


def evenly(state: State, world_size: int) -> list[list[Fragment]]:
    """Return the fragments of each rank: every parameter cut into nearly equal parts, as ZeRO-3 does."""
    ranks: list[list[Fragment]] = [[] for _ in range(world_size)]
    for name, kinds in state.items():
        size = len(next(iter(kinds.values())))
        bounds = [size * rank // world_size for rank in range(world_size + 1)]
        for rank, fragment in enumerate(cut({name: kinds}, {name: bounds})):
            if fragment.stop > fragment.start:
                ranks[rank].append(fragment)
    return ranks
