"""The denoising objectives: Uni-Mol2's masked tokens, coordinates and distances, or the plain noise itself.

``geometry`` is that of Uni-Mol2 (arXiv 2406.14969, section on pretraining, and its public reference): the noised
conformer is aligned onto the clean one, and clean coordinates and distances are predicted. ``noise`` is denoising as in
Zaidi et al. (arXiv 2206.00133): r̃ = r + σε is shown as it is, and ε is predicted. Nothing is aligned in this case,
because rotated noise is different noise, and the target rotates with the molecule. Shapes: B molecules, A atoms
(padded), M masked atoms, N = A + 1 nodes, D atom channels.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unimol_scale.data import corrupt
from unimol_scale.data import vocabulary as vocab
from unimol_scale.data.batch import MoleculeBatch
from unimol_scale.data.input_views import STANDARD_VIEWS, InputsSeen, InputView
from unimol_scale.data.steps.random_streams import MoleculeKeys
from unimol_scale.errors import ConfigError, nearest
from unimol_scale.model.accounting import Heads
from unimol_scale.model.encodings import ModelInput, pairwise_distances
from unimol_scale.model.fused.geometry_losses import FusedGeometryLosses, suits_coordinates
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.model.presets import ModelConfig
from unimol_scale.objectives.base import Objective, PretrainingModel, Sample
from unimol_scale.store.schema import ConformerOrigin, UInt8

# Target of a token that does not count.
IGNORED = -100
# Name used in the settings → the origins that it covers.
ORIGIN_GROUPS = {
    "dft": [ConformerOrigin.DFT],
    "file": [ConformerOrigin.FILE],
    "force_field": [
        *(ConformerOrigin.MMFF, ConformerOrigin.MMFF_UNCONVERGED),
        *(ConformerOrigin.UFF, ConformerOrigin.UFF_UNCONVERGED, ConformerOrigin.ETKDG),
    ],
}


@dataclass(frozen=True, kw_only=True)
class DenoiseConfig:
    """Settings of the denoising objective; the defaults are Uni-Mol2's.

    A term without weight is not predicted, and its head is not built.

    Attributes:
        predict: ``geometry``, the clean coordinates and distances, or ``noise``, the noise in units of ``noise_std``.
        mask_fraction: fraction of a molecule's tokens to mask; 0: none are masked or predicted.
        noise_std: standard deviation of the Gaussian noise on every coordinate, Å.
        noise_std_of: origin of a geometry → standard deviation for conformers of that origin, Å: "dft", "file", or
            "force_field" (made here). ``noise_std`` applies to all others and to depictions.
        hide_features: probability that all atom, bond, degree and path features of a molecule are hidden.
        flat_geometry: probability that a molecule whose features are shown has its 2D depiction as geometry.
        token_weight: weight of the cross-entropy over masked tokens.
        coordinate_weight: weight of the L1 coordinate loss, or for ``noise`` of the squared error of the noise.
        distance_weight: weight of the L1 distance loss; not used with ``noise``.
    """

    predict: Literal["geometry", "noise"] = "geometry"
    mask_fraction: float = 0.15
    noise_std: float = 0.2
    noise_std_of: Mapping[str, float] = field(default_factory=dict)
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
        for name, std in self.noise_std_of.items():
            if name not in ORIGIN_GROUPS:
                raise ConfigError(f"denoise.noise_std_of: unknown origin {name!r}; {nearest(name, ORIGIN_GROUPS)}")
            if std < 0.0:
                raise ConfigError(f"denoise.noise_std_of.{name} must not be negative, got {std}")
        if self.predict == "noise" and min(self.noise_std, *self.noise_std_of.values(), math.inf) == 0.0:
            raise ConfigError("denoise.predict is noise, so denoise.noise_std and every noise_std_of must be positive")
        if not (self.masks or self.moves):
            raise ConfigError(
                "denoise: nothing to predict; at least one of the loss weights must be positive, and token_weight "
                "needs a positive mask_fraction"
            )

    def noise_std_B(self, origin_B: UInt8, flat_B: corrupt.Bool) -> corrupt.Float32 | None:
        """Return the standard deviation of the noise for each molecule, Å; None if it is ``noise_std`` for all.

        Args:
            origin_B: codes of ``ConformerOrigin``.
            flat_B: molecules that are shown as depictions, whatever their origin.
        """
        if not self.noise_std_of:
            return None
        std_B = np.full(len(origin_B), self.noise_std, np.float32)
        for name, std in self.noise_std_of.items():
            std_B[np.isin(origin_B, ORIGIN_GROUPS[name]) & ~flat_B] = std
        return std_B

    @property
    def masks(self) -> bool:
        """Whether tokens are masked and predicted."""
        return self.mask_fraction > 0.0 and self.token_weight > 0.0

    @property
    def moves(self) -> bool:
        """Whether coordinates are predicted."""
        return self.coordinate_weight > 0.0 or (self.predict == "geometry" and self.distance_weight > 0.0)


@dataclass(frozen=True, kw_only=True)
class DenoiseSample(Sample):
    """A corrupted micro-batch with its targets.

    Attributes:
        masked_BA: bool, tokens to predict.
        atomic_number_BA: uint8, the true tokens.
        clean_BA3: float32, Å, the geometry before noise.
        noise_std_B: float32, Å, standard deviation of the noise for each molecule; None: the objective's for all.
        masked_M: int64, indices of the true elements of ``masked_BA``, flattened. They are found when the sample is
            made, on the CPU, because a device cannot return their number without a wait. None finds them.
        counted_M: bool, which elements of ``masked_M`` are predicted and not padding; None: all of them.
    """

    PADDING = MappingProxyType({"noise_std_B": 1.0})

    masked_BA: Tensor
    atomic_number_BA: Tensor
    clean_BA3: Tensor
    noise_std_B: Tensor | None = None
    masked_M: Tensor | None = None
    counted_M: Tensor | None = None

    def __post_init__(self) -> None:
        if self.masked_M is None:
            object.__setattr__(self, "masked_M", self.masked_BA.flatten().nonzero().squeeze(1))

    def padded(self, molecules: int, num_atoms: int) -> "DenoiseSample":
        """Return the sample padded as ``Sample.padded`` does, with as many masked tokens as a multiple of a quarter."""
        found = replace(self, masked_M=torch.empty(0), counted_M=None)
        padded = super(DenoiseSample, found).padded(molecules, num_atoms)
        assert isinstance(padded, DenoiseSample)
        sample = replace(padded, masked_M=None)
        assert sample.masked_M is not None
        count, quarter = len(sample.masked_M), -(-molecules * num_atoms // 4)
        slots = max(1, -(-count // quarter)) * quarter
        return replace(
            sample, masked_M=F.pad(sample.masked_M, (0, slots - count)), counted_M=torch.arange(slots) < count
        )


class DenoiseObjective(Objective):
    """The terms token, coordinate and, for ``geometry``, distance."""

    Config = DenoiseConfig
    mixable = True
    takes_empty_molecules = True

    def __init__(self, config: DenoiseConfig) -> None:
        self.config = config

    @property
    def weights(self) -> Mapping[str, float]:
        """Loss term → weight, for the predicted terms."""
        config = self.config
        weights = {"token": config.token_weight} if config.masks else {}
        if config.moves:
            weights["coordinate"] = config.coordinate_weight
            if config.predict == "geometry":
                weights["distance"] = config.distance_weight
        return weights

    @property
    def heads(self) -> Heads:
        """Token and coordinate heads, each only if it has something to predict."""
        return Heads(token=self.config.masks, coordinate=self.config.moves)

    def check(self, config: ModelConfig) -> None:
        """Refuse a model without geometry if coordinates are predicted.

        Raises:
            ConfigError: the model has no geometry.
        """
        if self.config.moves and not config.geometry:
            raise ConfigError(
                "model.geometry is false, but denoise predicts coordinates: set it to true, or set "
                "objective.denoise.coordinate_weight and .distance_weight to 0"
            )

    def seen(self, config: ModelConfig) -> InputsSeen:
        """Return 3D if features are ever hidden, 2D + 3D if they are ever shown, 2D if the geometry is then flat."""
        shown, flat = self.config.hide_features < 1.0, self.config.flat_geometry
        views: dict[str, InputView] = {}
        if not config.geometry:
            return InputsSeen(views={"2d": STANDARD_VIEWS["2d"]} if shown else {})
        if shown and flat < 1.0:
            views["2d+3d"] = STANDARD_VIEWS["2d+3d"]
        if self.config.hide_features > 0.0:
            views["3d"] = STANDARD_VIEWS["3d"]
        if shown and flat > 0.0:
            views["2d"] = InputView(geometry="planar")
        return InputsSeen(views=views)

    def corrupt(self, batch: MoleculeBatch, keys: MoleculeKeys) -> DenoiseSample:
        """Mask tokens, hide features, choose the geometry and add noise; align if the geometry is predicted."""
        config, valid_BA = self.config, batch.valid_BA
        hidden_B = corrupt.chosen_molecules(keys, corrupt.STREAM_HIDE, config.hide_features)
        flat_B = ~hidden_B & corrupt.chosen_molecules(keys, corrupt.STREAM_FLAT, config.flat_geometry)
        clean_BA3 = np.where(flat_B[:, None, None], batch.planar_BA3, batch.coordinates_BA3)
        std_B = config.noise_std_B(batch.conformer_origin_B, flat_B)
        noised_BA3 = corrupt.add_noise(keys, clean_BA3, valid_BA, config.noise_std if std_B is None else std_B)
        if config.predict == "geometry":
            noised_BA3 = corrupt.align(noised_BA3, clean_BA3, valid_BA)
        masked_BA = corrupt.choose_masked(keys, valid_BA, config.mask_fraction if config.masks else 0.0)
        token_BA = np.where(masked_BA, np.uint8(vocab.TOKEN_MASK), batch.atomic_number_BA)
        counts = {"token": float(masked_BA.sum()), **dict.fromkeys(("coordinate", "distance"), float(len(hidden_B)))}
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
            counts={name: counts[name] for name in self.weights},
            molecule_B=torch.from_numpy(keys.molecule_B),
            num_atoms=int(batch.num_atoms_B.sum()),
            masked_BA=torch.from_numpy(masked_BA),
            atomic_number_BA=torch.from_numpy(batch.atomic_number_BA),
            clean_BA3=torch.from_numpy(clean_BA3),
            noise_std_B=None if std_B is None else torch.from_numpy(std_B),
        )

    def score(self, model: HeadedModel, sample: Sample) -> dict[str, Tensor]:
        """Return the sum of each term over the micro-batch, fp32 scalars.

        token: cross-entropy (nats), summed over masked tokens. coordinate: L1 over xyz, mean over a molecule's atoms
            (Å),
        summed over molecules; for ``noise`` see ``noise_loss``. distance: L1, mean over a molecule's n² pairs (Å),
        summed
        over molecules.
        """
        assert isinstance(sample, DenoiseSample)
        representation = model.backbone(sample.input)
        sums: dict[str, Tensor] = {}
        if self.config.masks:
            assert sample.masked_M is not None
            logits_MV = model.token_head(representation.atom_BND[:, 1:].flatten(0, 1).index_select(0, sample.masked_M))
            target_M = sample.atomic_number_BA.flatten().index_select(0, sample.masked_M).long()
            if sample.counted_M is not None:
                target_M = target_M.masked_fill(~sample.counted_M, IGNORED)
            sums["token"] = F.cross_entropy(logits_MV.float(), target_M, reduction="sum", ignore_index=IGNORED)
        if self.config.moves:
            shown_BA3, clean_BA3, valid_BA = sample.input.coordinates_BA3, sample.clean_BA3, sample.input.valid_BA
            predicted_BA3 = model.coordinate_head(representation, shown_BA3)
            if self.config.predict == "noise":
                std = self.config.noise_std if sample.noise_std_B is None else sample.noise_std_B[:, None, None]
                sums["coordinate"] = noise_loss(predicted_BA3, clean_BA3, valid_BA, std)
            else:
                sums["coordinate"], sums["distance"] = geometry_losses(predicted_BA3, clean_BA3, valid_BA)
        return sums


class DenoiseModel(PretrainingModel):
    """The model of Uni-Mol2 as in the released files: both heads, scored with the paper's terms."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, DenoiseObjective(DenoiseConfig()))


