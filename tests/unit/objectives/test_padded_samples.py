"""Samples padded to a bucket's shape: loss and gradients are those of the sample as it was."""

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.helpers.molecules import random_columns
from tests.helpers.random_keys import keys
from unimol_scale.data.batch import collate
from unimol_scale.data.steps.buckets import Buckets
from unimol_scale.errors import ConfigError
from unimol_scale.model.backbone import TwoTrackBackbone
from unimol_scale.model.fused.launching import has_triton, kernels_switched
from unimol_scale.model.presets import preset
from unimol_scale.objectives.base import Objective, corruption_of, total_loss
from unimol_scale.objectives.blend import BlendConfig
from unimol_scale.objectives.config import ObjectiveConfig, build_objective
from unimol_scale.objectives.denoise import DenoiseConfig
from unimol_scale.objectives.distill import DistillConfig, Teacher
from unimol_scale.objectives.mixture import MixtureObjective

SIZES = [9, 4, 14, 1, 2, 12, 3, 5, 6]
BUCKETS = Buckets(max_pairs=10**6)
CASES = {
    "denoise": ObjectiveConfig(name="denoise"),
    "noise": ObjectiveConfig(name="denoise", denoise=DenoiseConfig(predict="noise", noise_std_of={"dft": 0.1})),
    "few tokens": ObjectiveConfig(name="denoise", denoise=DenoiseConfig(mask_fraction=0.01)),
    "blend": ObjectiveConfig(name="blend"),
    "blend of bonds": ObjectiveConfig(name="blend", blend=BlendConfig(distance_loss="smooth_l1")),
    "distill": ObjectiveConfig(name="distill", distill=DistillConfig(teacher=Path("made up"))),
}


def parts_of(case: str) -> tuple[Objective, torch.nn.Module, object]:
    """Objective, model and what completes a sample."""
    changes = {"blend": {"edges": "path"}, "distill": {"geometry": False}}.get(case, {})
    config, teacher = preset("0.03M", **changes), preset("0.03M") if case == "distill" else None
    objective = build_objective(CASES[case], config, teacher=teacher)
    torch.manual_seed(0)
    model = objective.build_model(config)
    with torch.no_grad():
        for parameter in model.parameters():  # branches that start at zero would hide errors
            parameter.add_(0.05 * torch.randn_like(parameter))
    complete = Teacher(TwoTrackBackbone(teacher), CASES[case].distill) if teacher else lambda sample: sample
    return objective, model, complete


def scored(objective, model, complete, sample):
    sums = model(complete(sample))
    loss = total_loss(sums, sample.counts, objective.weights)
    return sums, torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)


@pytest.mark.parametrize("kernels", ["torch", "C", "Triton"])
@pytest.mark.parametrize("case", CASES)
def test_padding_changes_neither_sums_nor_gradients(case, kernels, monkeypatch):
    if kernels == "Triton" and not (has_triton() and case == "denoise"):
        pytest.skip("Triton's interpreter is slow, and its kernels compute the layers of all objectives alike")
    monkeypatch.setenv("UNIMOL_SCALE_KERNELS", "torch" if kernels == "torch" else "auto")
    objective, model, complete = parts_of(case)
    sizes = [3, 1] if kernels == "Triton" else SIZES
    batch, names = collate(random_columns(sizes)), keys(range(len(sizes)))
    plain = corruption_of(objective, model.backbone.config)(batch, names, 0)
    molecules, atoms = len(sizes) + 1, 5 if kernels == "Triton" else 15
    padded = plain.padded(molecules, atoms)
    assert padded.input.token_BA.shape == (molecules, atoms)
    assert padded.counts == plain.counts
    assert torch.equal(padded.molecule_B, plain.molecule_B)
    with kernels_switched(kernels == "Triton"):
        (sums, gradients), (expected, right) = (scored(objective, model, complete, s) for s in (padded, plain))
    for name, value in sums.items():
        assert value.item() == pytest.approx(expected[name].item(), rel=1e-5, abs=1e-5)
    for gradient, one in zip(gradients, right, strict=True):
        assert (gradient is None) == (one is None)
        if gradient is not None:
            assert torch.isfinite(gradient).all()
            torch.testing.assert_close(gradient, one, rtol=1e-4, atol=1e-5 * float(one.abs().max()) + 1e-7)


def test_loaders_pad_to_the_buckets_shape_and_masked_tokens_to_a_quarter():
    objective, model, _ = parts_of("denoise")
    batch, names = collate(random_columns(SIZES)), keys(range(len(SIZES)))
    sample = corruption_of(objective, model.backbone.config, BUCKETS)(batch, names, 0)
    assert sample.input.token_BA.shape == BUCKETS.shape(len(SIZES), max(SIZES)) == (9, 15)
    assert sample.masked_M.shape == sample.counted_M.shape == (34,)
    assert sample.counted_M.sum() == sample.masked_BA.sum() == sample.counts["token"]


def test_a_part_of_a_mixture_is_padded_like_the_objective_itself():
    alone, model, _ = parts_of("denoise")
    mixture = MixtureObjective({"denoise": alone}, {"denoise": 1.0}, seed=0)
    sample = corruption_of(mixture, model.backbone.config, BUCKETS)(collate(random_columns([5, 4])), keys(range(2)), 0)
    assert sample.part == "denoise"
    assert sample.input.token_BA.shape == (2, 7)


def test_what_depends_on_padding_is_refused():
    objective, model, _ = parts_of("denoise")
    padded = dataclasses.replace(model.backbone.config, normalize_by="padded")
    with pytest.raises(ConfigError, match=r"normalize_by=padded depends; set data\.buckets=false"):
        corruption_of(objective, padded, BUCKETS)
    objective.takes_empty_molecules = False
    with pytest.raises(ConfigError, match="DenoiseObjective does not say that it takes them"):
        corruption_of(objective, model.backbone.config, BUCKETS)
