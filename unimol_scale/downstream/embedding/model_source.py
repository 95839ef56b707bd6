"""Finds the path from which the weights of a model in memory can be loaded again."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unimol_scale.checkpoints.weights import load_pretrained
from unimol_scale.common.text.argument_names import path_text
from unimol_scale.downstream.config import NO_MODEL
from unimol_scale.downstream.embedding.molecular_model import MolecularModel
from unimol_scale.errors import ConfigError


def source_of(model: Any) -> str | None:  # noqa: ANN401
    """Return the path from which the weights can be loaded; None for random weights.

    Raises:
        ConfigError: the model was not loaded from a path, or its weights differ from those at the path.
    """
    if model is None or (isinstance(model, str) and model.lower() == NO_MODEL):
        return None
    if not isinstance(model, MolecularModel):
        return path_text(model, "model", "a path, None, or what from_pretrained or pretrain returned")
    if model.source is None:
        raise ConfigError("model: it was not loaded from a folder; save it with save_pretrained, and give that folder")
    if _holds(model, model.source, averaged=True):
        return model.source
    save = "save it with unimol_scale.checkpoints.weights.save_pretrained, and give that folder"
    if not model.averaged and _holds(model, model.source, averaged=False):
        raise ConfigError(
            f"model: it was loaded from {model.source} with averaged=False, but fine-tuning uses the averaged weights "
            f"of a checkpoint; give the path to start from those, or, to start from the weights of this model, {save}"
        )
    raise ConfigError(f"model: its weights have changed since they were loaded from {model.source}; {save}")


def _holds(model: MolecularModel, source: str, *, averaged: bool) -> bool:
    """Return whether a model has the same weights as those at a path."""
    there: Mapping[str, Tensor] = load_pretrained(source, averaged=averaged).state_dict()
    here: Mapping[str, Tensor] = model.model.state_dict()
    return all(
        value.dtype == there[name].dtype and torch.equal(value.cpu(), there[name]) for name, value in here.items()
    )
