"""Noisy nodes: while properties are learnt, noise is added to the input coordinates and predicted as well.

This auxiliary loss prevents oversmoothing in deep models (Godwin et al., arXiv 2106.07971); for a model pretrained by
denoising it preserves what was learnt (Zaidi et al., arXiv 2206.00133). The noise is drawn where samples are made
(``downstream.data.batches``). Shapes: B molecules, A atoms (padded).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unimol_scale.data.transfer import to_device
from unimol_scale.downstream.config import FinetuneTrainConfig
from unimol_scale.downstream.data.batches import LabelledSample
from unimol_scale.model.backbone import Representation
from unimol_scale.model.encodings import ModelInput
from unimol_scale.model.heads import CoordinateHead
from unimol_scale.model.presets import ModelConfig
from unimol_scale.objectives.denoise import noise_loss

NOISE_NEEDS_3D = (
    "train.noise_std is noise on coordinates, but the model of this fine-tuning sees none (inputs 2d): leave it out, "
    "or use inputs 3d or 2d+3d and a model that sees distances"
)


@dataclass(frozen=True, kw_only=True)
class NoisyNodes:
    """The loss of predicting the noise.

    Attributes:
        std: standard deviation of the noise, Å.
        weight: weight of this loss relative to that of the labels.
    """

    std: float
    weight: float

    @staticmethod
    def of(config: FinetuneTrainConfig) -> "NoisyNodes | None":
        """Return the loss that the settings request; None if no noise is predicted."""
        return NoisyNodes(std=config.noise_std, weight=config.noise_weight) if config.predicts_noise else None

    def loss(
        self, head: CoordinateHead, representation: Representation, shown: ModelInput, sample: LabelledSample
    ) -> Tensor:
        """Return the sum over molecules of the unweighted ``noise_loss``, fp32; predicting zero noise scores 1 each.

        Args:
            head: predicts the coordinates before the noise.
            representation: representation of the noised molecules.
            shown: input of the backbone, on the device.
            sample: sample with the coordinates without noise.
        """
        assert sample.clean_BA3 is not None, "the sample was made without noise"
        predicted_BA3 = head(representation, shown.coordinates_BA3)
        clean_BA3 = to_device(sample.clean_BA3, predicted_BA3.device)
        return noise_loss(predicted_BA3, clean_BA3, shown.valid_BA, self.std)


def coordinate_head(config: ModelConfig, pretrained: CoordinateHead | None, seed: int) -> CoordinateHead:
    """Return a head that predicts coordinates: a copy of the pretrained one if there is one, otherwise a new one.

    Args:
        config: configuration of the backbone, including the dropouts of this training.
        pretrained: pretrained head of the same dimensions, or None.
        seed: seed of the initialisation; torch's random state is not changed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = CoordinateHead(config)
    if pretrained is not None:
        head.load_state_dict(pretrained.state_dict())
    return head
