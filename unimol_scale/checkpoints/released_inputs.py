"""What pretraining showed to a model in the released format: what its file says, else what Uni-Mol2's shows."""

from collections.abc import Mapping
from typing import Any

from unimol_scale.config import Origin, build, to_tree
from unimol_scale.data.input_views import InputsSeen
from unimol_scale.errors import CheckpointError, ConfigError
from unimol_scale.model.presets import ModelConfig
from unimol_scale.objectives.denoise import DenoiseConfig, DenoiseObjective

SEEN_KEY = "seen"  # beside the dimensions of a file that we have written


def seen_by_released(stated: Mapping[str, object], config: ModelConfig) -> InputsSeen | None:
    """Return what pretraining showed; None: whoever wrote the file did not know it.

    Args:
        stated: what the file says beside its tensors.
        config: of its model.

    Raises:
        CheckpointError: it is not to be understood, such as one that a newer version wrote.
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
    """Return what a file has to state so that ``seen_by_released`` returns the same: nothing for Uni-Mol2's."""
    return {} if seen == _seen_by_uni_mol2(config) else {SEEN_KEY: to_tree(seen)}


def _seen_by_uni_mol2(config: ModelConfig) -> InputsSeen:
    return DenoiseObjective(DenoiseConfig()).seen(config)
