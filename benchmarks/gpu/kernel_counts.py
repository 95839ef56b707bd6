"""Counts the kernels of a micro-batch and what they read and write, with meta tensors, which hold no numbers.

Operations of torch count as one kernel each, by what goes in and comes out; Triton kernels by their arguments. What
caches save, and what a library does in several steps, is not seen.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unimol_scale.data.steps.random_streams import MoleculeKeys
from unimol_scale.data.transfer import to_device
from unimol_scale.engine.planning.rank_memory import MicroBatchShape
from unimol_scale.engine.planning.rehearsal import carbon_chains
from unimol_scale.model.fused.launching import interprets, kernels_switched, launches_seen_by
from unimol_scale.model.presets import ModelConfig
from unimol_scale.objectives.base import total_loss
from unimol_scale.objectives.config import ObjectiveConfig, build_objective

NO_KERNEL = {
    "view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze", "detach",
    "as_strided", "alias", "split", "unbind", "reshape", "diagonal", "empty", "empty_like", "new_empty", "is_same_size",
    "unfold", "split_with_sizes", "_reshape_alias", "empty_strided", "new_empty_strided",
}  # fmt: skip


def bytes_of(tensor: Tensor) -> int:
    """Return the bytes of the numbers that a tensor shows; what is expanded is read once."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return count * tensor.element_size()


class KernelCount(TorchDispatchMode):
    """Counts the operations that are kernels, and what they read and write.

    Attributes:
        kernels: how many.
        bytes: that they read and write.
        triton: how many of the kernels are Triton's.
        kernels_of: name → how many.
        bytes_of: name → bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels = self.bytes = self.triton = 0
        self.kernels_of: Counter[str] = Counter()
        self.bytes_of: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401
        """Do the operation and count it."""
        name = func._schema.name.removeprefix("aten::")
        given = {key: value for key, value in (kwargs or {}).items() if key != "out"}
        read = {id(x): x for x in tree_leaves((args, given)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        if name not in NO_KERNEL:
            written = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
            self._count(name, [*read.values(), *written])
        return out

    def see_launch(self, name: str, arguments: Sequence[Any], _: Mapping[str, Any]) -> None:
        """Count a Triton kernel."""
        self.triton += 1
        self._count(name, [x for x in arguments if isinstance(x, Tensor)])

    def _count(self, name: str, tensors: Sequence[Tensor]) -> None:
        moved = sum(map(bytes_of, tensors))
        self.kernels += 1
        self.bytes += moved
        self.kernels_of[name] += 1
        self.bytes_of[name] += moved


def count_kernels(
    model_config: ModelConfig, molecules: int, atoms: int, *, fused: bool, dtype: torch.dtype = torch.bfloat16
) -> KernelCount:
    """Return the counts of a forward and a backward pass of the denoising objective.

    Args:
        model_config: of the model.
        molecules: in the micro-batch.
        atoms: of each.
        fused: whether Triton kernels compute the layers.
        dtype: of the weights.
    """
    objective = build_objective(ObjectiveConfig(name="denoise"), model_config)
    batch = carbon_chains(MicroBatchShape(molecules=molecules, num_atoms=atoms))
    keys = MoleculeKeys(seed=0, epoch_B=np.zeros(molecules, np.int64), molecule_B=np.arange(molecules))
    sample = objective.corrupt(batch, keys)
    meta = torch.device("meta")
    with meta:
        model = objective.build_model(model_config).to(dtype)
    moved = to_device(sample, meta)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_as_on_a_gpu())
        count = stack.enter_context(KernelCount())
        stack.enter_context(kernels_switched(fused))
        stack.enter_context(launches_seen_by(count.see_launch))
        torch.autograd.backward(total_loss(model(moved), sample.counts, objective.weights))
    return count


@contextlib.contextmanager
def _as_on_a_gpu() -> Iterator[None]:
    """Launch kernels as on a GPU, even if Triton's interpreter is asked for, which shares rows among few programs."""
    name = "TRITON_INTERPRET"
    before = os.environ.pop(name, None)
    interprets.cache_clear()
    try:
        yield
    finally:
        if before is not None:
            os.environ[name] = before
        interprets.cache_clear()
