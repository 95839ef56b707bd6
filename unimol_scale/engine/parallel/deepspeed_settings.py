"""Makes the DeepSpeed settings of a run from its configuration and a file of the user.

A setting that the configuration determines has one source, so the file may repeat it but not change it. Settings that
would prevent saving and resuming a run exactly are refused here, before anything is built.
"""

import json
import sys
from collections.abc import Mapping
from typing import Any

from unimol_scale.common.text.json_files import NotJsonError, read_json
from unimol_scale.common.trees import flatten, merge
from unimol_scale.engine.run.run_config import PretrainConfig
from unimol_scale.engine.run.train_config import TrainConfig
from unimol_scale.errors import ConfigError

_OFFLOAD_OPTIMIZER = "zero_optimization.offload_optimizer.device"
_OFFLOAD_PARAM = "zero_optimization.offload_param.device"
# Dotted key → (allowed values, why no other).
_ALLOWED: dict[str, tuple[tuple[Any, ...], str]] = {
    "fp16.enabled": ((False,), "train.precision is bf16 or fp32"),
    "torch_autocast.enabled": ((False,), "train.precision is bf16 or fp32"),
    "bf16.bf16_master_weights_and_grads": ((False,), "the master weights are fp32"),
    "bf16.bf16_optimizer_states": ((False,), "the optimizer states are fp32"),
    "bf16.check_grad_overflow": ((True,), "a gradient that is not finite must not move the weights"),
    "zero_optimization.compute_grad_norm": ((True,), "a gradient that is not finite must not move the weights"),
    _OFFLOAD_OPTIMIZER: (("none", "cpu"), "a run resumed from NVMe would be silently wrong"),
    _OFFLOAD_PARAM: (("none", "cpu"), "a run resumed from NVMe would be silently wrong"),
    "zero_optimization.offload_optimizer.ratio": ((1, 1.0), "part of the optimizer states would not be saved"),
    "zero_optimization.offload_optimizer.super_offload": ((False,), "its states cannot be saved by parameter"),
    "zero_optimization.round_robin_gradients": ((False,), "it reorders the states, which are saved by parameter"),
    "zero_optimization.zero_hpz_partition_size": ((1,), "weights are shared among all ranks"),
    "zero_optimization.mics_shard_size": ((-1,), "weights are shared among all ranks"),
}
_REFUSED_SECTIONS = {
    "scheduler.": "train.schedule decides the learning rate",
    "zero_optimization.zenflow.": "its states cannot be saved by parameter",
}
# Defaults that we set unless the file does.
_DEFAULTS = frozenset(
    f"zero_optimization.{key}" for key in ("contiguous_gradients", "overlap_comm", "memory_efficient_linear")
) | {"steps_per_print"}


def deepspeed_settings(config: PretrainConfig, *, cuda: bool) -> dict[str, Any]:
    """Return the DeepSpeed configuration of a run.

    Raises:
        ConfigError: the file of additional settings is missing, is not JSON, contradicts the run's configuration, or
            contains a setting that would prevent an exact resume.
    """
    train = config.train
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,  # unused: micro-batches vary, and every loss is divided by global counts
        "gradient_accumulation_steps": 1,
        "gradient_clipping": train.gradient_clip,
        "steps_per_print": sys.maxsize,
        "bf16": {"enabled": train.precision == "bf16"},
        "zero_optimization": {
            "stage": config.zero.stage_used,
            "contiguous_gradients": True,
            "overlap_comm": cuda,
            # DeepSpeed's own linear layer saves no memory here and makes a CPU step of a small model twice as slow.
            "memory_efficient_linear": False,
        },
        **_optimizer(train),
    }
    path = config.zero.config
    if path is None:
        return settings
    try:
        extra = read_json(path)
    except OSError as error:
        raise ConfigError(f"zero.config: {path} cannot be read: {error.strerror}") from error
    except NotJsonError as error:
        raise ConfigError(f"zero.config: {path} {error}") from error
    ours, theirs = flatten(settings), flatten(extra)
    for key, value in theirs.items():
        if key in ours and key not in _DEFAULTS and value != ours[key]:
            raise ConfigError(
                f"zero.config: {path} sets {key} to {json.dumps(value)}, but this run's own settings make it "
                f"{json.dumps(ours[key])}; change train.* or zero.stage, and remove it from the file"
            )
        allowed, reason = _ALLOWED.get(key, ((value,), ""))
        if value not in allowed:
            raise ConfigError(
                f"zero.config: {path} sets {key} to {json.dumps(value)}; "
                f"allowed: {', '.join(json.dumps(choice) for choice in allowed)}, because {reason}"
            )
    # AdamW's settings are compared above.
    muon = {"optimizer.": "train.optimizer=muon sets the optimizer"} if train.optimizer == "muon" else {}
    for section, reason in {**_REFUSED_SECTIONS, **muon}.items():
        if any(key.startswith(section) for key in theirs):
            raise ConfigError(f"zero.config: {path} has {section[:-1]}, which cannot be used: {reason}")
    _check_stage(config.zero.stage_used, theirs, f"zero.config: {path}")
    return merge(settings, extra)


def _optimizer(train: TrainConfig) -> dict[str, Any]:
    if train.optimizer == "muon":
        # We pass an optimizer of our own (muon.py), so DeepSpeed must be told that this is intended, also with
        # offloading.
        return {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}
    params = {
        "lr": train.learning_rate,
        "betas": [train.beta1, train.beta2],
        "weight_decay": train.weight_decay,
        # torch's fused step needs no compiler, on CPU or GPU; DeepSpeed's own is built at its first use.
        "torch_adam": True,
        "fused": True,
    }
    return {"optimizer": {"type": "AdamW", "params": params}}


def _check_stage(stage: int, theirs: Mapping[str, Any], where: str) -> None:
    """Raise if the file needs another ZeRO stage than the run has."""
    needs = {_OFFLOAD_OPTIMIZER: (1, 2, 3), _OFFLOAD_PARAM: (3,)}
    for key, stages in needs.items():
        if theirs.get(key, "none") != "none" and stage not in stages:
            raise ConfigError(
                f"{where} sets {key}, which needs zero.stage {' or '.join(map(str, stages))}, not {stage}"
            )
    accumulation = theirs.get("data_types.grad_accum_dtype")
    if stage == 0 and accumulation is not None:
        raise ConfigError(f"{where} sets data_types.grad_accum_dtype, which needs zero.stage 1, 2 or 3")
