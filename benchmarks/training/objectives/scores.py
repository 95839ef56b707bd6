"""Evaluates the trained models of the benchmark of objectives on the validation molecules.

Corruptions are those of validation: the same for every model and every seed. Shapes: B molecules, A atoms (padded), D
channels, T atoms of all molecules.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unimol_scale.checkpoints.weights import load_pretrained
from unimol_scale.common.metrics_file import read_metrics, values_by_step
from unimol_scale.common.run_files import METRICS_NAME, SUMMARY_NAME
from unimol_scale.data.dataset import DataConfig, validation_loader
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.objectives.base import Objective, Sample
from unimol_scale.objectives.blend import NO_NOISE, RELATIONS, BlendConfig, BlendObjective
from unimol_scale.objectives.denoise import DenoiseConfig, DenoiseObjective
from unimol_scale.objectives.distill import DistillConfig, DistillObjective, Teacher

BLENDED = BlendConfig().ratio
ALONE = {"path": (1.0, 0.0, 0.0), "edge": (0.0, 1.0, 0.0), "3D": (0.0, 0.0, 1.0)}
# Kinds of input → (ratio, mask_fraction). A mask shows one view of as many pairs as blending does, and nothing of the
# others: the single-view masks of MoleBlend's table 4. A view alone is shown of every pair.
VIEWS: dict[str, tuple[tuple[float, ...], float]] = {
    "blend": (BLENDED, 0.0),
    **{view: (ratio, 0.0) for view, ratio in ALONE.items()},
    **{f"{view} mask": (ratio, 1.0 - shown) for (view, ratio), shown in zip(ALONE.items(), BLENDED, strict=True)},
}
MASKS = tuple(view for view in VIEWS if view.endswith(" mask"))
WHOLE = tuple(view for view in VIEWS if view not in MASKS)
VALID = "valid/loss/"


def blend_config(view: str) -> BlendConfig:
    """Return the settings that show one kind of input and predict the three relations with weight 1, and no noise."""
    ratio, mask_fraction = VIEWS[view]
    weights = {f"{name}_weight": 1.0 for name in RELATIONS}
    return BlendConfig(ratio=ratio, mask_fraction=mask_fraction, noise_weight=0.0, **weights)


def read_run(folder: Path) -> dict[str, Any]:
    """Return what a finished run logged: validation curves by term as [step, value], seconds, parameters.

    If a resumed run has repeated a step, the last result counts.
    """
    summary = json.loads((folder / SUMMARY_NAME).read_text(encoding="utf-8"))
    events = read_metrics(folder / METRICS_NAME).events
    keys = sorted({key for event in events for key in event if key.startswith(VALID)})
    return {
        "curves": {key.removeprefix(VALID): list(map(list, values_by_step(events, key).items())) for key in keys},
        "seconds": summary["seconds"],
        "parameters": summary["parameters"]["total"],
        "diverged": summary["diverged"],
    }


def validation_samples(objective: Objective, data: DataConfig) -> Iterator[Sample]:
    """Yield every micro-batch of validation, all repeats."""
    loader = validation_loader(data, objective.corrupt_at, rank=0, world_size=1)
    for samples in loader.steps(0, data.validation_repeats):
        yield from samples


@torch.no_grad()
def hidden_relations(model: HeadedModel, view: str, data: DataConfig) -> dict[str, float]:
    """Return relation → mean error over the pairs that do not show it, for one kind of input; nats, nats, Å.

    A relation that every pair shows is left out.
    """
    objective = BlendObjective(blend_config(view), model.backbone.config.edges)
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}
    for sample in validation_samples(objective, data):
        for name, value in objective.score(model, sample).items():
            sums[name] = sums.get(name, 0.0) + value.item()
            counts[name] = counts.get(name, 0.0) + sample.counts[name]
    return {name: sums[f"hidden_{name}"] / counts[f"hidden_{name}"] for name in RELATIONS if f"hidden_{name}" in sums}


def relation_matrix(folders: Mapping[str, Path], data: DataConfig) -> dict[str, dict[str, dict[str, float]]]:
    """Return trained on → shown → relation → error; every model sees the whole views, a mask its own kind too."""
    matrix = {}
    for trained, folder in folders.items():
        print(f"objectives: hidden relations, trained on {trained}", flush=True)
        model = load_pretrained(folder)
        kinds = [*WHOLE, *((trained,) if trained in MASKS else ())]
        matrix[trained] = {shown: hidden_relations(model, shown, data) for shown in kinds}
    return matrix


def denoised(folder: Path, data: DataConfig) -> dict[str, dict[str, float]]:
    """Return the denoised ratios of 3D geometries, apart for molecules that hide and that show their features."""
    model = load_pretrained(folder)
    return {
        name: summarise_ratios(denoised_ratios(model, data, hide_features=hide))
        for name, hide in (("hidden", 1.0), ("shown", 0.0))
    }


@torch.no_grad()
def denoised_ratios(model: HeadedModel, data: DataConfig, hide_features: float) -> np.ndarray:
    """Return RMSD(predicted, clean) / RMSD(noised, clean) of every molecule, conformers only, no flat depictions.

    The noised geometry is aligned onto the clean one, the predicted one stands as predicted. A molecule without noise
    (one atom) has no ratio.
    """
    objective = DenoiseObjective(DenoiseConfig(hide_features=hide_features, flat_geometry=0.0))
    ratios = []
    for sample in validation_samples(objective, data):
        noised_BA3, valid_BA = sample.input.coordinates_BA3, sample.input.valid_BA
        predicted_BA3 = model.coordinate_head(model.backbone(sample.input), noised_BA3)
        before_B = root_mean_square(noised_BA3 - sample.clean_BA3, valid_BA)
        after_B = root_mean_square(predicted_BA3 - sample.clean_BA3, valid_BA)
        noisy_B = before_B > NO_NOISE
        ratios.append((after_B[noisy_B] / before_B[noisy_B]).numpy())
    return np.concatenate(ratios)


def root_mean_square(shift_BA3: Tensor, valid_BA: Tensor) -> Tensor:
    """Return the root mean square over each molecule's atoms of how far they are shifted, Å, [B]."""
    squared_BA = shift_BA3.square().sum(-1) * valid_BA
    return (squared_BA.sum(1) / valid_BA.sum(1)).sqrt()


