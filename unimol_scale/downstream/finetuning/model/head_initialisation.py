"""Where a head starts: at the trivial predictor, whatever the backbone gives it.

Pooled vectors have a large offset that all molecules share, beside which they differ little. A random head makes large
outputs of it: first losses were 6.2, 1.7 and 2.0 on standardised labels, by seed [measured]. So the head's norm is set
such that every channel has mean 0 and spread 1 over the training molecules, and the last layer to zero with the labels'
mean as its bias. With the last layer at zero alone, models learnt visibly later [measured]. The head's layers are what
they were, so that models that were saved before load as ever.

Shapes: R rows, B in a micro-batch, L targets, D atom channels.
"""

import numpy as np
import torch
from torch import Tensor

from unimol_scale.data.transfer import to_device
from unimol_scale.downstream.config import Task
from unimol_scale.downstream.data.batches import Labelling, RowReader, once
from unimol_scale.downstream.embedding.pooling import pool
from unimol_scale.downstream.finetuning.model.property_model import PropertyModel
from unimol_scale.store.schema import Float64

ROWS = 1024  # of the training set that are looked at
# Channels that hardly differ are not blown up to the spread of the others.
LEAST_SHARE, LEAST_SPREAD = 0.1, 1e-3


@torch.no_grad()
def start_head(
    model: PropertyModel,
    train: RowReader,
    labelling: Labelling,
    task: Task,
    max_pairs: int | None,
    device: torch.device,
) -> None:
    """Let a model start as the trivial predictor: the mean of the training labels, or their share of ones.

    Args:
        model: on the device; its head is changed in place.
        train: the rows that it will learn from.
        labelling: how rows become samples.
        task: what the labels are; of a regression they are normalised.
        max_pairs: most padded pairs of one micro-batch; None: what suits the device.
        device: to compute on.

    Raises:
        ConfigError: ``max_pairs`` does not hold the largest molecule.
    """
    model.eval()
    parts: list[Tensor] = []
    seen = 0
    for sample in once(train, labelling, max_pairs, device):
        parts.append(model.norm(pool(model.backbone(to_device(sample.input, device)), model.pooling)))
        seen += len(sample.row_B)
        if seen >= ROWS:
            break
    normed_RD = torch.cat(parts)
    spread_D = normed_RD.std(0, correction=0)
    spread_D = torch.maximum(spread_D, LEAST_SHARE * spread_D.square().mean().sqrt()).clamp(min=LEAST_SPREAD)
    model.norm.weight.div_(spread_D)
    model.norm.bias.sub_(normed_RD.mean(0)).div_(spread_D)
    model.out.weight.zero_()
    model.out.bias.zero_()
    if task != "regression":
        model.out.bias.copy_(torch.from_numpy(_base_logits(train.labels_RL)).float())


def _base_logits(labels_RL: Float64) -> Float64:
    """Return the logits of the shares of ones, float64 [L]; those of one class only stay finite."""
    known_RL = ~np.isnan(labels_RL)
    ones_L = np.where(known_RL, labels_RL, 0.0).sum(0) + 0.5
    logits_L: Float64 = np.log(ones_L / (known_RL.sum(0) + 1.0 - ones_L))
    return logits_L
