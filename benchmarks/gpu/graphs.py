"""Stages that compare ways to start the kernels of a micro-batch: one by one, as a CUDA graph, and torch.compile."""

import time
from collections.abc import Callable

import torch

from benchmarks.gpu.device_speed import ATOMS, WEIGHTS, busy_seconds, make_step, seconds_of
from benchmarks.gpu.numerics import KERNEL_TOLERANCE
from benchmarks.gpu.stage import Findings, StageSettings, relative_error
from benchmarks.training.model_step import build, random_sample
from unimol_scale.data.transfer import to_device
from unimol_scale.engine.graphed_micro_batches import GraphedMicroBatches, capture_on
from unimol_scale.model.fused.launching import has_triton, kernels_switched
from unimol_scale.model.presets import DROPOUTS, ModelConfig, preset
from unimol_scale.objectives.base import total_loss
from unimol_scale.objectives.denoise import DenoiseSample

# Share of a replayed micro-batch in which the device may wait for the host.
MOST_GAP = 0.10
COUNTS = {"token": 31.0, "coordinate": 7.0, "distance": 7.0}


def graphs(settings: StageSettings) -> Findings:
    """Compare graphs with the same kernels started one by one: their numbers, and the gap that the host leaves."""
    findings = Findings()
    _compare_numbers(settings, findings)
    rows = [["size", "pairs", "started", "ms", "device busy", "gap of the host"]]
    for size, molecules in (("84M", 32), ("84M", 320), ("1.1B", 16)):
        config, pairs = preset(size), f"{molecules * (ATOMS + 1) ** 2:,}"
        eager = make_step(config, "ours", "bf16", molecules, settings.device)
        for name, step in (("one by one", eager), ("as a graph", _replayed(config, molecules, settings.device))):
            seconds = seconds_of(step, settings.device)
            gap = max(0.0, 1 - busy_seconds(step) / seconds)
            rows.append([size, pairs, name, f"{1e3 * seconds:.1f}", f"{1 - gap:.0%}", f"{gap:.0%}"])
            if name == "as a graph":
                findings.at_most(f"gap of the host with graphs, {size}, {pairs} pairs", gap, MOST_GAP)
        torch.cuda.empty_cache()
    findings.tables[f"Forward and backward in bf16, {ATOMS} atoms, without and with a CUDA graph"] = rows
    return findings


def _compare_numbers(settings: StageSettings, findings: Findings) -> None:
    """Replay two shapes twice, with dropout, and compare sums and gradients with those of the same kernels."""
    config = preset("0.03M", **dict.fromkeys(DROPOUTS, 0.1)) if settings.quick else preset("84M", layers=2)
    for dtype, tolerance in KERNEL_TOLERANCE.items():
        model = build(("ours", dtype), config, settings.device, 0).train()
        replay = GraphedMicroBatches(model, capture_on(settings.device))
        samples = [_sample(sizes, seed, settings.device) for seed, sizes in enumerate([[26, 11], [9], [20, 26], [11]])]
        for turn in range(2):
            found, gradients = replay(samples, WEIGHTS, COUNTS, torch.manual_seed)
            parameters, total = list(model.parameters()), [torch.zeros_like(p) for p in model.parameters()]
            for slot, sample in enumerate(samples):
                torch.manual_seed(slot)
                sums = model(sample)
                own = torch.autograd.grad(total_loss(sums, COUNTS, WEIGHTS), parameters, allow_unused=True)
                total = [old if new is None else old + new for old, new in zip(total, own, strict=True)]
                error = max(relative_error(found[slot][name], value) for name, value in sums.items())
                findings.at_most(f"sums by graphs, {dtype}, turn {turn}, micro-batch {slot}", error, tolerance)
            flat = torch.cat([g.flatten() for g in gradients if g is not None])
            expected = torch.cat([t.flatten() for t, g in zip(total, gradients, strict=True) if g is not None])
            findings.at_most(f"gradients by graphs, {dtype}, turn {turn}", relative_error(flat, expected), tolerance)
        findings.equal(f"graphs of two shapes, {dtype}", replay.shapes, 2)


def _sample(sizes: list[int], seed: int, device: torch.device) -> DenoiseSample:
    """Return a micro-batch of one of two shapes: molecules of up to 11 atoms, or of more."""
    return to_device(random_sample(sizes, seed).padded(len(sizes), 11 if max(sizes) <= 11 else 27), device)


def _replayed(config: ModelConfig, molecules: int, device: torch.device) -> Callable[[], None]:
    model = build(("ours", "bf16"), config, device, 0).train()
    sample = random_sample([ATOMS] * molecules, seed=0).padded(molecules, ATOMS)
    replay, moved = GraphedMicroBatches(model, capture_on(device)), to_device(sample, device)

    def step() -> None:
        replay([moved], WEIGHTS, sample.counts, torch.manual_seed)

    return step


def compiled(settings: StageSettings) -> Findings:
    """Compare torch.compile of torch's operations with Triton's kernels, and with neither; nothing else uses it."""
    findings = Findings()
    config, molecules = preset("84M"), 320
    rows = [["who computes", "ms", "device busy", "s to compile"]]
    for name, fused, compiles in (("Triton", True, False), ("torch", False, False), ("torch.compile", False, True)):
        if fused and not has_triton():
            continue
        with kernels_switched(fused):
            step = make_step(config, "ours", "bf16", molecules, settings.device, compiles=compiles)
            begun = time.monotonic()
            step()
            torch.cuda.synchronize(settings.device)
            first = time.monotonic() - begun
            seconds = seconds_of(step, settings.device)
            busy = f"{busy_seconds(step) / seconds:.0%}"
        rows.append([name, f"{1e3 * seconds:.1f}", busy, f"{first:.0f}" if compiles else "-"])
        torch.cuda.empty_cache()
    findings.tables[f"84M, {molecules * (ATOMS + 1) ** 2:,} pairs, bf16"] = rows
    findings.equal("rows", len(rows), 4 if has_triton() else 3)
    return findings
