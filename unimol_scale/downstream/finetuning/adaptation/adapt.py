"""Prepares a backbone for training only a part of its weights."""

import torch

from unimol_scale.downstream.finetuning.adaptation.freezing import freeze_below
from unimol_scale.downstream.finetuning.adaptation.lora import add_adapters
from unimol_scale.downstream.trained_parts import TrainedParts
from unimol_scale.model.backbone import TwoTrackBackbone


def adapt(backbone: TwoTrackBackbone, parts: TrainedParts, seed: int) -> None:
    """Freeze the weights that are not trained, and add LoRA adapters if there are any.

    Args:
        backbone: the backbone; changed in place.
        parts: which weights are trained.
        seed: seed of the adapters; torch's random state is not changed.
    """
    if parts.probe is not None:
        backbone.requires_grad_(False)
    elif parts.lora_rank:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            add_adapters(backbone, parts.lora_targets, parts.lora_rank, parts.lora_alpha, parts.trained_layers)
    elif parts.trained_layers is not None:
        freeze_below(backbone, parts.trained_layers)
