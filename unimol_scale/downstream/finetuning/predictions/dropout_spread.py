"""Spread of predictions over random dropout masks in the head (Monte Carlo dropout).

Source: Gal and Ghahramani 2016, arXiv 1506.02142. Shapes: R molecules, D channels, W outputs, T draws.
"""

import numpy as np
import torch

from unimol_scale.downstream.finetuning.model.learnt_outputs import Scaling
from unimol_scale.downstream.finetuning.model.property_model import PropertyModel
from unimol_scale.errors import ConfigError
from unimol_scale.store.schema import Float32, Float64

FEWEST = 2  # draws needed for a standard deviation


def check_dropout(draws: int, probability: float) -> None:
    """Check that a spread over draws can be computed.

    Raises:
        ConfigError: fewer than two draws are requested, or the head was trained without dropout.
    """
    if draws < FEWEST:
        raise ConfigError(f"dropout samples: expected 0 (none), or {FEWEST} or more; got {draws}")
    if probability == 0.0:
        raise ConfigError(
            "dropout samples: the head of this model was trained without dropout, so all draws would be equal; "
            "fine-tune with train.dropout=0.1, or use the spread over several seeds"
        )


def dropout_spread(
    model: PropertyModel, vector_RD: Float32, scaling: Scaling, draws: int, device: torch.device
) -> Float64:
    """Return the standard deviation of the predictions over draws, float64 [R, W], in the units of the targets.

    Draw t drops the same channels for all molecules, so a prediction does not depend on the other molecules.

    Args:
        model: the model, on the device and in evaluation mode.
        vector_RD: inputs of the head for the molecules.
        scaling: scaling of the labels that the model was trained with.
        draws: T, number of draws.
        device: device to compute on.
    """
    vectors = torch.from_numpy(vector_RD).to(device)
    values = []
    with torch.no_grad():
        for draw in range(draws):
            generator = torch.Generator().manual_seed(draw)
            out_RW = model.from_vectors(vectors, generator, thinned=True)
            values.append(scaling.restore(out_RW.cpu()).numpy())
    spread_RW: Float64 = np.stack(values).std(axis=0, ddof=1)
    return spread_RW
