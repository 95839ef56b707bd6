"""Model inputs of clean molecules: the 2D graph, the 3D conformer, or both, shown as pretraining has shown them.

Shapes: B molecules, A atoms (padded).
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from unimol_scale.data import vocabulary as vocab
from unimol_scale.data.batch import MoleculeBatch
from unimol_scale.data.input_views import RICHEST_FIRST, STANDARD_VIEWS, Inputs, InputsSeen, InputView
from unimol_scale.errors import ConfigError, StoreError
from unimol_scale.model.encodings import ModelInput, with_path_bonds
from unimol_scale.model.presets import ModelConfig
from unimol_scale.objectives import base
from unimol_scale.objectives.blend import BONDING_FEATURES, RELATIONS
from unimol_scale.store.schema import ConformerOrigin
from unimol_scale.store.shards import StoreSplit


MOST_CONFORMERS = 255  # of a molecule, as ``conformers.count`` of a build


@dataclass(frozen=True, kw_only=True)
class ChosenInputs:
    """What a model is shown, and how.

    Attributes:
        inputs: ``2d``, ``3d`` or ``2d+3d``.
        view: how molecules are shown to it.
        seen: the inputs that pretraining has shown to it, the richest first; None: that is not known.
    """

    inputs: Inputs
    view: InputView
    seen: tuple[Inputs, ...] | None

    @property
    def warning(self) -> str:
        """A warning that pretraining has not shown it such input; "" if it has, or if that is not known."""
        return "" if self.seen is None else describe_unseen(self.inputs, self.seen)


def choose_inputs(asked: Inputs | None, model: ModelConfig, seen: InputsSeen | None) -> ChosenInputs:
    """Return what a model is shown: as pretraining has shown it, or if that is not known, in the standard way.

    Args:
        asked: the inputs that the user wants; None: the richest that pretraining has shown, or if that is not known,
            everything that the model can see.
        model: dimensions of the model.
        seen: what pretraining has shown to it; None: that is not known.

    Raises:
        ConfigError: 3D was asked for, and the model sees no geometry.
    """
    if asked not in (None, "2d") and not model.geometry:
        raise ConfigError(f"inputs {asked} needs a model that sees distances; this one sees the 2D graph only: say 2d")
    possible: tuple[Inputs, ...] = RICHEST_FIRST if model.geometry else ("2d",)
    known = () if seen is None else tuple(inputs for inputs in seen.inputs if inputs in possible)
    inputs = asked or (known or possible)[0]
    view = STANDARD_VIEWS[inputs] if seen is None else seen.views.get(inputs, STANDARD_VIEWS[inputs])
    return ChosenInputs(inputs=inputs, view=view, seen=None if seen is None else known)


def describe_unseen(inputs: Inputs, seen: Sequence[Inputs]) -> str:
    """Return a warning that pretraining has not shown some input to a model; "" if it has.

    Args:
        inputs: what the model is shown.
        seen: what pretraining has shown to it, the richest first.
    """
    if inputs in seen:
        return ""
    shown = f"only {' and '.join(seen)}" if seen else "only elements"
    advice = f"; inputs {seen[0]} uses what pretraining has taught it" if seen else ""
    return (
        f"inputs {inputs}: pretraining has never shown such input to this model, {shown}, so part of what it reads "
        f"there was not trained by pretraining{advice}"
    )


def require_conformers(split: StoreSplit) -> None:
    """Check that a store has conformers.

    Raises:
        StoreError: it has 2D depictions only.
    """
    origins = {name for shard in split.entry.shards for name in shard.origins}
    if origins == {ConformerOrigin.FLAT.name}:
        raise StoreError(
            "the store holds 2D depictions in place of conformers, and the model shall see 3D; take inputs 2d, or "
            "build a store with conformers (conformers.engine=rdkit)"
        )


def check_conformers(conformers: int, inputs: Inputs) -> None:
    """Check that a model can tell several conformers of a molecule apart.

    Raises:
        ConfigError: there are none, more than a store can hold, or the model sees the 2D graph only.
    """
    if not 1 <= conformers <= MOST_CONFORMERS:
        raise ConfigError(f"conformers must be 1 to {MOST_CONFORMERS}, got {conformers}")
    if conformers > 1 and inputs == "2d":
        raise ConfigError(
            f"conformers {conformers}: the model shall see the 2D graph only, which is the same for all conformers of "
            "a molecule; say conformers 1, or inputs 2d+3d or 3d"
        )


def clean_input(batch: MoleculeBatch, view: InputView, model: ModelConfig) -> ModelInput:
    """Return molecules without any corruption.

    Args:
        batch: clean molecules.
        view: how they are shown; where it shows no distances, coordinates are not read.
        model: dimensions of the model.
    """
    B, A = batch.valid_BA.shape
    features_BA8, degree_BA = batch.atom_features_BA8, batch.degree_BA
    if view.atom_features == "own":
        features_BA8 = features_BA8.copy()
        features_BA8[..., BONDING_FEATURES] = vocab.RAW_HIDDEN
    if not view.degree:
        degree_BA = np.full_like(degree_BA, vocab.RAW_HIDDEN)
    read = set(RELATIONS) if model.geometry else set(RELATIONS) - {"distance"}
    bits = sum(RELATIONS[name] for name in view.pairs)
    clean = dataclasses.replace(
        base.clean_input(batch),
        atom_features_BA8=torch.from_numpy(features_BA8),
        degree_BA=torch.from_numpy(degree_BA),
        hidden_B=torch.full((B,), view.atom_features == "hidden"),
        coordinates_BA3=torch.from_numpy(batch.planar_BA3 if view.geometry == "planar" else batch.coordinates_BA3),
        shown_BAA=None if read <= set(view.pairs) else torch.from_numpy(np.full((B, A, A), bits, np.uint8)),
    )
    return with_path_bonds(clean) if model.edges == "path" else clean
