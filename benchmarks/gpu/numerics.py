"""Stages that compare numbers: with the textbook model, with the CPU, and Triton's kernels with torch's."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.gpu.stage import Findings, StageSettings, relative_error
from benchmarks.training.model_step import build, random_sample
from unimol_scale.data.steps.random_streams import MoleculeKeys
from unimol_scale.engine.optimizer_step import sample_completer
from unimol_scale.engine.planning.rank_memory import MicroBatchShape
from unimol_scale.engine.planning.rehearsal import carbon_chains
from unimol_scale.model.backbone import TwoTrackBackbone
from unimol_scale.model.fused.launching import has_triton, kernels_switched
from unimol_scale.model.presets import ModelConfig, preset
from unimol_scale.objectives.base import Sample
from unimol_scale.objectives.config import ObjectiveConfig, build_objective
from unimol_scale.objectives.denoise import DenoiseSample
from unimol_scale.objectives.distill import DistillConfig, Teacher

NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "triangle_dropout": 0.0}
# Relative deviation of losses and gradient norms from those of the CPU in fp32.
TOLERANCE = {"fp32": 2e-5, "bf16": 3e-2}
GRADIENT_TOLERANCE = {"fp32": 2e-4, "bf16": 6e-2}
# Relative difference of all gradients between Triton's kernels and torch's.
KERNEL_TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}
TRUTH = ("textbook", "fp32")


def _moved(sample: DenoiseSample, device: torch.device) -> DenoiseSample:
    return sample_completer(device, None)(sample)  # type: ignore[return-value]


def losses_and_gradients(model: nn.Module, sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sums of the loss terms, and all gradients in one vector, in fp32."""
    sums = model(sample)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(sum(sums.values()), parameters, allow_unused=True)
    pairs = zip(parameters, gradients, strict=True)
    flat = [(torch.zeros_like(p) if gradient is None else gradient).float().flatten() for p, gradient in pairs]
    return torch.stack([value.detach().float() for value in sums.values()]), torch.cat(flat)


def parity(settings: StageSettings) -> Findings:
    """Compare the model on the device with the textbook formulation, and every objective with its CPU results."""
    findings, cpu = Findings(), torch.device("cpu")
    config = preset("0.1M") if settings.quick else preset("84M", layers=2, **NO_DROPOUT)
    sample = random_sample([3, 26, 11, 19], seed=0)
    losses, gradients = losses_and_gradients(build(TRUTH, config, cpu, 0), sample)
    for dtype in TOLERANCE:
        model = build(("ours", dtype), config, settings.device, 0)
        found, found_gradients = losses_and_gradients(model, _moved(sample, settings.device))
        findings.at_most(f"losses against the textbook model, {dtype}", relative_error(found, losses), TOLERANCE[dtype])
        error = abs(found_gradients.norm().item() / gradients.norm().item() - 1)
        findings.at_most(f"gradient norm against the textbook model, {dtype}", error, GRADIENT_TOLERANCE[dtype])
    for name in ("denoise", "blend", "distill"):
        found, expected = (_of_objective(name, device, settings.quick) for device in (settings.device, cpu))
        findings.at_most(f"losses of {name} against the CPU", relative_error(found[0], expected[0]), TOLERANCE["fp32"])
        error = relative_error(found[1], expected[1])
        findings.at_most(f"gradients of {name} against the CPU", error, GRADIENT_TOLERANCE["fp32"])
    return findings


def _of_objective(name: str, device: torch.device, quick: bool) -> tuple[torch.Tensor, torch.Tensor]:
    config = preset("0.1M") if quick else preset("84M", layers=2, **NO_DROPOUT)
    changes = {"blend": {"edges": "path"}, "distill": {"geometry": False}}.get(name, {})
    teacher_config = preset("0.03M") if name == "distill" else None
    model_config = dataclasses.replace(config, **changes)
    chosen = ObjectiveConfig(name=name, distill=DistillConfig(teacher=Path("made up here")))
    objective = build_objective(chosen, model_config, teacher=teacher_config)
    torch.manual_seed(0)
    model = objective.build_model(model_config).to(device)
    teacher = Teacher(TwoTrackBackbone(teacher_config).to(device), DistillConfig()) if teacher_config else None
    shape = MicroBatchShape(molecules=4, num_atoms=9)
    keys = MoleculeKeys(seed=0, epoch_B=np.zeros(4, np.int64), molecule_B=np.arange(4))
    sample = sample_completer(device, teacher)(objective.corrupt(carbon_chains(shape), keys))
    return losses_and_gradients(model, sample)


def kernels(settings: StageSettings) -> Findings:
    """Compare Triton's kernels with torch's for several sizes of molecules, and check that dropout repeats."""
    findings = Findings()
    if not has_triton():
        findings.notes.append("Triton is not installed: its kernels were not run.")
        return findings
    config = preset("0.03M", layers=1) if settings.quick else preset("84M", layers=2, **NO_DROPOUT)
    batches = {"N even": [3, 2], "N odd": [4, 1]}
    if not settings.quick:
        batches |= {"N = 27": [26, 11], "N = 61": [60]}
    for title, sizes in batches.items():
        sample = _moved(random_sample(sizes, seed=0), settings.device)
        for dtype in ("fp32",) if settings.quick else KERNEL_TOLERANCE:
            model = build(("ours", dtype), config, settings.device, 0)
            results = []
            for on in (False, True):
                with kernels_switched(on):
                    results.append(losses_and_gradients(model, sample))
            for what, expected, found in zip(("losses", "gradients"), *results, strict=True):
                name = f"{what} by Triton's kernels, {title}, {dtype}"
                findings.at_most(name, relative_error(found, expected), KERNEL_TOLERANCE[dtype])
    _check_dropout(config, settings, findings)
    return findings


def _check_dropout(config: ModelConfig, settings: StageSettings, findings: Findings) -> None:
    sample = _moved(random_sample([2] if settings.quick else [26, 11], seed=0), settings.device)
    dropping = dataclasses.replace(config, dropout=0.1, attention_dropout=0.1, triangle_dropout=0.25)
    results = []
    for seed, every in ((0, 0), (0, 1), (1, 0)):
        model = build(("ours", "fp32"), dataclasses.replace(dropping, checkpoint_every=every), settings.device, 0)
        torch.manual_seed(seed)
        with kernels_switched(True):
            results.append(losses_and_gradients(model.train(), sample)[1])
    kept, recomputed, other = results
    findings.at_most("gradients with recomputed dropout", relative_error(recomputed, kept), 1e-5)
    findings.equal("another seed drops something else", relative_error(other, kept) > 1e-3, True)
