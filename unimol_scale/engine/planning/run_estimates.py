"""Estimates what runs would take from their settings, for callers that plan many runs, such as a ladder."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unimol_scale.common.trees import merge
from unimol_scale.config import COMMAND_LINE, Origin, to_yaml
from unimol_scale.engine.objective_setup import with_teacher_named
from unimol_scale.engine.planning.accelerators import Target, named_target, target_here
from unimol_scale.engine.planning.plan import Plan
from unimol_scale.engine.planning.plan_text import NO_STORE, plan_of
from unimol_scale.engine.run.run_config import PretrainConfig, resolve
from unimol_scale.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RunEstimate:
    """The estimated cost of a run.

    Attributes:
        seconds: of training steps.
        disk_bytes: peak size of the run's folder.
        device: device that was planned for.
    """

    seconds: float
    disk_bytes: int
    device: str


class RunEstimates:
    """Estimates runs. Runs that differ only in length, seed and trunk are planned once.

    Args:
        device: name of a device; None: the device of this machine.
        atoms: mean number of atoms of a molecule, assumed while there is no store; None: that of the store.

    Raises:
        ConfigError: no device has that name, or molecules have no atoms.
    """

    def __init__(self, device: str | None, atoms: int | None = None) -> None:
        if atoms is not None and atoms < 1:
            raise ConfigError(f"--atoms must be at least 1, got {atoms}")
        if device is not None:
            named_target(device, "bf16")  # fail now rather than for every run
        self._device, self._atoms = device, atoms
        self._targets: dict[str, Target] = {}
        self._plans: dict[tuple[str, int], Plan] = {}

    def __call__(self, size: str, settings: Mapping[str, Any], ranks: int) -> RunEstimate:
        """Estimate one run.

        Args:
            size: preset of the model.
            settings: settings that it would be started with, as a tree.
            ranks: number of ranks.

        Raises:
            UnimolScaleError: the run would be refused, or its store is missing.
        """
        if self._atoms is not None:
            settings = merge(settings, {"data": {"path": NO_STORE}})
        config = with_teacher_named(resolve(size, settings, Origin(name=COMMAND_LINE)))
        plan = self._plan(config, ranks)
        seconds = plan.time.seconds * config.own_steps
        disk = plan.disk_bytes + plan.checkpoint_bytes * len(config.train.keep_steps)
        return RunEstimate(seconds=seconds, disk_bytes=disk, device=plan.target.name)

    def _plan(self, config: PretrainConfig, ranks: int) -> Plan:
        train = replace(config.train, steps=1, warmup_steps=0, keep_steps=(), schedule="linear")
        alike = replace(config, output=Path("run"), seed=0, branch_from=None, train=train)
        key = (to_yaml(alike), ranks)
        if key not in self._plans:
            self._plans[key] = plan_of(alike, ranks, self._target(config.train.precision, ranks), self._atoms)
        return self._plans[key]

    def _target(self, precision: str, ranks: int) -> Target:
        if self._device is not None:
            return named_target(self._device, precision)
        if precision not in self._targets:
            self._targets[precision] = target_here(precision)
        here = self._targets[precision]
        if here.is_gpu:
            return here
        # The ranks will share the cores and memory that this process now has to itself.
        memory = None if here.memory is None else here.memory / ranks
        return replace(here, memory=memory, peak_flops=here.peak_flops / ranks, matmul_flops=here.matmul_flops / ranks)
