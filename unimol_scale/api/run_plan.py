"""``plan``: estimates what a pretraining run needs, as numbers and as printable text. Imports torch."""

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
    """A plan with its numbers as attributes; ``str`` of it is what the command prints.

    Numbers are in bytes, FLOPs and seconds unless ``Plan`` states another unit.

    Attributes:
        screen: the text that the command prints.
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
    """Estimate what a pretraining run needs: memory, micro-batches, FLOPs, days, disk. Nothing is trained.

    Args:
        size: preset of the model, such as "84M".
        gpus: number of GPUs, each running one rank.
        device: kind of GPU, such as "a100" or "h100"; "here": the device of this process.
        data: conformer store; None: the one store under data/.
        atoms: instead of a store: assumed mean number of atoms per molecule.
        config: YAML file with settings of the run; the arguments override it.
        settings: any setting by its dotted key, such as ``{"train.steps": 1000}``.
        more: ``objective`` and ``zero_stage``; ``gpu_memory`` ("80GB"), ``peak_flops`` (FLOP/s), ``mfu`` (the fraction
            of these that is reached) and ``network`` (bytes per second, "25GB") instead of the device's values; or
            groups of settings.

    Returns:
        The plan, in bytes, FLOPs, seconds and days; see ``Plan``.

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
        84M-denoise-seed0: size 84M, objective denoise, 8 ranks, bf16, ZeRO stage 1 (chosen)
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
