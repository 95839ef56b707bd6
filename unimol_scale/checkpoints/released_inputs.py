"""The inputs that a model in the released format was pretrained on: as its file states, otherwise those of Uni-Mol2."""

from collections.abc import Mapping
from typing import Any

from unimol_scale.config import Origin, build, to_tree
from unimol_scale.data.input_views import InputsSeen
from unimol_scale.errors import CheckpointError, ConfigError
from unimol_scale.model.presets import ModelConfig
from unimol_scale.objectives.denoise import DenoiseConfig, DenoiseObjective

SEEN_KEY = "seen"  # in files written by this package, beside the dimensions


def seen_by_released(stated: Mapping[str, object], config: ModelConfig) -> InputsSeen | None:
    """Return the inputs that the model was pretrained on; None if the writer of the file did not know them.

    Args:
        stated: what the file states besides its tensors.
        config: the configuration of its model.

    Raises:
        CheckpointError: the statement cannot be interpreted, for example because a newer version wrote it.
    """
    if SEEN_KEY not in stated:
        return _seen_by_uni_mol2(config)
    tree = stated[SEEN_KEY]
    if tree is None:
        return None
    try:
        if not isinstance(tree, Mapping):
            raise ConfigError(f"expected a group of keys, got {tree!r}")
        return build(InputsSeen, tree, Origin(name=f"its key {SEEN_KEY!r}", recorded=True))
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def seen_to_state(seen: InputsSeen | None, config: ModelConfig) -> dict[str, Any]:
    """Return what a file must state so that ``seen_by_released`` returns ``seen``: nothing for those of Uni-Mol2."""
    return {} if seen == _seen_by_uni_mol2(config) else {SEEN_KEY: to_tree(seen)}


def _seen_by_uni_mol2(config: ModelConfig) -> InputsSeen:
    return DenoiseObjective(DenoiseConfig()).seen(config)
