"""Noisy nodes: while properties are learnt, input coordinates are noised and the noise is predicted, too.

An auxiliary loss that keeps the atoms of deep models apart (Godwin et al., arXiv 2106.07971); with a model that was
pretrained by denoising it keeps what was learnt (Zaidi et al., arXiv 2206.00133). The noise itself is drawn where
samples are made (``downstream.data.batches``). Shapes: B molecules, A atoms (padded).
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
    "train.noise_std is noise on coordinates, and the model of this fine-tuning sees none (inputs 2d): leave it out, "
    "or take inputs 3d or 2d+3d and a model that sees distances"
)


@dataclass(frozen=True, kw_only=True)
class NoisyNodes:
    """The loss of predicting the noise.

    Attributes:
        std: of the noise, Å.
        weight: of this loss beside that of the labels.
    """

    std: float
    weight: float

    @staticmethod
    def of(config: FinetuneTrainConfig) -> "NoisyNodes | None":
        """Return what the settings ask for; None: no noise is predicted."""
        return NoisyNodes(std=config.noise_std, weight=config.noise_weight) if config.predicts_noise else None

    def loss(
        self, head: CoordinateHead, representation: Representation, shown: ModelInput, sample: LabelledSample
    ) -> Tensor:
        """Return the sum over molecules of ``noise_loss``, fp32, before weighting: 1 a molecule for no prediction.

        Args:
            head: predicts where the atoms were before the noise.
            representation: of the noised molecules.
            shown: what the backbone saw, on the device.
            sample: has the coordinates without noise.
        """
        assert sample.clean_BA3 is not None, "the sample was made without noise"
        predicted_BA3 = head(representation, shown.coordinates_BA3)
        clean_BA3 = to_device(sample.clean_BA3, predicted_BA3.device)
        return noise_loss(predicted_BA3, clean_BA3, shown.valid_BA, self.std)


def coordinate_head(config: ModelConfig, pretrained: CoordinateHead | None, seed: int) -> CoordinateHead:
    """Return a head that predicts coordinates: a copy of the pretrained one, or if there is none a new one.

    Args:
        config: of the backbone, dropouts of this training included.
        pretrained: of the same dimensions.
        seed: of the initialisation; torch's random state stays as it is.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = CoordinateHead(config)
    if pretrained is not None:
        head.load_state_dict(pretrained.state_dict())
    return head
