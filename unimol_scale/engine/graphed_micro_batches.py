"""Replays the forward and backward pass of micro-batches as CUDA graphs, one for each shape of a micro-batch.

A graph starts all kernels of a micro-batch with one call of the host, which would otherwise need longer to start them
than the GPU to compute them. Graphs hold the addresses of their tensors, so every shape has a sample of its own that
micro-batches are copied into, and gradients are added up in tensors that stay. What varies from step to step must not
be a number of Python's: the counts that the loss is divided by are copied into place, too. Dropout is drawn as without
graphs, since replays read the seed that torch's generator has then. T loss terms.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from unimol_scale.data.transfer import replace_tensors
from unimol_scale.engine.side_by_side import Gradients
from unimol_scale.errors import ConfigError
from unimol_scale.objectives.base import Sample

# Work on fixed tensors → a function that repeats it.
Capture = Callable[[Callable[[], None]], Callable[[], None]]
# Runs before a capture, in which libraries choose algorithms and kernels are compiled.
WARM_UPS = 3
# Micro-batches of further shapes are computed without a graph.
MOST_GRAPHS = 256


def capture_on(device: torch.device) -> Capture:
    """Return how work is captured as a CUDA graph.

    All graphs share one pool of memory: they never run at the same time, and nothing that a graph leaves in the pool is
    read after another one has begun.

    Args:
        device: device of this rank.

    Raises:
        ConfigError: it is not an NVIDIA GPU.
    """
    if device.type != "cuda" or not torch.cuda.is_available():
        raise ConfigError(
            f"train.cuda_graphs needs an NVIDIA GPU, and this rank computes on {device.type}; set "
            "train.cuda_graphs=false"
        )
    pool = torch.cuda.graph_pool_handle()

    def capture(work: Callable[[], None]) -> Callable[[], None]:
        side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                work()
        torch.cuda.current_stream(device).wait_stream(side)
        # The pool of the graphs cannot use memory that the allocator keeps for others.
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        graph = torch.cuda.CUDAGraph()
        # Loader and collectives have threads that call CUDA meanwhile, which is no error.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            work()
        return graph.replay

    return capture


@dataclass(frozen=True, kw_only=True)
class _Graph:
    """The graph of one shape.

    Attributes:
        tensors: of the sample that the graph reads.
        sum_T: fp32, the sums that the graph finds.
        replay: adds the gradients of the sample to the totals.
        used: indices of the parameters that the loss depends on.
    """

    tensors: list[Tensor]
    sum_T: Tensor
    replay: Callable[[], None]
    used: set[int]


class GraphedMicroBatches:
    """Computes micro-batches by graphs, and the sum of their gradients.

    Args:
        module: the model, whole on this rank; called on a sample, it returns term → sum.
        capture: captures work on fixed tensors; see ``capture_on``.
    """

    def __init__(self, module: nn.Module, capture: Capture) -> None:
        self._module = module
        self._capture = capture
        self._parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._places: list[int] = []
        self._totals: list[Tensor] = []
        self._graphs: dict[object, _Graph] = {}
        # Names of the terms → fp32 [T], what each term is divided by in this step.
        self._counts: dict[tuple[str, ...], Tensor] = {}

    @property
    def shapes(self) -> int:
        """Number of shapes that have a graph."""
        return len(self._graphs)

    def __call__(
        self,
        samples: Iterable[Sample],
        weights: Mapping[str, float],
        counts: Mapping[str, float],
        seed: Callable[[int], None],
    ) -> tuple[list[dict[str, Tensor]], Gradients]:
        """Return term → sum for each micro-batch, detached, and the gradient of the sum of their losses.

        The gradients are those of the loss Σ weight · sum / count over the terms of positive weight. They stay valid
        until the next call.

        Args:
            samples: micro-batches on the module's device.
            weights: loss term → weight.
            counts: loss term → its count over all ranks and micro-batches.
            seed: called with the number of a micro-batch before it is computed; seeds dropout.
        """
        self._begin(weights, counts)
        found: list[dict[str, Tensor]] = []
        used: set[int] = set()
        for slot, sample in enumerate(samples):
            graph = self._graph_of(sample, weights)
            seed(slot)
            graph.replay()
            found.append(dict(zip(weights, graph.sum_T.clone().unbind(), strict=True)))
            used |= graph.used
        return found, [total if index in used else None for index, total in enumerate(self._totals)]

    def _begin(self, weights: Mapping[str, float], counts: Mapping[str, float]) -> None:
        """Set the totals to zero and the counts to this step's; forget all graphs if the parameters have moved."""
        places = [parameter.data_ptr() for parameter in self._parameters]
        if places != self._places:
            self._places = places
            self._graphs.clear()
            self._totals = [torch.zeros_like(parameter) for parameter in self._parameters]
        else:
            torch._foreach_zero_(self._totals)
        count_T = torch.tensor([max(counts[name], 1.0) for name in weights])
        device = self._parameters[0].device
        place = self._counts.setdefault(tuple(weights), torch.empty(len(weights), device=device))
        # From page-locked memory the host need not wait for the device.
        place.copy_(count_T.pin_memory() if device.type == "cuda" else count_T, non_blocking=True)

    def _graph_of(self, sample: Sample, weights: Mapping[str, float]) -> _Graph:
        """Return the graph of the sample's shape, with the sample copied into place."""
        # Only names of molecules are as many as there are molecules; the model does not read them.
        sample = replace(sample, molecule_B=sample.molecule_B[:0])
        tensors = tensors_of(sample)
        key = (type(sample), sample.part, tuple(weights.items()), tuple((x.shape, x.dtype) for x in tensors))
        known = self._graphs.get(key)
        if known is None and len(self._graphs) == MOST_GRAPHS:
            warnings.warn(
                f"micro-batches have more than {MOST_GRAPHS} shapes; further ones have no graph", stacklevel=2
            )
            return self._new_graph(sample, weights, lambda work: work)
        if known is None:
            known = self._graphs[key] = self._new_graph(sample, weights, self._capture)
        for place, tensor in zip(known.tensors, tensors, strict=True):
            place.copy_(tensor)
        return known

    def _new_graph(self, sample: Sample, weights: Mapping[str, float], capture: Capture) -> _Graph:
        own, names = replace_tensors(sample, Tensor.clone), tuple(weights)
        count_T = self._counts[names]
        sum_T = torch.zeros_like(count_T)
        used: set[int] = set()

        def work() -> None:
            sums = self._module(own)
            losses = [weights[name] * sums[name] / count_T[names.index(name)] for name in sums if weights[name]]
            gradients = torch.autograd.grad(torch.stack(losses).sum(), self._parameters, allow_unused=True)
            sum_T.copy_(torch.stack([sums[name].detach() for name in names]))
            found = {at: gradient for at, gradient in enumerate(gradients) if gradient is not None}
            used.update(found)
            torch._foreach_add_([self._totals[at] for at in found], list(found.values()))

        totals = [total.clone() for total in self._totals]
        replay = capture(work)
        # Warm-up has added to the totals.
        torch._foreach_copy_(self._totals, totals)
        return _Graph(tensors=tensors_of(own), sum_T=sum_T, replay=replay, used=used)


def tensors_of(sample: Sample) -> list[Tensor]:
    """Return the tensors of a sample, in a fixed order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    replace_tensors(sample, note)
    return found
