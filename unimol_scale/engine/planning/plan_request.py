"""A request for a plan: model size, settings, and devices by name. Used by the command ``plan`` and from Python."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unimol_scale.common.trees import merge
from unimol_scale.config import Origin
from unimol_scale.engine.objective_setup import with_teacher_named
from unimol_scale.engine.planning.accelerators import named_target, parse_bytes, target_here, with_given
from unimol_scale.engine.planning.plan import Plan
from unimol_scale.engine.planning.plan_text import NO_STORE, plan_of
from unimol_scale.engine.run.run_config import PretrainConfig, resolve
from unimol_scale.errors import ConfigError, StoreError

THIS_MACHINE = "here"


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """The devices to plan for, and the molecules if there is no store.

    Attributes:
        gpus: number of ranks, one per GPU.
        device: name of the GPUs; "here" means the device of this process.
        gpu_memory: memory such as "80GB", instead of the device's.
        peak_flops: FLOP/s of a GPU, instead of the device's.
        mfu: fraction of the peak that is reached; None: estimated.
        network: data size per second from each GPU to other machines.
        atoms: mean size of the assumed molecules; None: use those of the store.
    """

    gpus: int
    device: str = "h100"
    gpu_memory: str | None = None
    peak_flops: float | None = None
    mfu: float | None = None
    network: str = "25GB"
    atoms: int | None = None

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise ConfigError(f"--gpus must be at least 1, got {self.gpus}")
        if self.atoms is not None and self.atoms < 1:
            raise ConfigError(f"--atoms must be at least 1, got {self.atoms}")


def plan_for(request: PlanRequest, size: str, chosen: Mapping[str, Any], origin: Origin) -> tuple[Plan, PretrainConfig]:
    """Return the plan of a run and the run's settings.

    Args:
        request: the devices.
        size: preset of the model.
        chosen: settings; see ``resolve``.
        origin: where the settings came from, for messages.

    Raises:
        StoreError: the store is missing or unfinished, or there is none or more than one.
        ConfigError: settings, store, ranks and devices do not fit together.
        CheckpointError: a teacher is missing.
    """
    if request.atoms is not None:
        if "data.path" in origin.given:
            raise ConfigError("give either --data, to use the molecules of a store, or --atoms, to assume a size")
        chosen = merge(chosen, {"data": {"path": NO_STORE}})
    try:
        config = with_teacher_named(resolve(size, chosen, origin))
    except StoreError as error:
        raise StoreError(f"{error}; without a store, --atoms 25 assumes molecules of that size") from error
    precision = config.train.precision
    target = with_given(
        target_here(precision) if request.device == THIS_MACHINE else named_target(request.device, precision),
        memory=None if request.gpu_memory is None else parse_bytes(request.gpu_memory),
        peak_flops=request.peak_flops,
        mfu=request.mfu,
        network=parse_bytes(request.network, "--network"),
    )
    return plan_of(config, request.gpus, target, request.atoms), config