def geometry_losses(predicted_BA3: Tensor, clean_BA3: Tensor, valid_BA: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``coordinate_loss`` and ``distance_loss``, on a GPU by one kernel."""
    if suits_coordinates(predicted_BA3):
        losses: tuple[Tensor, Tensor] = FusedGeometryLosses.apply(predicted_BA3, clean_BA3, valid_BA)  # type: ignore[no-untyped-call]
        return losses
    return coordinate_loss(predicted_BA3, clean_BA3, valid_BA), distance_loss(predicted_BA3, clean_BA3, valid_BA)


def coordinate_loss(predicted_BA3: Tensor, clean_BA3: Tensor, valid_BA: Tensor) -> Tensor:
    """Return Σ over molecules of the mean over atoms of Σ_xyz |predicted − clean|, Å."""
    error_BA = (predicted_BA3 - clean_BA3).abs().sum(-1) * valid_BA
    return (error_BA.sum(1) / _sizes(valid_BA)).sum()


def noise_loss(predicted_BA3: Tensor, clean_BA3: Tensor, valid_BA: Tensor, std: float | Tensor) -> Tensor:
    """Return Σ over molecules of the mean over atoms and axes of |ε̂ − ε|². Predicting zero noise scores 1 on average.

    The head moves atoms from r̃ = r + σε towards r, so its displacement is −σε̂, and ε̂ − ε = (clean − predicted)/σ. A
    head that sees only relative positions cannot know how far the whole molecule moved, so for a molecule of n atoms at
    least 1/n of the error remains.
    """
    error_BA = ((clean_BA3 - predicted_BA3) / std).square().mean(-1) * valid_BA
    return (error_BA.sum(1) / _sizes(valid_BA)).sum()


def distance_loss(predicted_BA3: Tensor, clean_BA3: Tensor, valid_BA: Tensor) -> Tensor:
    """Return Σ over molecules of the mean over all n² pairs of |predicted − clean distance|, Å."""
    error_BAA = (pairwise_distances(predicted_BA3) - pairwise_distances(clean_BA3)).abs()
    error_BAA = error_BAA * (valid_BA[:, :, None] & valid_BA[:, None, :])
    return (error_BAA.sum((1, 2)) / _sizes(valid_BA).square()).sum()


def _sizes(valid_BA: Tensor) -> Tensor:
    """Return the atoms of each molecule, int64 [B]; 1 for one without atoms, whose error is zero anyway."""
    return valid_BA.sum(1).clamp(min=1)
