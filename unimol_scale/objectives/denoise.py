"""The denoising objective of Uni-Mol2: masked tokens, noised coordinates and their distances.

Source: arXiv 2406.14969, section on pretraining, and its public reference. Shapes: B molecules, A atoms (padded),
M masked atoms, N = A + 1 nodes, D atom channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimol_scale.data import corrupt
from unimol_scale.data import vocabulary as vocab
from unimol_scale.data.batch import MoleculeBatch
from unimol_scale.data.streams import MoleculeKeys
from unimol_scale.errors import ConfigError
from unimol_scale.model.accounting import DENOISE_HEADS, Heads
from unimol_scale.model.backbone import TwoTrackBackbone
from unimol_scale.model.encodings import ModelInput, pairwise_distances
from unimol_scale.model.heads import CoordinateHead, TokenHead
from unimol_scale.model.presets import ModelConfig
from unimol_scale.objectives.base import Sample


@dataclass(frozen=True, kw_only=True)
class DenoiseConfig:
    """Settings of the denoising objective; the defaults are the paper's.

    Attributes:
        mask_fraction: of a molecule's tokens.
        noise_std: of the Gaussian noise on every coordinate, Å.
        hide_features: probability that all atom, bond, degree and path features of a molecule are hidden.
        flat_geometry: probability that a molecule whose features are shown has its 2D depiction as geometry.
        token_weight: of the cross-entropy over masked tokens.
        coordinate_weight: of the L1 coordinate loss.
        distance_weight: of the L1 distance loss.
    """

    mask_fraction: float = 0.15
    noise_std: float = 0.2
    hide_features: float = 0.5
    flat_geometry: float = 0.5
    token_weight: float = 1.0
    coordinate_weight: float = 1.0
    distance_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("mask_fraction", "hide_features", "flat_geometry"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"denoise.{name} must be in [0, 1], got {getattr(self, name)}")
        for name in ("noise_std", "token_weight", "coordinate_weight", "distance_weight"):
            if getattr(self, name) < 0.0:
                raise ConfigError(f"denoise.{name} must not be negative, got {getattr(self, name)}")
        if self.token_weight + self.coordinate_weight + self.distance_weight == 0.0:
            raise ConfigError("denoise: at least one of the loss weights must be positive")


@dataclass(frozen=True, kw_only=True)
class DenoiseSample(Sample):
    """A corrupted micro-batch with its targets.

    Attributes:
        masked_BA: bool, tokens to predict.
        atomic_number_BA: uint8, the true tokens.
        clean_BA3: float32, Å, the geometry before noise.
    """

    masked_BA: Tensor
    atomic_number_BA: Tensor
    clean_BA3: Tensor


class DenoiseObjective:
    """Uni-Mol2's three terms: token, coordinate and distance."""

    def __init__(self, config: DenoiseConfig) -> None:
        self.config = config

    @property
    def weights(self) -> Mapping[str, float]:
        """Loss term → weight."""
        config = self.config
        return {
            "token": config.token_weight,
            "coordinate": config.coordinate_weight,
            "distance": config.distance_weight,
        }

    @property
    def heads(self) -> Heads:
        """Token and coordinate heads."""
        return DENOISE_HEADS

    def corrupt(self, batch: MoleculeBatch, keys: MoleculeKeys) -> DenoiseSample:
        """Mask tokens, hide features, choose the geometry, add noise and align the result onto the clean geometry."""
        config, valid_BA = self.config, batch.valid_BA
        hidden_B = corrupt.chosen_molecules(keys, corrupt.STREAM_HIDE, config.hide_features)
        flat_B = ~hidden_B & corrupt.chosen_molecules(keys, corrupt.STREAM_FLAT, config.flat_geometry)
        clean_BA3 = np.where(flat_B[:, None, None], batch.planar_BA3, batch.coordinates_BA3)
        noised_BA3 = corrupt.add_noise(keys, clean_BA3, valid_BA, config.noise_std)
        noised_BA3 = corrupt.align(noised_BA3, clean_BA3, valid_BA)
        masked_BA = corrupt.choose_masked(keys, valid_BA, config.mask_fraction)
        token_BA = np.where(masked_BA, np.uint8(vocab.TOKEN_MASK), batch.atomic_number_BA)
        molecules = float(len(hidden_B))
        return DenoiseSample(
            input=ModelInput(
                token_BA=torch.from_numpy(token_BA),
                atom_features_BA8=torch.from_numpy(batch.atom_features_BA8),
                degree_BA=torch.from_numpy(batch.degree_BA),
                bond_features_BAA3=torch.from_numpy(batch.bond_features_BAA3),
                path_BAA=torch.from_numpy(batch.path_BAA),
                hidden_B=torch.from_numpy(hidden_B),
                coordinates_BA3=torch.from_numpy(noised_BA3),
            ),
            counts={"token": float(masked_BA.sum()), "coordinate": molecules, "distance": molecules},
            molecule_B=torch.from_numpy(keys.molecule_B),
            num_atoms=int(batch.num_atoms_B.sum()),
            masked_BA=torch.from_numpy(masked_BA),
            atomic_number_BA=torch.from_numpy(batch.atomic_number_BA),
            clean_BA3=torch.from_numpy(clean_BA3),
        )

    def build_model(self, config: ModelConfig) -> nn.Module:
        """Return the backbone with token and coordinate heads."""
        return DenoiseModel(config)


class DenoiseModel(nn.Module):
    """Backbone, token head and coordinate head; scores a ``DenoiseSample``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.backbone = TwoTrackBackbone(config)
        self.token_head = TokenHead(config)
        self.coordinate_head = CoordinateHead(config)

    def forward(self, sample: DenoiseSample) -> dict[str, Tensor]:
        """Return the sum of each term over the micro-batch, fp32 scalars.

        token: cross-entropy (nats) over masked tokens. coordinate: L1 over xyz, mean over its atoms (Å), summed
        over molecules. distance: L1 mean over a molecule's n² pairs (Å), summed over molecules.
        """
        representation = self.backbone(sample.input)
        logits_MV = self.token_head(representation.atom_BND[:, 1:][sample.masked_BA])
        target_M = sample.atomic_number_BA[sample.masked_BA].long()
        predicted_BA3 = self.coordinate_head(representation, sample.input.coordinates_BA3)
        valid_BA = sample.input.valid_BA
        return {
            "token": F.cross_entropy(logits_MV.float(), target_M, reduction="sum"),
            "coordinate": coordinate_loss(predicted_BA3, sample.clean_BA3, valid_BA),
            "distance": distance_loss(predicted_BA3, sample.clean_BA3, valid_BA),
        }


def coordinate_loss(predicted_BA3: Tensor, clean_BA3: Tensor, valid_BA: Tensor) -> Tensor:
    """Return Σ over molecules of the mean over atoms of Σ_xyz |predicted − clean|, Å."""
    error_BA = (predicted_BA3 - clean_BA3).abs().sum(-1) * valid_BA
    return (error_BA.sum(1) / valid_BA.sum(1)).sum()


def distance_loss(predicted_BA3: Tensor, clean_BA3: Tensor, valid_BA: Tensor) -> Tensor:
    """Return Σ over molecules of the mean over all n² pairs of |predicted − clean distance|, Å."""
    error_BAA = (pairwise_distances(predicted_BA3) - pairwise_distances(clean_BA3)).abs()
    error_BAA = error_BAA * (valid_BA[:, :, None] & valid_BA[:, None, :])
    return (error_BAA.sum((1, 2)) / valid_BA.sum(1).square()).sum()
