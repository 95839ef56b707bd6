"""Stages that measure the device: its peak, waits of the host, speed of the sizes, and memory of a micro-batch."""

import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.stage import Findings, StageSettings
from benchmarks.training.model_step import build, random_sample
from unimol_scale.data.transfer import to_device
from unimol_scale.engine.log.throughput import copy_bandwidth, matmul_peak
from unimol_scale.engine.planning.accelerators import Target, target_here
from unimol_scale.engine.planning.roofline import micro_batch_time
from unimol_scale.model.accounting import DENOISE_HEADS, activation_bytes, count_parameters, training_flops
from unimol_scale.model.fused.launching import has_triton, kernels_switched
from unimol_scale.model.presets import ModelConfig, preset
from unimol_scale.objectives.base import total_loss
from unimol_scale.objectives.denoise import DenoiseConfig, DenoiseObjective

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
ATOMS = 25
REPEATS = 5
TOP_KERNELS = 12
# Relative deviation allowed between the measured peak and the accounting.
MEMORY_TOLERANCE = 0.05
# And between the measured time of a micro-batch and the planner's.
TIME_TOLERANCE = 0.2
GIB = 2**30
WEIGHTS = DenoiseObjective(DenoiseConfig()).weights


def peak(settings: StageSettings) -> Findings:
    """The peak rates to which all other rates are related."""
    findings = Findings()
    rows = [["what", "rate"]]
    for name, dtype in DTYPES.items():
        rows.append([f"matrix product, {name}", f"{matmul_peak(settings.device, dtype) / 1e12:.2f} TFLOP/s"])
    rows.append(["copy, bytes read and written", f"{copy_bandwidth(settings.device) / 1e12:.3f} TB/s"])
    findings.tables["Peak of the device"] = rows
    findings.notes.append(f"{_name(settings.device)}, torch {torch.__version__}")
    return findings


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def make_step(
    config: ModelConfig, formulation: str, dtype: str, molecules: int, device: torch.device, *, compiles: bool = False
) -> Callable[[], None]:
    """Return a function that does forward and backward of one micro-batch; it does not wait for the device."""
    model = build((formulation, dtype), config, device, 0).train()
    if compiles:
        model.compile()
    sample = to_device(random_sample([ATOMS] * molecules, seed=0), device)
    parameters = list(model.parameters())

    def step() -> None:
        loss = total_loss(model(sample), sample.counts, WEIGHTS)
        torch.autograd.grad(loss, parameters, allow_unused=True)

    return step


def seconds_of(step: Callable[[], None], device: torch.device) -> float:
    """Return the seconds of a step, median of a few after two of warm-up."""
    times = []
    for _ in range(REPEATS + 2):
        begun = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begun)
    return statistics.median(times[2:])


def speed(settings: StageSettings) -> Findings:
    """Speed for sizes and micro-batches, with Triton's kernels, with torch's, and of the textbook formulation."""
    findings = Findings()
    dtype = "fp32" if settings.quick else "bf16"
    plan = {"0.03M": (4,)} if settings.quick else {"84M": (32, 128, 320), "310M": (32, 128, 256), "1.1B": (8, 32, 64)}
    rows = [["size", "pairs", "who computes", "ms", "predicted", "molecules/s", "MFU", "device busy"]]
    target = target_here(dtype)
    for size, counts in plan.items():
        config = preset(size)
        for molecules in counts:
            for who, formulation, fused in _formulations(settings, size):
                numbers = _measure(config, formulation, fused, dtype, molecules, settings.device, target)
                rows.append([size, f"{molecules * (ATOMS + 1) ** 2:,}", who, *numbers])
                if settings.cuda and fused and molecules == max(counts) and numbers[0] != "out of memory":
                    error = abs(float(numbers[0]) / float(numbers[1]) - 1)
                    findings.at_most(f"{size}, {molecules} molecules: off the prediction by", error, TIME_TOLERANCE)
            if settings.cuda:
                torch.cuda.empty_cache()
    findings.tables[f"Forward and backward, {dtype}, dropout as the sizes have it, {ATOMS} atoms"] = rows
    if settings.cuda:
        findings.tables["Kernels that take most of the time, 84M, 320 molecules"] = _top_kernels(settings.device)
    findings.equal("every row has a time", all(row[3] != "nan" for row in rows), True)
    return findings


