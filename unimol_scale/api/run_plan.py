"""``plan``: what a pretraining run would need, as numbers and as the screen that the command prints. Imports torch."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from unimol_scale.api.call_settings import a_call, read_call
from unimol_scale.api.conformer_store import ConformerStore
from unimol_scale.config import Origin, build
from unimol_scale.engine.planning.plan import Plan
from unimol_scale.engine.planning.plan_request import PlanRequest, plan_for
from unimol_scale.engine.planning.plan_text import as_json, render

_SHORT = {"data": "data.path", "objective": "objective.name", "zero_stage": "zero.stage"}
_DEVICES = ("gpu_memory", "peak_flops", "mfu", "network")
_ARGUMENTS = {f"--{name.replace('_', '-')}": name for name in (*_SHORT, *_DEVICES, "size", "gpus", "device", "atoms")}


@dataclass(frozen=True, kw_only=True, repr=False)
class RunPlan(Plan):
    """A plan: its numbers are attributes, ``str`` of it is what the command prints.

    Bytes, FLOPs and seconds are plain numbers of these units; see ``Plan`` for each.

    Attributes:
        screen: text of the command.
        tree: all numbers, warnings and advice as nested dicts, as ``unimol-scale plan --json`` prints them.
    """

    screen: str
    tree: Mapping[str, Any]

    def __str__(self) -> str:
        return self.screen

    def __repr__(self) -> str:
        fits = {True: "fits", False: "does not fit", None: "memory not known"}[self.fit.fits]
        return f"RunPlan({self.size} on {self.world_size} × {self.target.name}: {self.compute.days:.3g} days, {fits})"


def plan(
    size: str,
    *,
    gpus: int = 1,
    device: str = "h100",
    data: str | Path | ConformerStore | None = None,
    atoms: int | None = None,
    config: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    **more: Any,  # noqa: ANN401
) -> RunPlan:
    """Return what a pretraining run would need: memory, micro-batches, FLOPs, days, disk. Nothing is trained.

    Args:
        size: preset of the model, such as "84M".
        gpus: ranks, one for each GPU.
        device: name of the GPUs, such as "a100" or "h100"; "here": the device of this process.
        data: conformer store; None: the one store under data/.
        atoms: instead of a store: mean number of atoms of molecules that are assumed.
        config: YAML file with settings of the run; the arguments win over it.
        settings: any setting by its dotted key, such as ``{"train.steps": 1000}``.
        more: ``objective`` and ``zero_stage``; ``gpu_memory`` ("80GB"), ``peak_flops`` (FLOP/s), ``mfu`` (share of
            them) and ``network`` ("25GB", a second) in place of the device's; or groups of settings.

    Returns:
        The plan. Its parts have the units of ``Plan``: bytes, FLOPs, seconds, days.

    Raises:
        ConfigError: a setting is unknown or wrong, or settings, store and devices do not fit together.
        StoreError: the store is missing or unfinished, or there is no single one under data/.

    Source:
        FLOPs and memory are counted from the model's own dimensions; time is a roofline (Williams et al. 2009) over the
        data sheets of the devices.

    Example:
        >>> import unimol_scale as us
        >>> plan = us.plan("84M", gpus=8, device="a100", atoms=25)
        >>> plan.parameters["total"]
        84116080
        >>> plan.memory.total < plan.target.memory, plan.fit.fits  # bytes of a rank
        (True, True)
        >>> plan.compute.days == plan.tree["compute"]["days"]
        True
        >>> print(plan)  # doctest: +ELLIPSIS
        84M-denoise-seed0: size 84M, objective denoise, 8 ranks, bf16, ZeRO stage 3
        ...
    """
    with a_call(_ARGUMENTS):
        asked = {name: more.pop(name) for name in _DEVICES if more.get(name) is not None}
        devices = {"gpus": gpus, "device": device, "atoms": atoms, **asked}
        request = build(PlanRequest, devices, Origin(name="arguments of plan"))
        short = {**_SHORT, **{name: name for name in _DEVICES}}
        named = {"data": data.location if isinstance(data, ConformerStore) else data, **more}
        made, run = plan_for(request, size, *read_call(plan, config, short, settings or {}, named))
        values = {field.name: getattr(made, field.name) for field in fields(Plan)}
        return RunPlan(**values, screen=render(made, run), tree=as_json(made))
