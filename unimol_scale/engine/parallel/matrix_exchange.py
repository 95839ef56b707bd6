"""Gathers the pieces of each matrix from all ranks on one rank, and returns the results to the ranks that need them.

ZeRO cuts matrices anywhere, but Muon needs whole ones. Every rank therefore receives some of the matrices whole, so
that all have about equal work. This takes two collectives at any stage: pieces to the owners, results to the holders.
Where every rank holds everything (stage 0), only the second transfers data.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unimol_scale.engine.parallel.hidden_weights import HiddenWeight
from unimol_scale.engine.parallel.ranks import Ranks

# Elements per rank that are in transit at a time, so that the buffers stay small compared with the model.
ROUND_ELEMENTS = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of elements of one flattened weight that a rank holds in one of its tensors.

    Attributes:
        name: name of the parameter.
        start: first element in the parameter.
        length: number of elements.
        flat: index of the tensor; on all ranks, tensors with the same index hold pieces of the same parameters.
        offset: first element in that tensor.
    """

    name: str
    start: int
    length: int
    flat: int
    offset: int


@dataclass(frozen=True, kw_only=True)
class Round:
    """Weights that are processed together.

    Attributes:
        owners: weight → the rank that receives it whole; the same on all ranks.
    """

    owners: Mapping[str, int]

    def owned_by(self, rank: int) -> list[str]:
        """Return the weights that a rank owns."""
        return [name for name, owner in self.owners.items() if owner == rank]


class MatrixExchange:
    """Knows which rank holds what. Every rank creates one and makes the same calls.

    Args:
        held: the parts of the weights that this rank holds.
        weights: parameter name → its matrices.
        ranks: this process among the others.
    """

    def __init__(self, held: Sequence[Run], weights: Mapping[str, HiddenWeight], ranks: Ranks) -> None:
        self._weights = weights
        self._ranks = ranks
        self._runs: list[dict[str, list[Run]]] = []
        self._flat: dict[str, int] = {}
        for runs in ranks.gather(list(held)):
            of_rank: dict[str, list[Run]] = {name: [] for name in weights}
            for run in runs:
                of_rank[run.name].append(run)
                assert self._flat.setdefault(run.name, run.flat) == run.flat, f"{run.name} is in several tensors"
            self._runs.append(of_rank)
        self._rounds: dict[frozenset[int], list[Round]] = {}

    def rounds(self, flats: Sequence[int]) -> list[Round]:
        """Return the rounds that process the weights in these tensors, including weights that only other ranks hold."""
        key = frozenset(flats)
        if key not in self._rounds:
            self._rounds[key] = list(self._planned(key))
        return self._rounds[key]

    def _planned(self, flats: frozenset[int]) -> Iterator[Round]:
        owners: dict[str, int] = {}
        elements, load = 0, [0] * self._ranks.world_size
        most = ROUND_ELEMENTS * self._ranks.world_size
        for name, weight in self._weights.items():
            if self._flat[name] not in flats:
                continue
            size = self._size(name)
            if owners and elements + size > most:
                yield Round(owners=owners)
                owners, elements, load = {}, 0, [0] * self._ranks.world_size
            owner = load.index(min(load))
            owners[name] = owner
            elements += size
            load[owner] += size * min(weight.matrix_shape[1:])  # proportional to the cost of an iteration
        if owners:
            yield Round(owners=owners)

    def collect(self, round_: Round, flats: Mapping[int, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the whole weights that this rank owns in a round, flat, on its device. Collective.

        Args:
            round_: one of ``rounds``.
            flats: index of the tensor → values with its layout, on any device.
            dtype: dtype to send and return them in.
        """
        me, device = self._ranks.rank, self._ranks.device
        everyone = range(self._ranks.world_size)
        sent = [
            [flats[run.flat].view(-1).narrow(0, run.offset, run.length) for run in self._sources(me, round_, rank)]
            for rank in everyone
        ]
        expected = [self._sources(rank, round_, me) for rank in everyone]
        received = self._send(sent, [sum(run.length for run in runs) for runs in expected], dtype)
        whole = {name: torch.empty(self._size(name), dtype=dtype, device=device) for name in round_.owned_by(me)}
        for run, values in zip((run for runs in expected for run in runs), _cut(received, expected), strict=True):
            whole[run.name].narrow(0, run.start, run.length).copy_(values)
        return whole

    def distribute(
        self, round_: Round, whole: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device
    ) -> list[tuple[Run, Tensor]]:
        """Return each run of the round's weights that this rank holds, with its results. Collective.

        Args:
            round_: one of ``rounds``.
            whole: weight that this rank owns → results, flat.
            dtype: dtype of the results.
            device: device to return them on.
        """
        me = self._ranks.rank
        everyone = range(self._ranks.world_size)
        sent = [
            [whole[run.name].narrow(0, run.start, run.length) for run in self._held(rank, round_, me)]
            for rank in everyone
        ]
        expected = [self._held(me, round_, rank) for rank in everyone]
        received = self._send(sent, [sum(run.length for run in runs) for runs in expected], dtype)
        results = _cut(received.to(device), expected)
        return list(zip((run for runs in expected for run in runs), results, strict=True))

    def _held(self, rank: int, round_: Round, owner: int) -> list[Run]:
        """Return what a rank holds of the weights that another rank owns."""
        return [run for name in round_.owned_by(owner) for run in self._runs[rank][name]]

    def _sources(self, rank: int, round_: Round, owner: int) -> list[Run]:
        """Return what a rank sends to the owner of weights: nothing that the owner holds itself."""
        return [run for run in self._held(rank, round_, owner) if rank == owner or not self._holds(owner, run.name)]

    def _holds(self, rank: int, name: str) -> bool:
        return sum(run.length for run in self._runs[rank][name]) == self._size(name)

    def _size(self, name: str) -> int:
        rows, columns = self._weights[name].shape
        return rows * columns

    def _send(self, sent: Sequence[Sequence[Tensor]], received: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Send tensors to every rank; return what arrived from all, in rank order."""
        parts = [part.to(dtype) for parts in sent for part in parts]
        # One copy for all of them if the optimizer is offloaded.
        values = (torch.cat(parts) if parts else torch.empty(0, dtype=dtype)).to(self._ranks.device)
        return self._ranks.exchange(values, [sum(len(part) for part in parts) for parts in sent], received)


def _cut(values: Tensor, runs: Sequence[Sequence[Run]]) -> Sequence[Tensor]:
    return torch.split(values, [run.length for part in runs for run in part])
