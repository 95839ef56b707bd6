"""Initialises the head of a property model so that it predicts the mean of the training labels.

Pooled vectors have a large offset that all molecules share, and otherwise differ little. A random head turns the offset
into large outputs: with three seeds, the first losses were 6.2, 1.7 and 2.0 on standardised labels [measured].
Therefore the LayerNorm of the head is set so that every channel has mean 0 and standard deviation 1 over the training
molecules, and the last layer is set to zero, with the mean of the labels as its bias. With only the last layer set to
zero, models learnt more slowly [measured]. The layers of the head are unchanged, so that older saved models can be
loaded.

Shapes: R rows, W outputs, D atom channels, V = G·D channels of a molecule's vector, in G groups of one kind.
"""

import torch
from torch import Tensor

from unimol_scale.data.transfer import to_device
from unimol_scale.downstream.data.batches import RowReader, SampleMaker, each_row_once
from unimol_scale.downstream.finetuning.model.property_model import PropertyModel
from unimol_scale.store.schema import Float64

ROWS = 1024  # number of training rows used
# Smallest standard deviation by which a channel is divided, so that channels that hardly vary are not amplified: a
# share of the typical one of its group, or this.
LEAST_SHARE, LEAST_SPREAD = 0.1, 1e-3


@torch.no_grad()
def initialise_head(
    model: PropertyModel,
    train: RowReader,
    make_sample: SampleMaker,
    base_W: Float64,
    max_pairs: int | None,
    device: torch.device,
) -> None:
    """Make a model predict the mean of the training labels, or the frequencies of the classes.

    Args:
        model: the model, on the device; its head is changed in place.
        train: training rows.
        make_sample: turns rows into samples.
        base_W: the outputs that encode this prediction (``Scaling.base_outputs``).
        max_pairs: largest number of padded pairs in a micro-batch; None: a number that suits the device.
        device: device that computes.

    Raises:
        ConfigError: ``max_pairs`` is too small for the largest molecule.
    """
    model.eval()
    parts: list[Tensor] = []
    seen = 0
    for sample in each_row_once(train, make_sample, max_pairs, device):
        parts.append(model.vectors(model.represent(to_device(sample.input, device))))
        seen += len(sample.row_B)
        if seen >= ROWS:
            break
    standardise_head(model, torch.cat(parts), base_W)


@torch.no_grad()
def standardise_head(model: PropertyModel, normed_RV: Tensor, base_W: Float64) -> None:
    """Make a model predict the mean of the training labels; see ``initialise_head``.

    Args:
        model: the model; its head is changed in place.
        normed_RV: return value of ``model.vectors`` for training rows.
        base_W: the outputs that encode the mean of the labels.
    """
    spread_GD = normed_RV.std(0, correction=0).view(-1, model.backbone.config.atom_width)
    least_G1 = LEAST_SHARE * spread_GD.square().mean(1, keepdim=True).sqrt()
    spread_V = torch.maximum(spread_GD, least_G1).clamp(min=LEAST_SPREAD).flatten()
    model.norm.weight.div_(spread_V)
    model.norm.bias.sub_(normed_RV.mean(0)).div_(spread_V)
    model.out.weight.zero_()
    model.out.bias.copy_(torch.from_numpy(base_W).float())
