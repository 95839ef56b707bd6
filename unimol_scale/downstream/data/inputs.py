"""Model inputs of clean molecules: the 2D graph, the 3D conformer, or both, in the same form as in pretraining.

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


MOST_CONFORMERS = 255  # largest number of conformers per molecule, as for ``conformers.count`` of a build


@dataclass(frozen=True, kw_only=True)
class ChosenInputs:
    """The inputs of a model, and their form.

    Attributes:
        inputs: ``2d``, ``3d`` or ``2d+3d``.
        view: form in which molecules are shown to the model.
        seen: the inputs that the model was pretrained on, richest first; None if they are not known.
    """

    inputs: Inputs
    view: InputView
    seen: tuple[Inputs, ...] | None

    @property
    def warning(self) -> str:
        """A warning that the model was not pretrained on these inputs; "" if it was, or if that is not known."""
        return "" if self.seen is None else describe_unseen(self.inputs, self.seen)


def choose_inputs(asked: Inputs | None, model: ModelConfig, seen: InputsSeen | None) -> ChosenInputs:
    """Return the inputs of a model in the form of its pretraining, or in the standard form if that is not known.

    Args:
        asked: the inputs that the user wants; None: the richest inputs that the model was pretrained on, or, if they
            are not known, everything that the model can see.
        model: dimensions of the model.
        seen: the inputs that the model was pretrained on; None if they are not known.

    Raises:
        ConfigError: 3D was requested, but the model sees no geometry.
    """
    if asked not in (None, "2d") and not model.geometry:
        raise ConfigError(f"inputs {asked} needs a model that sees distances; this one sees only the 2D graph: use 2d")
    possible: tuple[Inputs, ...] = RICHEST_FIRST if model.geometry else ("2d",)
    known = () if seen is None else tuple(inputs for inputs in seen.inputs if inputs in possible)
    inputs = asked or (known or possible)[0]
    view = STANDARD_VIEWS[inputs] if seen is None else seen.views.get(inputs, STANDARD_VIEWS[inputs])
    return ChosenInputs(inputs=inputs, view=view, seen=None if seen is None else known)


def describe_unseen(inputs: Inputs, seen: Sequence[Inputs]) -> str:
    """Return a warning that a model was not pretrained on some inputs; "" if it was.

    Args:
        inputs: the inputs of the model.
        seen: the inputs that it was pretrained on, richest first.
    """
    if inputs in seen:
        return ""
    shown = f"only {' and '.join(seen)}" if seen else "only elements"
    advice = f"; inputs {seen[0]} uses only pretrained weights" if seen else ""
    return (
        f"inputs {inputs}: this model was not pretrained on such input, {shown}, so some weights that read it were not "
        f"pretrained{advice}"
    )


def require_conformers(split: StoreSplit) -> None:
    """Check that a store has conformers.

    Raises:
        StoreError: the store has only 2D depictions.
    """
    origins = {name for shard in split.entry.shards for name in shard.origins}
    if origins == {ConformerOrigin.FLAT.name}:
        raise StoreError(
            "the store holds 2D depictions instead of conformers, but the inputs include 3D; set inputs to 2d, or "
            "build a store with conformers (conformers.engine=rdkit)"
        )


def check_conformers(conformers: int, inputs: Inputs) -> None:
    """Check a number of conformers, and that the inputs distinguish several conformers.

    Raises:
        ConfigError: the number is out of range, or there are several but the model sees only the 2D graph.
    """
    if not 1 <= conformers <= MOST_CONFORMERS:
        raise ConfigError(f"conformers must be 1 to {MOST_CONFORMERS}, got {conformers}")
    if conformers > 1 and inputs == "2d":
        raise ConfigError(
            f"conformers {conformers}: the model sees only the 2D graph, which is the same for all conformers of a "
            "molecule; set conformers to 1, or inputs to 2d+3d or 3d"
        )


def clean_input(batch: MoleculeBatch, view: InputView, model: ModelConfig) -> ModelInput:
    """Return the model input of molecules without any corruption.

    Args:
        batch: clean molecules.
        view: form in which they are shown; if it shows no distances, coordinates are not read.
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