def summarise_ratios(ratios: np.ndarray) -> dict[str, float]:
    """Return median, quartiles, the share below one, and how many there are."""
    low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75]).tolist()
    return {
        "median": median,
        "low": low,
        "high": high,
        "below_one": float((ratios < 1.0).mean()),
        "geometries": len(ratios),
    }


def teacher_baselines(folder: Path, data: DataConfig) -> dict[str, dict[str, float]]:
    """Return variant → what was said of every atom → squared error against the teacher's normalised atoms.

    zero; the mean of all atoms; the mean of all atoms of its element. The means are those of the validation atoms
    themselves, which the student does not know, so they favour the baselines. graph: the means over a molecule's atoms.
    """
    model = load_pretrained(folder)
    config = model.backbone.config
    objective = DistillObjective(DistillConfig(teacher=folder, normalise="layer_norm"), config, config)
    teacher = Teacher(model.backbone, objective.config)
    targets, tokens, molecules, first = [], [], [], 0
    for sample in validation_samples(objective, data):
        answered = teacher(sample)
        valid_BA = sample.input.valid_BA
        targets.append(answered.target_BAD[valid_BA])
        tokens.append(sample.input.token_BA[valid_BA])
        molecules.append(first + valid_BA.nonzero()[:, 0])
        first += len(valid_BA)
    target_TD, token_T, molecule_T = (torch.cat(part) for part in (targets, tokens, molecules))
    said = {
        "zero": torch.zeros_like(target_TD),
        "mean": target_TD.mean(0).expand_as(target_TD),
        "element": group_means(target_TD, token_T.long())[token_T.long()],
    }
    return {
        "node": {name: (said_TD - target_TD).square().mean().item() for name, said_TD in said.items()},
        "graph": {
            name: group_means(said_TD - target_TD, molecule_T).square().mean().item() for name, said_TD in said.items()
        },
    }


def group_means(value_TD: Tensor, group_T: Tensor) -> Tensor:
    """Return the mean of the rows of each group [groups, D]; zero for a number without rows."""
    groups = int(group_T.max()) + 1
    sums = torch.zeros(groups, value_TD.shape[1]).index_add_(0, group_T, value_TD)
    return sums / torch.bincount(group_T, minlength=groups).clamp(min=1).unsqueeze(1)