def _formulations(settings: StageSettings, size: str) -> list[tuple[str, str, bool]]:
    found = [("torch", "ours", False)]
    if settings.cuda and has_triton():
        found.insert(0, ("Triton", "ours", True))
    if size in ("84M", "0.03M"):  # the textbook model of larger sizes does not fit
        found.append(("textbook", "textbook", False))
    return found


def _measure(
    config: ModelConfig, formulation: str, fused: bool, dtype: str, molecules: int, device: torch.device, target: Target
) -> list[str]:
    flops, predicted = molecules * training_flops(config, ATOMS), "-"
    if formulation == "ours":
        time_of = micro_batch_time(config, DENOISE_HEADS, flops, molecules, ATOMS, target, precision=dtype, fused=fused)
        predicted = f"{1e3 * time_of.seconds:.1f}"
    with kernels_switched(fused):
        try:
            step = make_step(config, formulation, "fp32" if formulation == "textbook" else dtype, molecules, device)
            seconds = seconds_of(step, device)
            busy = f"{busy_seconds(step) / seconds:.0%}" if device.type == "cuda" else "-"
        except torch.OutOfMemoryError:
            return ["out of memory", predicted, "-", "-", "-"]
    mfu = flops / seconds / target.matmul_flops
    return [f"{1e3 * seconds:.1f}", predicted, f"{molecules / seconds:.1f}", f"{mfu:.1%}", busy]


def busy_seconds(step: Callable[[], None]) -> float:
    """Return how long the device computes in a step; the rest of the step it waits for the host."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        step()
        torch.cuda.synchronize()
    return sum(event.self_device_time_total for event in profiler.key_averages()) / 1e6


def _top_kernels(device: torch.device) -> list[list[str]]:
    with kernels_switched(has_triton()):
        step = make_step(preset("84M"), "ours", "bf16", 320, device)
        step()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            step()
            torch.cuda.synchronize(device)
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_device_time_total)
    total = sum(event.self_device_time_total for event in events)
    rows = [["kernel", "calls", "ms", "share"]]
    for event in events[:TOP_KERNELS]:
        took = event.self_device_time_total
        rows.append([event.key[:70], str(event.count), f"{took / 1e3:.2f}", f"{took / total:.1%}"])
    return rows


def syncs(settings: StageSettings) -> Findings:
    """Where the host waits for the device in the forward and backward pass of a micro-batch."""
    findings = Findings()
    step = make_step(preset("0.03M"), "ours", "fp32", 2, settings.device)
    step()
    if not settings.cuda:
        findings.notes.append("A CPU is not waited for; tests/integration/test_fake_device.py lists the waits.")
        return findings
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        step()
        torch.cuda.set_sync_debug_mode("default")
    places = sorted({f"{warning.filename.rsplit('/', 1)[-1]}:{warning.lineno}" for warning in caught})
    findings.tables["Waits of the host"] = [["place"], *([place] for place in places)]
    # The masked atoms are found by a mask: their number decides how large the next tensor is.
    findings.at_most("places in a micro-batch where the host waits", len(places), 2)
    return findings


def memory(settings: StageSettings) -> Findings:
    """Peak memory of a micro-batch, compared with the planner's estimate."""
    findings = Findings()
    if not settings.cuda:
        findings.notes.append("Memory on a CPU is held by tests/unit/model/test_memory.py.")
        return findings
    config = preset("84M", dropout=0.0, attention_dropout=0.0, triangle_dropout=0.0)
    for molecules in (64, 192):
        step = make_step(config, "ours", "bf16", molecules, settings.device)
        with kernels_switched(False):
            step()
            before = torch.cuda.memory_allocated(settings.device)
            torch.cuda.reset_peak_memory_stats(settings.device)
            step()
        gradients = 2 * count_parameters(config).total  # made in the step, and not part of the estimate
        found = torch.cuda.max_memory_allocated(settings.device) - before - gradients
        expected = activation_bytes(config, molecules, ATOMS, 2, mask_bytes=1)
        findings.notes.append(f"{molecules} molecules: {found / GIB:.2f} GiB, counted {expected / GIB:.2f} GiB")
        findings.at_most(
            f"memory of {molecules} molecules, off the count by", abs(found / expected - 1), MEMORY_TOLERANCE
        )
    return findings
