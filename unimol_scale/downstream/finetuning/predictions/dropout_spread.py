"""How much predictions vary with the channels that dropout takes from the head: MC dropout.

Source: Gal and Ghahramani 2016, arXiv 1506.02142. Shapes: R molecules, D channels, W outputs, T draws.
"""

import numpy as np
import torch

from unimol_scale.downstream.finetuning.model.learnt_outputs import Scaling
from unimol_scale.downstream.finetuning.model.property_model import PropertyModel
from unimol_scale.errors import ConfigError
from unimol_scale.store.schema import Float32, Float64

FEWEST = 2  # draws that have a standard deviation


def check_dropout(draws: int, probability: float) -> None:
    """Check that a spread over draws can be computed.

    Raises:
        ConfigError: one draw is asked for, or the head was trained without dropout.
    """
    if draws < FEWEST:
        raise ConfigError(f"dropout samples: expected {FEWEST} or more, or none at all, got {draws}")
    if probability == 0.0:
        raise ConfigError(
            "dropout samples: the head of this model was trained without dropout, so all draws would be equal; "
            "fine-tune with train.dropout=0.1, or take the spread of several seeds"
        )


def dropout_spread(
    model: PropertyModel, vector_RD: Float32, scaling: Scaling, draws: int, device: torch.device
) -> Float64:
    """Return the standard deviation of the predictions over draws, [R, W], in the units of the targets.

    Draw t leaves out the same channels for all molecules, whatever they are predicted with.

    Args:
        model: on the device, in evaluation mode.
        vector_RD: of the molecules.
        scaling: of the labels that the model was trained with.
        draws: T.
        device: to compute on.
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
