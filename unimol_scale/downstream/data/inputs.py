"""Model inputs of clean molecules: the 2D graph, the 3D conformer, or both.

Shapes: B molecules, A atoms (padded).
"""

import dataclasses

import numpy as np
import torch

from unimol_scale.data.batch import MoleculeBatch
from unimol_scale.downstream.config import Inputs
from unimol_scale.errors import ConfigError, StoreError
from unimol_scale.model.encodings import SHOWN_EDGE, SHOWN_PATH, ModelInput, with_path_bonds
from unimol_scale.model.presets import ModelConfig
from unimol_scale.objectives import base
from unimol_scale.store.schema import ConformerOrigin
from unimol_scale.store.shards import StoreSplit


MOST_CONFORMERS = 255  # of a molecule, as ``conformers.count`` of a build


def resolve_inputs(inputs: Inputs | None, model: ModelConfig) -> Inputs:
    """Return what a model sees: the inputs that were asked for, or if that is None, everything that it can see.

    Raises:
        ConfigError: 3D was asked for, and the model sees no geometry.
    """
    if inputs is None:
        return "2d+3d" if model.geometry else "2d"
    if inputs != "2d" and not model.geometry:
        raise ConfigError(f"inputs {inputs} needs a model that sees distances; this one sees the 2D graph only: say 2d")
    return inputs


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


def clean_input(batch: MoleculeBatch, inputs: Inputs, model: ModelConfig) -> ModelInput:
    """Return molecules without any corruption.

    Args:
        batch: clean molecules.
        inputs: ``2d+3d`` shows everything. ``2d`` shows elements, features, bonds and paths; coordinates are not read.
            ``3d`` shows elements and distances; features, degrees, bonds and paths are hidden as in pretraining.
        model: dimensions of the model.

    Raises:
        ConfigError: 3D was asked for, and the model sees no geometry.
    """
    resolve_inputs(inputs, model)
    B, A = batch.valid_BA.shape
    graph_only = inputs == "2d" and model.geometry
    clean = dataclasses.replace(
        base.clean_input(batch),
        hidden_B=torch.full((B,), inputs == "3d"),
        shown_BAA=torch.from_numpy(np.full((B, A, A), SHOWN_PATH | SHOWN_EDGE, np.uint8)) if graph_only else None,
    )
    return with_path_bonds(clean) if model.edges == "path" else clean
