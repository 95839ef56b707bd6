"""The model's configuration and its named sizes. Imports no torch, so that planners and fits can read it."""

from dataclasses import dataclass, replace
from typing import Literal

from unimol_scale.errors import ConfigError, nearest

# Fields of a model's configuration that affect only training and not the function of its weights.
DROPOUTS = ("dropout", "attention_dropout", "triangle_dropout", "activation_dropout", "drop_path")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Dimensions and options of the two-track Transformer (Uni-Mol2, arXiv 2406.14969, table of sizes).

    Attributes:
        layers: number of two-track layers.
        atom_width: channels D of the atom representation.
        heads: attention heads H; D must be a multiple of it.
        ffn_width: hidden channels of the atom feed-forward network.
        pair_width: channels P of the pair representation.
        pair_hidden: channels h of the outer product and of the triangle update.
        normalize_by: atom count n of the 1/n scalings in outer product and triangle update: ``molecule`` uses each
            molecule's own, so that nothing depends on padding; ``padded`` uses the batch's, as the released weights
            expect.
        pair_type: what selects the distance map of a pair: the two ``element`` tokens, or the two atoms' ``chirality``
            codes, as the released weights expect.
        dropout: probability of dropout after each residual branch of the atom track and the pair feed-forward network.
        attention_dropout: probability of dropout on attention weights.
        triangle_dropout: probability of dropout on the triangle update, with one draw per row.
        gaussians: number of fixed centres of the distance kernel.
        kernel_max_distance: last centre of the Gaussian distance kernel, Å.
        geometry: whether the model sees distances; a model without geometry has no distance kernel and reads no
            coordinates.
        edges: bond information of a pair of atoms: ``bond``, the bond between the two, as the released weights expect;
            or ``path``, the mean over the bonds along the first five hops of a shortest path, as in MoleBlend (arXiv
            2307.06235), each hop with factors of its own.
        checkpoint_every: recompute activations in the backward pass of every k-th layer; 0 keeps all activations.
        activation_dropout: probability of dropout after the GELU of both tracks' feed-forward networks.
        drop_path: probability that a residual branch of the last layer is left out for a molecule in training. It rises
            linearly from 0 in the first layer, as in MoleBlend's public code, and branches that stay are scaled by 1/(1
            − p).
    """

    layers: int
    atom_width: int
    heads: int
    ffn_width: int
    pair_width: int = 512
    pair_hidden: int = 64
    normalize_by: Literal["molecule", "padded"] = "molecule"
    pair_type: Literal["element", "chirality"] = "element"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    triangle_dropout: float = 0.25
    gaussians: int = 128
    kernel_max_distance: float = 9.0
    geometry: bool = True
    edges: Literal["bond", "path"] = "bond"
    checkpoint_every: int = 0
    activation_dropout: float = 0.0
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        for name in ("layers", "atom_width", "heads", "ffn_width", "pair_width", "pair_hidden"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name} must be at least 1, got {getattr(self, name)}")
        if self.atom_width % self.heads:
            raise ConfigError(f"model.atom_width {self.atom_width} must be a multiple of model.heads {self.heads}")
        for name in DROPOUTS:
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"model.{name} must be in [0, 1), got {getattr(self, name)}")
        if self.gaussians < 2:
            raise ConfigError(f"model.gaussians must be at least 2, got {self.gaussians}")
        if self.kernel_max_distance <= 0:
            raise ConfigError(f"model.kernel_max_distance must be positive (Å), got {self.kernel_max_distance}")
        if self.checkpoint_every < 0:
            raise ConfigError(f"model.checkpoint_every must not be negative, got {self.checkpoint_every}")

    @property
    def has_dropout(self) -> bool:
        """Whether training uses any dropout and so draws random numbers."""
        return any(getattr(self, name) for name in DROPOUTS)

    @property
    def drop_paths(self) -> tuple[float, ...]:
        """Probability of leaving out a residual branch, layer by layer; a single layer has that of the last one."""
        last = self.layers - 1
        return tuple(self.drop_path * (layer / last if last else 1.0) for layer in range(self.layers))


def _published(layers: int, atom_width: int, heads: int) -> ModelConfig:
    return ModelConfig(layers=layers, atom_width=atom_width, heads=heads, ffn_width=atom_width)


def _small(layers: int, atom_width: int, pair_width: int, pair_hidden: int) -> ModelConfig:
    """A size for one CPU: head width 16 as in the published sizes, pair track scaled down, no dropout.

    Small models see every molecule a few times and underfit; dropout would only add noise to their scaling law.
    """
    return ModelConfig(
        layers=layers,
        atom_width=atom_width,
        heads=atom_width // 16,
        ffn_width=atom_width,
        pair_width=pair_width,
        pair_hidden=pair_hidden,
        gaussians=32,
        dropout=0.0,
        attention_dropout=0.0,
        triangle_dropout=0.0,
    )


PRESETS: dict[str, ModelConfig] = {
    "0.03M": _small(2, 16, 12, 4),
    "0.06M": _small(2, 32, 16, 8),
    "0.1M": _small(2, 48, 24, 8),
    "0.2M": _small(3, 64, 32, 8),
    "0.3M": _small(4, 80, 40, 8),
    "0.5M": _small(4, 96, 48, 12),
    "1M": _small(5, 128, 64, 16),
    "2M": _small(6, 176, 80, 16),
    "4M": _small(8, 224, 96, 24),
    "42M": _published(6, 768, 48),
    "84M": _published(12, 768, 48),
    "164M": _published(24, 768, 48),
    "310M": _published(32, 1024, 64),
    "570M": _published(32, 1536, 96),
    "1.1B": _published(64, 1536, 96),
}


def preset(size: str, **changes: object) -> ModelConfig:
    """Return the configuration of a named size, with some fields changed.

    Raises:
        ConfigError: no size has that name.
    """
    if size not in PRESETS:
        raise ConfigError(f"unknown size {size!r}; {nearest(size, PRESETS)}")
    return replace(PRESETS[size], **changes)  # type: ignore[arg-type]
