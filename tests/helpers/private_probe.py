"""Looks at DeepSpeed's engines as they are: ``python -m tests.helpers.private_probe FOLDER`` writes FOLDER/found.json.

Owner of attributes → name → what is wrong with it, or null. In a process of its own, which joins ranks once.
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.helpers.zero_script import build
from unimol_scale.engine.parallel.ranks import leave_ranks, start_ranks

Check = tuple[str, Callable[[Any], bool]]
CALLABLE: Check = ("something to call", callable)
DICT: Check = ("a dict", lambda value: isinstance(value, dict))
FLAG: Check = ("true or false", lambda value: isinstance(value, bool))
NUMBER: Check = ("a whole number", lambda value: isinstance(value, int))
TENSOR: Check = ("a tensor", lambda value: isinstance(value, Tensor))
TENSORS: Check = ("a list of tensors", lambda value: value and all(isinstance(flat, Tensor) for flat in value))
GROUPS: Check = ("a list of lists of tensors", lambda value: value and all(TENSORS[1](list(group)) for group in value))


def look(owner: object, checks: Mapping[str, Check]) -> dict[str, str | None]:
    """Say of each attribute what is wrong with it."""
    found: dict[str, str | None] = {}
    for name, (wanted, is_right) in checks.items():
        if not hasattr(owner, name):
            found[name] = f"{type(owner).__name__} has no attribute {name!r} any more"
        elif not is_right(getattr(owner, name)):
            found[name] = f"{type(owner).__name__}.{name} is not {wanted} but {getattr(owner, name)!r}"[:300]
        else:
            found[name] = None
    return found


def stages(folder: Path) -> dict[str, dict[str, str | None]]:
    """Build the engine of every stage and look at it."""
    ranks = start_ranks()
    import deepspeed
    from deepspeed.ops.op_builder.all_ops import ALL_OPS

    shared_memory = ("a dict of operators", lambda value: set(ALL_OPS) <= set(value))
    models = {stage: build(folder, stage, "bf16", ranks) for stage in (0, 2, 3)}
    engines = {stage: model._engine for stage, model in models.items()}
    found = {"engine": look(engines[2], {"basic_optimizer": ("AdamW", lambda x: isinstance(x, torch.optim.AdamW))})}
    found["deepspeed.ops"] = look(deepspeed.ops, {"__compatible_ops__": shared_memory})
    if "deepspeed_shm_comm" not in ALL_OPS:
        found["deepspeed.ops"]["__compatible_ops__"] = "DeepSpeed has no operator 'deepspeed_shm_comm' any more"
    muon = "deepspeed.runtime.zero.muon.muon_optimizer"
    found[muon] = look(sys.modules.get(muon), {"MuonWithAuxAdam": ("a class", lambda value: isinstance(value, type))})
    if "torch._inductor.compile_fx" in sys.modules:
        found[muon]["MuonWithAuxAdam"] = "DeepSpeed loads torch's compiler although its Muon was imported before"
    found["optimizer of stage 0 in bf16"] = look(engines[0].optimizer, {"fp16_groups": GROUPS, "fp32_groups": GROUPS})
    found["optimizer of stages 1 and 2"] = look(
        engines[2].optimizer,
        {
            **dict.fromkeys(("averaged_gradients", "all_grad_tensors"), DICT),
            **{"micro_step_id": NUMBER, "cpu_offload": FLAG},
            **dict.fromkeys(("_release_preflattened_grad_buffers", "reset_cpu_buffers", "update_lp_params"), CALLABLE),
        },
    )
    found["parameter at stages 1 and 2"] = parameter(next(models[2].module.parameters()))
    optimizer = engines[3].optimizer
    calls = ("reset_cpu_buffers", "_partition_all_parameters", "_reassign_or_swap_out_partitioned_parameters")
    found["optimizer of stage 3"] = look(
        optimizer,
        {
            "averaged_gradients": DICT,
            "grad_partitions_flat_buffer": TENSOR,
            "offload_optimizer": FLAG,
            "fp32_partitioned_groups_flat": TENSORS,
            "persistent_parameters": ("parameters that gather", lambda value: callable(value[0].all_gather)),
            "get_param_id": CALLABLE,
            "sub_group_to_group_id": DICT,
            "grad_position": ("three numbers a parameter", lambda value: len(next(iter(value.values()))) == 3),
            **dict.fromkeys(calls, CALLABLE),
        },
    )
    leave_ranks()
    return found


def parameter(weight: object) -> dict[str, str | None]:
    """Look at what DeepSpeed hangs on a parameter."""
    found = look(weight, {"_hp_mapping": ("the place of a parameter", lambda value: value is not None)})
    run = ("a run of elements", lambda value: isinstance(value.start, int) and isinstance(value.numel, int))
    checks = {"lp_fragment_address": run, "hp_fragment_address": run, "param_group_index": NUMBER}
    return found | look(getattr(weight, "_hp_mapping", None), checks)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    (place / "found.json").write_text(json.dumps(stages(place)))
