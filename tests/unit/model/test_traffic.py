"""Kernels and memory traffic of a micro-batch, counted on the built model with meta tensors, which hold no numbers."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unimol_scale.data.steps.random_streams import MoleculeKeys
from unimol_scale.data.transfer import _replace
from unimol_scale.engine.planning.rank_memory import MicroBatchShape
from unimol_scale.engine.planning.rehearsal import carbon_chains
from unimol_scale.model.accounting import training_kernels, training_traffic_bytes
from unimol_scale.model.presets import preset
from unimol_scale.objectives.base import total_loss
from unimol_scale.objectives.config import ObjectiveConfig, build_objective

NO_KERNEL = {
    "view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze", "detach",
    "as_strided", "alias", "split", "unbind", "reshape", "diagonal", "empty", "empty_like", "new_empty", "is_same_size",
    "unfold", "split_with_sizes", "_reshape_alias", "empty_strided", "new_empty_strided",
}  # fmt: skip


def bytes_of(tensor: Tensor) -> int:
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1  # what is expanded is read once
    return count * tensor.element_size()


class Count(TorchDispatchMode):
    """Counts the operations that are kernels, and what they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels, self.bytes = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        read = {id(x): x for x in tree_leaves((args, kwargs or {})) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        if name not in NO_KERNEL:
            written = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
            self.kernels += 1
            self.bytes += sum(map(bytes_of, [*read.values(), *written]))
        return out


def counted(model_config, molecules, atoms):
    objective = build_objective(ObjectiveConfig(name="denoise"), model_config)
    batch = carbon_chains(MicroBatchShape(molecules=molecules, num_atoms=atoms))
    keys = MoleculeKeys(seed=0, epoch_B=np.zeros(molecules, np.int64), molecule_B=np.arange(molecules))
    sample = objective.corrupt(batch, keys)
    with torch.device("meta"):
        model = objective.build_model(model_config).to(torch.bfloat16)
    moved = _replace(sample, Tensor, lambda tensor: tensor.to("meta"))
    with Count() as count:
        total_loss(model(moved), sample.counts, objective.weights).backward()
    return count


@pytest.mark.parametrize(
    ("size", "molecules", "atoms", "changes"),
    [
        ("84M", 16, 25, {"layers": 1}),
        ("84M", 16, 25, {"layers": 4}),
        ("84M", 4, 60, {"layers": 2}),
        ("84M", 16, 12, {"layers": 2, "checkpoint_every": 1}),
        ("1.1B", 16, 25, {"layers": 2}),
        ("4M", 16, 25, {}),
    ],
)
def test_the_formulas_say_what_the_built_model_does(size, molecules, atoms, changes):
    config = preset(size, **changes)
    count = counted(config, molecules, atoms)
    assert training_kernels(config) == pytest.approx(count.kernels, rel=0.25)
    assert training_traffic_bytes(config, molecules, atoms, 2) == pytest.approx(count.bytes, rel=0.25)
