"""MoleBlend's blending objective on the two-track backbone: each pair shows one relation, and all are predicted.

Source: MoleBlend (arXiv 2307.06235) and its public code. For every pair of atoms one relation is drawn from {path,
edge,
3D}, and only its embedding enters the pair track. Path length, edge types along the path and distance are then
predicted for every pair from an outer product of its atoms. Noisy nodes: the input geometry is noised, the distances to
predict are the clean ones, and the noise itself is a further target.

How the hidden relations are kept out of the input:

* Pair track: the embeddings of hidden relations are exact zeros that pass no gradient (``ModelInput.shown_BAA``).
  "No bond" is given only where the edge is shown, since it is a value of that relation.
* Edges: with ``edges: path``, which this objective implies, a pair shows the bonds along the path, as in the paper.
  Their number reveals a path length up to five, and a bond that its own pair hides may be on the path of a pair that
  shows it. With ``edges: bond`` a pair shows its direct bond, or that there is none.
* Atoms: as in the paper, all features and the degree are shown, although chirality, degree, hydrogens, hybridisation,
  aromaticity and ring membership count or describe an atom's bonds, most of which are hidden. ``atom_features: own``
  shows only charge and radicals, ``show_degree: false`` hides the degree. The public code also blends the degree with
  sums of an atom's distances; this model has no such feature.
* Coordinates are read by the distance kernel, gated as above, and by the head for the noise, which sees r_j − r_i only
  where 3D is shown and predicts nothing else.
* The virtual node and its pairs have the same embedding in every molecule; the number of atoms is not a relation.
* The diagonal is drawn like any pair: its three relations are the same in every molecule, and none is predicted.

The edge targets are always the bonds along the path.
Shapes: B molecules, A atoms (padded), S = 5 hops.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from unimol_scale.data import corrupt
from unimol_scale.data import vocabulary as vocab
from unimol_scale.data.batch import MoleculeBatch
from unimol_scale.data.input_views import InputsSeen, InputView
from unimol_scale.data.relations import (
    KIND_CLASSES,
    NO_CLASS,
    different_atoms,
    edge_classes,
    path_bonds,
    path_classes,
)
from unimol_scale.data.steps.random_streams import MoleculeKeys
from unimol_scale.errors import ConfigError
from unimol_scale.model.accounting import Heads
from unimol_scale.model.encodings import SHOWN_DISTANCE, SHOWN_EDGE, SHOWN_PATH, ModelInput, pairwise_distances
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.model.presets import ModelConfig
from unimol_scale.objectives.base import Objective, Sample
from unimol_scale.store.schema import ATOM_VOCABULARIES

RATIO_TOLERANCE = 1e-6
# In the order of ``ratio``.
RELATIONS = {"path": SHOWN_PATH, "edge": SHOWN_EDGE, "distance": SHOWN_DISTANCE}
# What all pairs of a full or a planar molecule show.
SHOWN_FULL, SHOWN_PLANAR = SHOWN_PATH | SHOWN_EDGE | SHOWN_DISTANCE, SHOWN_PATH | SHOWN_EDGE
OWN_FEATURES = ("formal_charge", "radical_electrons")
BONDING_FEATURES = [k for k, name in enumerate(ATOM_VOCABULARIES) if name not in OWN_FEATURES]
# Å, a tenth of the usual noise. The direction of a shorter prediction counts less: the cosine of a zero vector, which
# is what the coordinate head starts with, has no gradient.
DIRECTION_LENGTH = 0.02
# Å; a shift below this is a rounding error, for example of a molecule with one atom after alignment.
NO_NOISE = 1e-4


@dataclass(frozen=True, kw_only=True)
class BlendConfig:
    """Settings of the blending objective; the defaults are the paper's.

    A relation without weight is not predicted, and its head is not built. If 3D is never shown, no noise is predicted.

    Attributes:
        ratio: probabilities that a pair shows its path, its edge or its distance; they sum to one. ``[1, 0, 0]`` and
            the like show a single view.
        mask_fraction: fraction of the pairs that show nothing at all; with a single view, this is plain masking.
        full_fraction: fraction of the molecules in which all pairs show all three relations, as fine-tuning on 2D and
            3D does.
        planar_fraction: fraction of the molecules in which all pairs show path and edge but not their distance, as
            fine-tuning on 2D does.
        symmetric: whether (i, j) and (j, i) show the same relation; the paper draws each separately.
        show_degree: whether an atom's number of bonds is shown.
        atom_features: ``all``; or ``own``: charge and radicals, but not features that describe an atom's bonds.
        heads: ``separate``: each relation is read from two factors of its own, each Linear, GELU and LayerNorm, as in
            the public code; ``shared``: all are read from the same two linear maps.
        noise_std: standard deviation of the Gaussian noise on every input coordinate, Å. The noised geometry is aligned
            onto the clean one, since distances cannot reveal how the whole molecule was moved.
        path_weight: weight of the cross-entropy over path lengths.
        edge_weight: weight of the cross-entropy over edge types.
        distance_weight: weight of the loss over clean distances.
        noise_weight: weight of 1 − cosine between the noise and its prediction; 0: not predicted (the input is still
            noised).
        distance_loss: ``l1``, |error| in Å, or ``smooth_l1``, quadratic below 1 Å.
    """

    FORMER_DEFAULTS: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"symmetric": True, "show_degree": False, "atom_features": "own", "heads": "shared"}
    )

    ratio: tuple[float, ...] = (0.2, 0.2, 0.6)
    mask_fraction: float = 0.0
    full_fraction: float = 0.0
    planar_fraction: float = 0.0
    symmetric: bool = False
    show_degree: bool = True
    atom_features: Literal["own", "all"] = "all"
    heads: Literal["separate", "shared"] = "separate"
    noise_std: float = 0.2
    path_weight: float = 0.1
    edge_weight: float = 0.1
    distance_weight: float = 0.5
    noise_weight: float = 6.0
    distance_loss: Literal["l1", "smooth_l1"] = "l1"

    def __post_init__(self) -> None:
        shown = ", ".join(f"{p:g}" for p in self.ratio)
        if len(self.ratio) != len(RELATIONS) or not all(p >= 0.0 for p in self.ratio):
            raise ConfigError(f"blend.ratio must be three probabilities, of path, edge and distance, got [{shown}]")
        if not abs(sum(self.ratio) - 1.0) <= RATIO_TOLERANCE:
            raise ConfigError(f"blend.ratio [{shown}] must sum to 1, its sum is {sum(self.ratio):.8g}")
        for name in ("mask_fraction", "full_fraction", "planar_fraction"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"blend.{name} must be in [0, 1], got {getattr(self, name)}")
        if not self.full_fraction + self.planar_fraction <= 1.0:
            raise ConfigError(
                f"blend.full_fraction {self.full_fraction} and blend.planar_fraction {self.planar_fraction} are more "
                "than all molecules; their sum must be at most 1"
            )
        for name in ("noise_std", "path_weight", "edge_weight", "distance_weight", "noise_weight"):
            if not getattr(self, name) >= 0.0:
                raise ConfigError(f"blend.{name} must not be negative, got {getattr(self, name)}")
        if self.noise_weight and not self.noise_std:
            raise ConfigError(
                "blend.noise_weight is positive, so blend.noise_std must be positive too; set both to 0 to turn them "
                "off"
            )
        if not (self.relations or self.predicts_noise):
            raise ConfigError("blend: nothing to predict; at least one of the loss weights must be positive")

    @property
    def shown(self) -> tuple[float, ...]:
        """Probability that a pair of a blended molecule shows its path, its edge, its distance."""
        return tuple(p * (1.0 - self.mask_fraction) for p in self.ratio)

    @property
    def blended_fraction(self) -> float:
        """Fraction of the molecules that are neither full nor planar."""
        return max(0.0, 1.0 - self.full_fraction - self.planar_fraction)

    @property
    def shows_distances(self) -> bool:
        """Whether any pair shows its distance."""
        return self.full_fraction > 0.0 or (self.blended_fraction > 0.0 and self.shown[2] > 0.0)

    @property
    def relations(self) -> tuple[str, ...]:
        """The relations that are predicted."""
        return tuple(name for name in RELATIONS if getattr(self, f"{name}_weight") > 0.0)

    @property
    def predicts_noise(self) -> bool:
        """Whether the noise is predicted, which requires that some of it is visible."""
        return self.noise_weight > 0.0 and self.shows_distances


@dataclass(frozen=True, kw_only=True)
class BlendSample(Sample):
    """A blended micro-batch with its targets.

    Attributes:
        path_BAA: int8, class of each pair's path length, ``NO_CLASS`` if there is none.
        edge_BAAS: int8, class of each hop along each pair's path, ``NO_CLASS`` beyond its end.
        clean_BA3: float32, Å, the geometry before noise.
        noised_BA: bool, atoms whose noise is to be predicted, which see another atom in 3D.
    """

    PADDING = MappingProxyType({"path_BAA": NO_CLASS, "edge_BAAS": NO_CLASS})

    path_BAA: Tensor
    edge_BAAS: Tensor
    clean_BA3: Tensor
    noised_BA: Tensor


class BlendObjective(Objective):
    """Predicts path, edge and distance of every pair, and the noise of the atoms.

    The metrics ``hidden_…`` are the same terms over the pairs that do not show that relation.

    Args:
        config: settings.
        edges: of the model, see ``ModelConfig``. With ``path`` the bonds to predict are those of the path that the
            model sees, otherwise those of the path through the atoms of lowest index.
    """

    Config = BlendConfig
    implied = MappingProxyType({"model": {"edges": "path"}})
    mixable = True
    takes_empty_molecules = True

    def __init__(self, config: BlendConfig, edges: Literal["bond", "path"] = "bond") -> None:
        self.config = config
        self._edges = edges

    @property
    def weights(self) -> Mapping[str, float]:
        """Loss term or metric → weight."""
        config = self.config
        weights = {name: getattr(config, f"{name}_weight") for name in config.relations}
        if config.predicts_noise:
            weights["noise"] = config.noise_weight
        return weights | {f"hidden_{name}": 0.0 for name in self._sometimes_hidden}

    @property
    def heads(self) -> Heads:
        """Relation heads, and the coordinate head if there is noise to predict."""
        config = self.config
        return Heads(coordinate=config.predicts_noise, relations=config.relations, relation_factors=config.heads)

    @property
    def _sometimes_hidden(self) -> tuple[str, ...]:
        config, shown = self.config, dict(zip(RELATIONS, self.config.shown, strict=True))
        return tuple(
            name
            for name in config.relations
            if (config.blended_fraction > 0.0 and shown[name] < 1.0)
            or (config.planar_fraction > 0.0 and name == "distance")
        )

    def check(self, config: ModelConfig) -> None:
        """Refuse a model that cannot see what the objective shows.

        Raises:
            ConfigError: distances would be shown to a model without geometry.
        """
        if self.config.shows_distances and not config.geometry:
            raise ConfigError(
                "blend.ratio or blend.full_fraction shows distances, but model.geometry is false; set "
                "model.geometry=true, or full_fraction to 0 and a ratio without distances, such as "
                "objective.blend.ratio=[0.5,0.5,0]"
            )

    def seen(self, config: ModelConfig) -> InputsSeen:
        """Return 2D, 3D and both, as far as pairs show them; relations that no pair shows are not part of a view.

        If no molecule is full, 2D and 3D are shown together by different pairs of a molecule. Atom features and degrees
        are shown as in pretraining in all three views.
        """
        mine, blends = self.config, self.config.blended_fraction > 0.0
        blended = {name for name, p in zip(RELATIONS, mine.shown, strict=True) if blends and p > 0.0}
        graph = blended - {"distance"} | ({"path", "edge"} if mine.planar_fraction > 0.0 else set())
        space = blended & {"distance"}
        both = set(RELATIONS) if mine.full_fraction > 0.0 else blended if space and len(blended) > 1 else set()
        return InputsSeen(
            views={
                inputs: InputView(
                    atom_features=mine.atom_features,
                    degree=mine.show_degree,
                    pairs=tuple(name for name in InputView().pairs if name in shown),
                    geometry="conformer" if "distance" in shown else "none",
                )
                for inputs, shown in (("2d", graph), ("3d", space), ("2d+3d", both))
                if shown
            }
        )

    def corrupt(self, batch: MoleculeBatch, keys: MoleculeKeys) -> BlendSample:
        """Draw what each pair shows, hide the other features of the atoms, and noise the geometry."""
        config, valid_BA = self.config, batch.valid_BA
        shown_BAA = self._draw_shown(keys, valid_BA.shape[1])
        clean_BA3 = batch.coordinates_BA3
        noised_BA3 = corrupt.align(corrupt.add_noise(keys, clean_BA3, valid_BA, config.noise_std), clean_BA3, valid_BA)
        features_BA8 = batch.atom_features_BA8
        if config.atom_features == "own":
            features_BA8 = features_BA8.copy()
            features_BA8[..., BONDING_FEATURES] = vocab.RAW_HIDDEN
        degree_BA = batch.degree_BA if config.show_degree else np.full_like(batch.degree_BA, vocab.RAW_HIDDEN)
        pairs_BAA = different_atoms(valid_BA)
        in_space_BAA = ((shown_BAA & SHOWN_DISTANCE) > 0) & pairs_BAA
        noised_BA = in_space_BAA.any(axis=2) & (np.abs(noised_BA3 - clean_BA3).max(axis=2) > NO_NOISE)
        path_BAA = path_classes(batch.path_BAA, valid_BA)
        kind_BAAS = path_bonds(batch.bond_features_BAA3, batch.path_BAA) if self._edges == "path" else None
        if kind_BAAS is None:
            edge_BAAS = edge_classes(batch.bond_features_BAA3, batch.path_BAA)
        else:
            edge_BAAS = KIND_CLASSES[kind_BAAS]
        counts = {"noise": float(noised_BA.sum())} | _count_pairs(shown_BAA, pairs_BAA, path_BAA, edge_BAAS)
        return BlendSample(
            input=ModelInput(
                token_BA=torch.from_numpy(batch.atomic_number_BA),
                atom_features_BA8=torch.from_numpy(features_BA8),
                degree_BA=torch.from_numpy(degree_BA),
                bond_features_BAA3=torch.from_numpy(batch.bond_features_BAA3),
                path_BAA=torch.from_numpy(batch.path_BAA),
                hidden_B=torch.zeros(len(valid_BA), dtype=torch.bool),
                coordinates_BA3=torch.from_numpy(noised_BA3),
                shown_BAA=torch.from_numpy(shown_BAA),
                path_bonds_BAAS=None if kind_BAAS is None else torch.from_numpy(kind_BAAS),
            ),
            counts={name: counts[name] for name in self.weights},
            molecule_B=torch.from_numpy(keys.molecule_B),
            num_atoms=int(batch.num_atoms_B.sum()),
            path_BAA=torch.from_numpy(path_BAA),
            edge_BAAS=torch.from_numpy(edge_BAAS),
            clean_BA3=torch.from_numpy(clean_BA3),
            noised_BA=torch.from_numpy(noised_BA),
        )

    def _draw_shown(self, keys: MoleculeKeys, num_slots: int) -> npt.NDArray[np.uint8]:
        """Draw what each pair shows, uint8 [B, A, A], bits ``SHOWN_…``."""
        config = self.config
        bits = np.array([*RELATIONS.values(), 0], dtype=np.uint8)
        probabilities = (*config.shown, config.mask_fraction)
        shown_BAA = bits[corrupt.draw_relations(keys, num_slots, probabilities, symmetric=config.symmetric)]
        group_B = corrupt.draw_groups(keys, corrupt.STREAM_VIEW, (config.full_fraction, config.planar_fraction))
        shown_BAA[group_B == 0] = SHOWN_FULL
        shown_BAA[group_B == 1] = SHOWN_PLANAR
        return shown_BAA

    def score(self, model: HeadedModel, sample: Sample) -> dict[str, Tensor]:
        """Return the sum of each term and metric over the micro-batch, fp32 scalars.

        path and edge: cross-entropy (nats), summed over pairs and over hops. distance: summed over pairs in both
        directions, Å for ``l1``. noise: 1 − cosine, summed over atoms.
        """
        assert isinstance(sample, BlendSample)
        representation = model.backbone(sample.input)
        shown_BAA = sample.input.shown_BAA
        assert shown_BAA is not None
        known_BAA = shown_BAA | shown_BAA.transpose(1, 2)
        sums: dict[str, Tensor] = {}
        predicted = model.relation_heads(representation) if self.config.relations else {}
        for name in self.config.relations:
            error_BAA = self._errors(name, predicted[name], sample)
            sums[name] = error_BAA.sum()
            if name in self._sometimes_hidden:
                sums[f"hidden_{name}"] = (error_BAA.detach() * ((known_BAA & RELATIONS[name]) == 0)).sum()
        if self.config.predicts_noise:
            noised_BA3 = sample.input.coordinates_BA3
            seen_BAA = (shown_BAA & SHOWN_DISTANCE) > 0
            shift_BA3 = model.coordinate_head(representation, noised_BA3, seen_BAA) - noised_BA3
            # As in denoising, the head subtracts the noise, so that one head serves both objectives in a mixture.
            sums["noise"] = direction_loss(shift_BA3, sample.clean_BA3 - noised_BA3, sample.noised_BA)
        return sums

    def _errors(self, name: str, predicted_BAAK: Tensor, sample: BlendSample) -> Tensor:
        """Return the loss of one relation for each pair, [B, A, A]; zero where there is nothing to predict."""
        if name == "path":
            return _cross_entropy(predicted_BAAK, sample.path_BAA)
        if name == "edge":
            return _cross_entropy(predicted_BAAK.reshape(*sample.edge_BAAS.shape, -1), sample.edge_BAAS).sum(-1)
        loss = F.l1_loss if self.config.distance_loss == "l1" else F.smooth_l1_loss
        error_BAA = loss(predicted_BAAK.squeeze(-1), pairwise_distances(sample.clean_BA3), reduction="none")
        valid_BA = sample.input.valid_BA
        off_diagonal_AA = ~torch.eye(valid_BA.shape[1], dtype=torch.bool, device=valid_BA.device)
        return error_BAA * (valid_BA[:, :, None] & valid_BA[:, None, :] & off_diagonal_AA)


def _count_pairs(
    shown_BAA: npt.NDArray[np.uint8],
    pairs_BAA: npt.NDArray[np.bool_],
    path_BAA: npt.NDArray[np.int8],
    edge_BAAS: npt.NDArray[np.int8],
) -> dict[str, float]:
    """Return how many items of each relation are predicted, and how many of them no direction of a pair shows."""
    targets_BAA = {
        "path": path_BAA != NO_CLASS,
        "edge": (edge_BAAS != NO_CLASS).sum(axis=3),
        "distance": pairs_BAA,
    }
    known_BAA = shown_BAA | shown_BAA.transpose(0, 2, 1)
    counts = {}
    for name, target_BAA in targets_BAA.items():
        counts[name] = float(target_BAA.sum())
        counts[f"hidden_{name}"] = float((target_BAA * ((known_BAA & RELATIONS[name]) == 0)).sum())
    return counts


def direction_loss(predicted_BA3: Tensor, target_BA3: Tensor, chosen_BA: Tensor) -> Tensor:
    """Return Σ over the chosen atoms of 1 − cosine; predictions shorter than ``DIRECTION_LENGTH`` count less."""
    length_BA = (predicted_BA3.square().sum(-1) + DIRECTION_LENGTH**2).sqrt()
    target_length_BA = target_BA3.square().sum(-1).sqrt().clamp(min=NO_NOISE)
    cosine_BA = (predicted_BA3 * target_BA3).sum(-1) / (length_BA * target_length_BA)
    return ((1.0 - cosine_BA) * chosen_BA).sum()


def _cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the cross-entropy over the last axis (nats), in the shape of ``classes``; zero at ``NO_CLASS``."""
    flat = logits.reshape(-1, logits.shape[-1]).float()
    return F.cross_entropy(flat, classes.flatten().long(), ignore_index=NO_CLASS, reduction="none").view(classes.shape)
