"""What somebody asks a plan of: a size, settings, and devices by name. For the command ``plan`` and for Python."""

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
    """The devices that a plan is made for, and the molecules where there is no store.

    Attributes:
        gpus: ranks, one for each GPU.
        device: name of the GPUs; "here": the device of this process.
        gpu_memory: size such as "80GB" instead of the device's.
        peak_flops: FLOP/s of a GPU instead of the device's.
        mfu: share of it that is reached; None: estimated.
        network: size a second of each GPU to other machines.
        atoms: mean size of molecules that are assumed; None: those of the store.
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
    """Return the plan of a run, and the run's settings.

    Args:
        request: for which devices.
        size: preset of the model.
        chosen: settings, see ``resolve``.
        origin: where they came from, for messages.

    Raises:
        StoreError: the store is missing or unfinished, or there is no single one.
        ConfigError: settings, store, ranks and devices do not fit together.
        CheckpointError: a teacher is missing.
    """
    if request.atoms is not None:
        if "data.path" in origin.given:
            raise ConfigError("give either --data, whose molecules are counted, or --atoms, which assumes some")
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
