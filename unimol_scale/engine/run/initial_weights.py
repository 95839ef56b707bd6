"""Loads the initial weights of a run from another model (``--init``).

Only weights are loaded: the optimizer is new, and the run starts at step 0 with its whole schedule, warm-up included.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn

from unimol_scale.checkpoints.weights import identify, load_pretrained
from unimol_scale.common.trees import as_lines, differences, flatten
from unimol_scale.config import to_tree
from unimol_scale.engine.run.run_config import PretrainConfig
from unimol_scale.engine.run.settings_changes import settings_in
from unimol_scale.errors import CheckpointError
from unimol_scale.model.presets import DROPOUTS, ModelConfig

# Settings that do not change which function the weights represent.
_FREE = frozenset(f"model.{name}" for name in (*DROPOUTS, "checkpoint_every"))
# (parameter name, start, stop) → fp32 [stop - start]; None: the model lacks it, and the present weights are kept.
ReadWeights = Callable[[str, int, int], Tensor | None]


def with_init_named(config: PretrainConfig) -> PretrainConfig:
    """Return the configuration with the hash and the absolute path of its initial weights filled in.

    A run that has begun already records the hash, so it can continue when those weights are gone or have changed.

    Raises:
        CheckpointError: the model is missing, has other dimensions, or does not match the given hash.
    """
    if config.init is None:
        return config
    recorded, whole = settings_in(config.output), config.init.absolute()
    if (
        config.init_sha256 is None
        and recorded.get("init") in (str(config.init), str(whole))
        and "init_sha256" in recorded
    ):
        return dataclasses.replace(config, init=Path(str(recorded["init"])), init_sha256=str(recorded["init_sha256"]))
    path = whole if whole.exists() else config.init  # which may be a name on the hub
    model, found, _ = identify(path)
    _check_model(model, config)
    if config.init_sha256 not in (None, found):
        raise CheckpointError(f"init: the weights of {path} have the SHA-256 {found}, not {config.init_sha256}")
    return dataclasses.replace(config, init=path, init_sha256=found)


def initial_weights(config: PretrainConfig, module: nn.Module) -> tuple[ReadWeights, str]:
    """Read the initial weights of a run.

    Args:
        config: configuration with ``init`` and its hash.
        module: the model to train; only the names of its parameters are used.

    Returns:
        A function that returns the elements of a parameter, and a sentence on what was loaded and what stays random.

    Raises:
        CheckpointError: the model is missing, has other dimensions, or has changed since the run was begun.
    """
    assert config.init is not None, "there is nothing to begin with"
    model, found, _ = identify(config.init)
    if found != config.init_sha256:
        raise CheckpointError(
            f"init: the weights of {config.init} have changed since this run was started (SHA-256 is now {found}, then "
            f"{config.init_sha256}); choose another --output"
        )
    _check_model(model, config)
    weights = {
        name: tensor.detach().float().view(-1) for name, tensor in load_pretrained(config.init).named_parameters()
    }

    def read(name: str, start: int, stop: int) -> Tensor | None:
        return weights[name][start:stop] if name in weights else None

    wanted = [name for name, _ in module.named_parameters()]
    drawn, left = _parts([n for n in wanted if n not in weights]), _parts([n for n in weights if n not in wanted])
    return read, (
        f"starts from the weights of {config.init} at step 0, with a new optimizer and the whole schedule, warm-up "
        f"included{f'; initialised at random: {drawn}' if drawn else ''}{f'; not used: {left}' if left else ''}"
    )


def _check_model(found: ModelConfig, config: PretrainConfig) -> None:
    theirs, ours = (flatten({"model": to_tree(model)}) for model in (found, config.model))
    changed = {key: pair for key, pair in differences(theirs, ours).items() if key not in _FREE}
    if changed:
        settings = " ".join(f"{key}={value}" for key, (value, _) in changed.items())
        raise CheckpointError(
            f"the weights of {config.init} belong to a different model than this run's (theirs → this run's):"
            f"{as_lines(changed)}\nUse the matching --size, or give {settings}"
        )


def _parts(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
